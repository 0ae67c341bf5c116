"""A light HTTP client on raw sockets: where there is no wrk, and where each answer has to be looked at.

Owns the bytes of a request and of an answer (HTTP/1.1, kept alive, with a Content-Length), and two ways to make load:
`closed` (so many callers, each waits for its answer) and `opened` (so many requests a second, whoever waits).
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from bench.errors import ClientError
from bench.load import Load


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer.

    Attributes:
        status: HTTP's; 0 where the connection was lost.
        body: as it came.
        retry_after: the header's seconds; None where there is none.
        sent, received: on `time.perf_counter`'s clock.
    """

    status: int
    body: bytes
    retry_after: float | None
    sent: float
    received: float

    @property
    def ok(self) -> bool:
        """Whether it is a 2xx."""
        return 200 <= self.status < 300

    @property
    def seconds(self) -> float:
        """From sending to the last byte."""
        return self.received - self.sent

    def json(self) -> Any:
        """The body, decoded."""
        return json.loads(self.body)


def request(url: str, body: bytes | None = None) -> bytes:
    """The bytes of a POST of JSON, or of a GET where there is no body."""
    parts = urlsplit(url)
    head = f"{'GET' if body is None else 'POST'} {parts.path or '/'} HTTP/1.1\r\nHost: {parts.netloc}\r\n"
    if body is None:
        return f"{head}\r\n".encode()
    return f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


class Connection:
    """One connection; one request at a time. It connects, and connects again, when it must."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        assert parts.hostname
        assert parts.port
        self._host, self._port = parts.hostname, parts.port
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def send(self, data: bytes) -> Answer:
        """Sends a request and waits for its answer; the status is 0 when the connection was refused or lost."""
        sent = time.perf_counter()
        try:
            if self._writer is None:
                self._reader, self._writer = await asyncio.open_connection(self._host, self._port, limit=2**24)
            assert self._reader is not None
            self._writer.write(data)
            head = await self._reader.readuntil(b"\r\n\r\n")
            status, headers = _head(head)
            body = await self._reader.readexactly(int(headers.get("content-length", 0)))
        except (OSError, asyncio.IncompleteReadError):
            self.close()
            return Answer(0, b"", None, sent, time.perf_counter())
        if headers.get("connection", "").lower() == "close":
            self.close()
        retry_after = headers.get("retry-after")
        seconds = float(retry_after) if retry_after and retry_after.isdigit() else None
        return Answer(status, body, seconds, sent, time.perf_counter())

    def close(self) -> None:
        """Hangs up."""
        if self._writer is not None:
            self._writer.close()
        self._reader = self._writer = None


async def closed(
    url: str,
    requests: Iterable[bytes],
    *,
    connections: int,
    seconds: float | None = None,
    each: Callable[[Answer], object] | None = None,
) -> list[Answer]:
    """So many callers, each sending its next request when it has its answer, until the time or the requests are over.

    Args:
        each: is given every answer as it comes; they are then not kept, and the list is empty.
    """
    feed = iter(requests)
    until = None if seconds is None else time.perf_counter() + seconds
    answers: list[Answer] = []

    async def caller() -> None:
        with contextlib.closing(Connection(url)) as connection:
            for data in feed:
                answer = await connection.send(data)
                (each or answers.append)(answer)
                if until is not None and time.perf_counter() >= until:
                    return
                if not answer.status:
                    await asyncio.sleep(0.05)  # whoever is refused does not spin

    await asyncio.gather(*(caller() for _ in range(connections)))
    return answers


async def opened(url: str, requests: Iterator[bytes], *, rate: float, seconds: float) -> list[Answer]:
    """So many requests a second, evenly spaced, for so long, whether or not there are answers; then waits for all."""
    idle: list[Connection] = []
    answers: list[Answer] = []

    async def one(data: bytes) -> None:
        connection = idle.pop() if idle else Connection(url)
        answers.append(await connection.send(data))
        idle.append(connection)

    began = time.perf_counter()
    async with asyncio.TaskGroup() as tasks:
        for i in itertools.count():
            due = began + i / rate
            if due >= began + seconds:
                break
            if (wait := due - time.perf_counter()) > 0.001:
                await asyncio.sleep(wait)
            elif i % 16 == 0:
                await asyncio.sleep(0)  # late as it may be, answers are read meanwhile
            if time.perf_counter() >= began + seconds:
                break
            tasks.create_task(one(next(requests)))
    for connection in idle:
        connection.close()
    return answers


def run(url: str, bodies: Sequence[bytes], *, connections: int, seconds: float) -> Load:
    """As `bench.wrk.run`, where there is no wrk: this client takes more of the cores that the server needs."""
    feed = itertools.cycle([request(url, body) for body in bodies])
    began = time.perf_counter()
    answers = asyncio.run(closed(url, feed, connections=connections, seconds=seconds))
    good = [answer.seconds for answer in answers if answer.ok]
    return Load.of(good, errors=len(answers) - len(good), seconds=time.perf_counter() - began)


def post(url: str, bodies: Sequence[bytes]) -> list[Answer]:
    """Posts JSON one after another and returns the answers, in order."""
    return asyncio.run(closed(url, [request(url, body) for body in bodies], connections=1))


def get(url: str) -> Answer:
    """One GET."""
    return asyncio.run(closed(url, [request(url)], connections=1))[0]


def _head(head: bytes) -> tuple[int, dict[str, str]]:
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if "transfer-encoding" in headers:
        raise ClientError("the server answers in chunks, which this client does not read")
    return int(first.split()[1]), headers
