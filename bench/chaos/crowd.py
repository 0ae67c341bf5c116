"""Many clients at once, to be run in a process of their own (`bench.chaos.apart`): they stop by themselves.

Owns floods and slow clients. What they return is small and can be pickled.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from bench import client
from bench.chaos.raw import Address
from bench.client import Answer
from bench.load import percentile


@dataclass(slots=True)
class Flood:
    """What a flood was answered.

    Attributes:
        statuses: how many answers of each status; 0 is a connection that was lost.
        p95: seconds of those with 200.
    """

    statuses: Counter[int] = field(default_factory=Counter)
    p95: float = 0.0


def flood(
    address: Address, requests: Sequence[bytes], connections: int, seconds: float, patience: float = 2.0
) -> Flood:
    """So many connections, each sending its next request as soon as it has an answer, whatever that says.

    Args:
        patience: seconds more for the last answers.
    """
    found, times = Flood(), []

    def note(answer: Answer) -> None:
        found.statuses[answer.status] += 1
        if answer.ok:
            times.append(answer.seconds)

    async def run() -> None:
        url = f"http://{address[0]}:{address[1]}"
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds + patience):
                await client.closed(url, itertools.cycle(requests), connections=connections, seconds=seconds, each=note)

    asyncio.run(run())
    found.p95 = percentile(times, 95)
    return found


@dataclass(slots=True)
class Crowd:
    """What became of one kind of slow client.

    Attributes:
        opened: connections that came about.
        closed: how many of them the service closed.
        last: seconds until the last of those was closed.
        statuses: what they were told before, if anything.
    """

    opened: int = 0
    closed: int = 0
    last: float = 0.0
    statuses: Counter[int] = field(default_factory=Counter)


def slow(
    address: Address, *, heads: int, bodies: int, silent: int, size: int, seconds: float, path: str = "/classify"
) -> dict[str, Crowd]:
    """Heads at a byte a second, bodies that go on so after their first half, and connections that say nothing.

    Args:
        size: of a body.
        seconds: when to give up.
    """
    return asyncio.run(_slow(address, heads, bodies, silent, size, seconds, path))


async def _slow(
    address: Address, heads: int, bodies: int, silent: int, size: int, seconds: float, path: str
) -> dict[str, Crowd]:
    until = time.perf_counter() + seconds
    head = f"POST {path} HTTP/1.1\r\nHost: bertie\r\nX-Slow: {'a' * 4096}"
    whole = f"POST {path} HTTP/1.1\r\nHost: bertie\r\nContent-Type: application/json\r\nContent-Length: {size}\r\n\r\n"
    half = whole.encode() + b'{"text": "' + b"a" * (size // 2)
    kinds: dict[str, tuple[int, bytes, bytes]] = {
        "slow heads": (heads, head[:20].encode(), head[20:].encode()),
        "half bodies": (bodies, half, b"a" * 4096),
        "silent": (silent, b"", b""),
    }
    crowds = {name: Crowd() for name in kinds}
    opening = asyncio.Semaphore(50)

    async def one(crowd: Crowd, first: bytes, rest: bytes) -> None:
        try:
            async with opening, asyncio.timeout(10):
                reader, writer = await asyncio.open_connection(*address)
        except (OSError, TimeoutError):
            return
        crowd.opened += 1
        began = time.perf_counter()
        drip = asyncio.create_task(_drip(writer, first, rest, until))
        try:
            async with asyncio.timeout(max(0.0, until - time.perf_counter())):
                data = b""
                while chunk := await reader.read(65536):
                    data = (data + chunk)[:64]
        except TimeoutError:
            return
        except OSError:
            pass
        finally:
            drip.cancel()
            writer.transport.abort()
        crowd.closed += 1
        crowd.last = max(crowd.last, time.perf_counter() - began)
        status = data.split(b" ", 2)[1] if data.startswith(b"HTTP/") else b"0"
        crowd.statuses[int(status) if status.isdigit() else 0] += 1

    tasks = [
        asyncio.create_task(one(crowds[name], first, rest))
        for name, (count, first, rest) in kinds.items()
        for _ in range(count)
    ]
    await asyncio.gather(*tasks)
    return crowds


async def _drip(writer: asyncio.StreamWriter, first: bytes, rest: bytes, until: float) -> None:
    with contextlib.suppress(OSError):
        writer.write(first)
        for byte in rest:
            await asyncio.sleep(1)
            if time.perf_counter() > until:
                return
            writer.write(bytes((byte,)))
