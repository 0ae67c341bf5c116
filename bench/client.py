"""A light HTTP client on bare sockets: where there is no wrk, and where each answer has to be looked at.

Owns the bytes of a request and of an answer (HTTP/1.1, kept alive, with a Content-Length), and two ways to make load:
`closed` (so many clients, each waits for its answer) and `opened` (so many requests a second, whoever waits).
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import uvloop

from bench.errors import ClientError
from bench.load import Load

NO_HEADERS: Mapping[str, str] = {}


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer.

    Attributes:
        status: HTTP's; 0 where the connection was lost.
        body: as it came.
        retry_after: the header's seconds; None where there is none.
        sent, received: on `time.perf_counter`'s clock.
        version: of the model that gave it; empty where the server does not say.
    """

    status: int
    body: bytes
    retry_after: float | None
    sent: float
    received: float
    version: str = ""

    @property
    def ok(self) -> bool:
        """Whether it is a 2xx."""
        return 200 <= self.status < 300

    @property
    def seconds(self) -> float:
        """From sending to the last byte."""
        return self.received - self.sent

    def json(self) -> Any:
        """Decode the body."""
        return json.loads(self.body)


def request(url: str, body: bytes | None = None, key: str = "") -> bytes:
    """Get the bytes of a POST of JSON, or of a GET where there is no body; with a bearer token where there is one."""
    parts = urlsplit(url)
    head = f"{'GET' if body is None else 'POST'} {parts.path or '/'} HTTP/1.1\r\nHost: {parts.netloc}\r\n"
    if key:
        head += f"Authorization: Bearer {key}\r\n"
    if body is None:
        return f"{head}\r\n".encode()
    return f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


class Connection(asyncio.Protocol):
    """One connection; one request at a time. It connects, and connects again, when it must."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        assert parts.hostname
        assert parts.port
        self._host, self._port = parts.hostname, parts.port
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        self._waiter: asyncio.Future[Answer] | None = None
        self._sent = 0.0

    async def send(self, data: bytes) -> Answer:
        """Send a request and wait for its answer; the status is 0 when the connection was refused or lost."""
        loop = asyncio.get_running_loop()
        self._sent = time.perf_counter()
        if self._transport is None:
            try:
                await loop.create_connection(lambda: self, self._host, self._port)
            except OSError:
                return self._answer(0)
        assert self._transport is not None
        self._received.clear()
        self._waiter = loop.create_future()
        self._transport.write(data)
        return await self._waiter

    def close(self) -> None:
        """Hang up."""
        if self._transport is not None:
            self._transport.close()
        self._transport = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        self._received += data
        end = self._received.find(b"\r\n\r\n")
        if end < 0 or self._waiter is None or self._waiter.done():
            return
        status, headers = _head(self._received[:end])
        if "transfer-encoding" in headers:
            self._waiter.set_exception(ClientError("the server answers in chunks, which this client does not read"))
            return self.close()
        body = self._received[end + 4 :]
        if len(body) < int(headers.get("content-length", 0)):
            return
        if headers.get("connection", "").lower() == "close":
            self.close()
        self._waiter.set_result(self._answer(status, bytes(body), headers))

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(self._answer(0))

    def _answer(self, status: int, body: bytes = b"", headers: Mapping[str, str] = NO_HEADERS) -> Answer:
        after, version = headers.get("retry-after", ""), headers.get("x-model-version", "")
        return Answer(status, body, float(after) if after.isdigit() else None, self._sent, time.perf_counter(), version)


async def closed(
    url: str,
    requests: Iterable[bytes],
    *,
    connections: int,
    seconds: float | None = None,
    each: Callable[[Answer], object] | None = None,
) -> list[Answer]:
    """Make load by so many clients, each sending its next request when it has its answer, until the time or the
    requests are over.

    Args:
        each: is given every answer as it comes; they are then not kept, and the list is empty.
    """
    feed = iter(requests)
    until = None if seconds is None else time.perf_counter() + seconds
    answers: list[Answer] = []

    async def send_in_turn() -> None:
        with contextlib.closing(Connection(url)) as connection:
            for data in feed:
                answer = await connection.send(data)
                (each or answers.append)(answer)
                if until is not None and time.perf_counter() >= until:
                    return
                if not answer.status:
                    await asyncio.sleep(0.05)  # who is refused does not spin

    await asyncio.gather(*(send_in_turn() for _ in range(connections)))
    return answers


async def opened(
    url: str, requests: Iterator[bytes], *, rate: float, seconds: float, connections: int = 0
) -> list[Answer]:
    """Send so many requests a second, evenly spaced, for so long, whether or not there are answers; then wait for all.

    Args:
        connections: most of them; while each waits for its answer nothing is sent. 0 for as many as it takes.
    """
    idle: list[Connection] = []
    answers: list[Answer] = []
    free = asyncio.Semaphore(connections or 2**30)

    async def one(data: bytes) -> None:
        connection = idle.pop() if idle else Connection(url)
        answers.append(await connection.send(data))
        idle.append(connection)
        free.release()

    began = time.perf_counter()
    until, sent = began + seconds, 0
    async with asyncio.TaskGroup() as tasks:
        while (due := began + sent / rate) < until and time.perf_counter() < until:
            if (wait := due - time.perf_counter()) > 0.001:
                await asyncio.sleep(wait)
            elif sent % 16 == 0:
                await asyncio.sleep(0)  # late as it may be, answers are read meanwhile
            if free.locked():
                if not await _acquired(free, until):
                    break
                began, sent = time.perf_counter(), 0  # what could not be sent is not sent later
            else:
                await free.acquire()
            tasks.create_task(one(next(requests)))
            sent += 1
    for connection in idle:
        connection.close()
    return answers


async def _acquired(free: asyncio.Semaphore, until: float) -> bool:
    try:
        async with asyncio.timeout(until - time.perf_counter()):
            return await free.acquire()
    except TimeoutError:
        return False


def run(url: str, bodies: Sequence[bytes], *, connections: int, seconds: float) -> Load:
    """Do as `bench.wrk.run` where there is no wrk: this client takes more of the cores that the server needs."""
    feed = itertools.cycle([request(url, body) for body in bodies])
    began = time.perf_counter()
    answers = uvloop.run(closed(url, feed, connections=connections, seconds=seconds))
    good = [answer.seconds for answer in answers if answer.ok]
    return Load.of(good, errors=len(answers) - len(good), seconds=time.perf_counter() - began)


def post(url: str, bodies: Sequence[bytes]) -> list[Answer]:
    """Post JSON one after another and get the answers, in order."""
    return asyncio.run(closed(url, [request(url, body) for body in bodies], connections=1))


def get(url: str) -> Answer:
    """Send one GET."""
    return asyncio.run(closed(url, [request(url)], connections=1))[0]


def _head(head: bytes | bytearray) -> tuple[int, dict[str, str]]:
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return int(first.split()[1]), headers
