"""Several processes at one port: what they answer, what they hold, and what is lost when one is killed.

    python -m bench.processes                                # about three minutes; wants a quiet machine
    python -m bench.processes --rounds 1 --seconds 2         # a look

The front alone, with an engine that takes no time (`bench.instant`), at each number of processes in turn, rounds one
after another: requests a second, and the processor's time for each. Then the real models: what one process more holds,
and how long it takes until another answers in the place of one that was killed under load. Ends with one JSON object;
exit status 1 where a wanted figure was missed.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import re
import signal
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import uvloop

from bench import client, command, process, rounds, rows, serving, wrk
from bench.errors import BenchError
from bench.load import Load
from bench.process import Server

PSS_BYTES = 60e6
RESTART_SECONDS = 1.0
"""What is wanted: bytes of a process beyond the first at most, and seconds until a killed one is replaced."""
LOOK_SECONDS, GIVE_UP_SECONDS = 0.005, 30.0
PROCESSES = 2
"""Of which one is killed."""
APART_SECONDS = 6.0
"""Of load before each is killed."""
LOST = "bertie_processes_lost_total"
BODIES: Mapping[str, object] = {
    "/classify": {"text": "a wonderful film, and a long one"},
    "/qa": {"question": "Where was Ada Lovelace born?", "context": "Ada Lovelace was born in London in 1815. " * 12},
}
"""What each process is asked before its memory is looked at."""


@dataclass(frozen=True, slots=True)
class Front:
    """What so many processes answered with an engine that takes no time.

    Attributes:
        cpu_seconds: that the service spent meanwhile.
    """

    processes: int
    load: Load
    cpu_seconds: float

    @property
    def rate(self) -> float:
        """Requests a second."""
        return self.load.answered / self.load.seconds

    @property
    def cost(self) -> float:
        """Seconds of a processor for a request."""
        return self.cpu_seconds / max(1, self.load.answered)


@dataclass(frozen=True, slots=True)
class Kill:
    """What came of a process that was killed under load.

    Attributes:
        replaced_seconds: until as many processes served as before.
        refused: connections that were refused.
        lost: requests without an answer.
    """

    replaced_seconds: float
    refused: int
    lost: int
    answered: int
    connections: int


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print. Return the exit status."""
    parser = command.parser("bench.processes", __doc__)
    parser.add_argument("--processes", type=command.counts, default=(1, 2), metavar="N,N", help="1,2")
    parser.add_argument("--rounds", type=int, default=5, help="%(default)s")
    parser.add_argument("--seconds", type=float, default=4.0, help="of a point (%(default)s)")
    parser.add_argument("--connections", type=int, default=32, help="%(default)s")
    parser.add_argument("--kills", type=int, default=5, help="%(default)s")
    parser.add_argument("--models", type=Path, default=Path("models"), help="%(default)s")
    parser.add_argument("--client", choices=("wrk", "python"), default="wrk" if wrk.available() else "python")
    return command.run(parser, program, arguments)


def program(options: Any) -> int:
    """Measure and print. Return 1 where something is not as wanted."""
    fronts = [
        front(options, processes)
        for _ in range(options.rounds)
        for processes in options.processes
    ]  # fmt: skip
    first = options.processes[0]
    for processes in options.processes:
        own = [each for each in fronts if each.processes == processes]
        base = [each for each in fronts if each.processes == first]
        ratio = statistics.median(each.rate / other.rate for each, other in zip(own, base, strict=True))
        rate, cost = (statistics.median(getattr(each, what) for each in own) for what in ("rate", "cost"))
        p99 = statistics.median(each.load.p99 for each in own)
        print(
            f"{processes} processes: {rate:.0f} requests/s, {ratio:.2f} times {first}; {cost * 1e6:.0f} us of a "
            f"processor for each, p99 {p99 * 1000:.1f} ms, errors {sum(each.load.errors for each in own)}"
        )
    held = {processes: memory(options.models, processes) for processes in (1, 2, 3)}
    more = held[3] - held[2]
    print(
        f"held by 1, 2 and 3 processes: {', '.join(f'{held[n] / 1e6:.0f} MB' for n in (1, 2, 3))}; the third "
        f"{more / 1e6:.1f} MB (wanted <= {PSS_BYTES / 1e6:.0f})"
    )
    kills = kill(options)
    slowest = max(each.replaced_seconds for each in kills)
    print(
        f"killed {len(kills)} times under {options.connections} connections: replaced in "
        f"{statistics.median(each.replaced_seconds for each in kills):.3f} s, at most {slowest:.3f} s (wanted < "
        f"{RESTART_SECONDS:g}); refused {sum(each.refused for each in kills)} (wanted 0), lost "
        f"{', '.join(f'{each.lost} of {each.answered + each.lost}' for each in kills)}"
    )
    print(json.dumps({"fronts": [asdict(each) for each in fronts], "pss": held, "kills": [asdict(k) for k in kills]}))
    good = more <= PSS_BYTES and slowest < RESTART_SECONDS
    return 0 if good and all(not each.refused and each.lost <= each.connections for each in kills) else 1


# ---- the front ------------------------------------------------------------------------------------------------------


def front(options: Any, processes: int) -> Front:
    """Load so many processes with an engine that takes no time."""
    load = rounds.load_maker(options.client)
    bodies = [json.dumps({"text": text}).encode() for text in rows.sentences()]
    with _serving("bench.instant", options.models, processes, ("sentiment",)) as (server, url):
        load(f"{url}/classify", bodies, connections=options.connections, seconds=1.0)
        before = server.usage().cpu_seconds
        found = load(f"{url}/classify", bodies, connections=options.connections, seconds=options.seconds)
        return Front(processes, found, server.usage().cpu_seconds - before)


# ---- memory ---------------------------------------------------------------------------------------------------------


def memory(models: Path, processes: int) -> int:
    """Get the bytes that so many processes hold when each has answered: shared ones count once."""
    with _serving("service", models, processes) as (server, url):
        for path, body in BODIES.items():
            client.run(f"{url}{path}", [json.dumps(body).encode()], connections=4 * processes, seconds=2.0)
        time.sleep(1.0)
        return server.pss()


# ---- a process killed -----------------------------------------------------------------------------------------------


def kill(options: Any) -> list[Kill]:
    """Kill a process under load, again and again."""
    ops = f"http://127.0.0.1:{serving.free_port()}"
    with _serving("service", options.models, PROCESSES, BERTIE_OPS_PORT=ops.rpartition(":")[2]) as (server, url):
        return [uvloop.run(_kill(server, url, ops, options.connections)) for _ in range(options.kills)]


async def _kill(server: Server, url: str, ops: str, connections: int) -> Kill:
    bodies = [client.request(f"{url}/classify", json.dumps({"text": text}).encode()) for text in rows.sentences()]
    answers = {True: 0, False: 0}  # by whether there was one
    feed, refused, done = itertools.cycle(bodies), 0, asyncio.Event()

    async def send() -> None:
        with contextlib.closing(client.Connection(url)) as connection:
            while not done.is_set():
                answers[bool((await connection.send(next(feed))).status)] += 1

    async def connect() -> None:
        nonlocal refused
        parts = urlsplit(url)
        while not done.is_set():
            try:
                _, writer = await asyncio.open_connection(parts.hostname, parts.port)
                writer.close()
            except ConnectionRefusedError:
                refused += 1
            await asyncio.sleep(LOOK_SECONDS)

    clients = [asyncio.create_task(each) for each in (connect(), *(send() for _ in range(connections)))]
    await asyncio.sleep(APART_SECONDS)
    before = await _scraped(ops, LOST)
    # Of those with work the oldest: what ends young again and again is replaced later and later.
    victim = min(_busiest(server), key=lambda child: child.create_time())
    began = time.perf_counter()
    os.kill(victim.pid, signal.SIGKILL)
    while await _scraped(ops, LOST) <= before or await _scraped(ops, "bertie_processes") < PROCESSES:
        if time.perf_counter() - began > GIVE_UP_SECONDS:
            raise BenchError(f"the process that was killed was not replaced within {GIVE_UP_SECONDS:g} s")
        await asyncio.sleep(LOOK_SECONDS)
    seconds = time.perf_counter() - began
    await asyncio.sleep(0.5)
    done.set()
    await asyncio.gather(*clients)
    return Kill(seconds, refused, answers[False], answers[True], connections)


def _busiest(server: Server) -> list[psutil.Process]:
    children = psutil.Process(server.pid).children()
    return sorted(children, key=lambda child: child.cpu_times().user)[-PROCESSES:]


async def _scraped(ops: str, name: str) -> float:
    with contextlib.closing(client.Connection(ops)) as connection:
        answer = await connection.send(client.request(f"{ops}/metrics"))
    found = re.search(rf"^{name} (\S+)$", answer.body.decode(), re.MULTILINE)
    return float(found[1]) if found else 0.0


@contextlib.contextmanager
def _serving(
    module: str, models_dir: Path, processes: int, models: tuple[str, ...] = (), **settings: str
) -> Iterator[tuple[Server, str]]:
    url = f"http://127.0.0.1:{serving.free_port()}"
    environment = serving.bertie_environment(url, models_dir, models) | settings
    environment |= {"BERTIE_PROCESSES": str(processes), "BERTIE_LOG_LEVEL": "warning"}
    with serving.running(process.python(module), environment, lambda: client.get(f"{url}/health/ready").ok) as server:
        yield server, url


if __name__ == "__main__":
    sys.exit(main())
