"""HTTP/1.1 on bare sockets, byte for byte: what a polite client library would never send, and what comes back.

Owns the bytes of requests and the reading of answers (1xx skipped, whole by Content-Length, chunks, or the end of the
connection). One client at a time, and it blocks; `bench.chaos.crowd` has the many.
"""

from __future__ import annotations

import contextlib
import json
import select
import socket
import struct
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from bench.load import percentile

Address = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back.

    Attributes:
        status: of the final answer; 0 where the connection was closed without one.
        open: whether neither an answer nor the end of the connection came in time.
        headers: names in lower case.
        seconds: from the first byte sent to the last received.
    """

    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    seconds: float = 0.0
    open: bool = False

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode("utf-8", "replace")

    def json(self) -> Any:
        """The body, decoded; an empty object where it is no JSON object."""
        with contextlib.suppress(ValueError):
            found = json.loads(self.body)
            if isinstance(found, dict):
                return found
        return {}


def request(
    path: str,
    body: bytes | None = None,
    *,
    method: str = "",
    host: str = "bertie",
    headers: Mapping[str, str] | None = None,
) -> bytes:
    """The bytes of a request: a POST of JSON where there is a body, else a GET."""
    fields = {"Host": host} | ({"Content-Type": "application/json"} if body is not None else {}) | dict(headers or {})
    if body is not None:
        fields["Content-Length"] = str(len(body))
    lines = [f"{method or ('GET' if body is None else 'POST')} {path} HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in fields.items()]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + (body or b"")


def dump(value: Any) -> bytes:
    """JSON without spaces."""
    return json.dumps(value, separators=(",", ":")).encode()


class Peer:
    """One connection."""

    def __init__(
        self, address: Address, *, source: str | None = None, timeout: float = 10.0, receive_buffer: int = 0
    ) -> None:
        """
        Args:
            source: our address; any of 127.0.0.0/8.
            receive_buffer: bytes that the kernel takes for us while we do not read; 0: its default.
        """
        self._began = time.perf_counter()
        self._socket = socket.socket()
        self._socket.settimeout(timeout)
        try:
            if receive_buffer:
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            if source:
                self._socket.bind((source, 0))
            self._socket.connect(address)
        except OSError:
            self._socket.close()
            raise
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = b""
        self.ended = False

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self, *, reset: bool = False) -> None:
        """Closes both ways, with a RST where `reset`."""
        if reset:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()

    def send(self, data: bytes) -> None:
        """Sends all of it; ConnectionError where the other side is gone."""
        self._began = time.perf_counter()
        self._socket.sendall(data)

    def half_close(self) -> None:
        """Ends our side of the connection and leaves the other open."""
        self._socket.shutdown(socket.SHUT_WR)

    def pour(self, chunks: Iterable[bytes], *, seconds: float) -> tuple[int, Reply]:
        """Sends until the other side answers or closes, the chunks end, or the time is over. Returns the bytes that
        were taken and what came back: `open` where the other side just went on taking."""
        began, sent = time.perf_counter(), 0
        self._began = began
        self._socket.settimeout(0.25)
        for chunk in chunks:
            rest = memoryview(chunk)
            while rest:
                if time.perf_counter() - began > seconds:
                    return sent, Reply(open=True, seconds=time.perf_counter() - began)
                if select.select([self._socket], [], [], 0)[0]:
                    return sent, self.reply(timeout=1.0)
                try:
                    taken = self._socket.send(rest)
                except TimeoutError:
                    continue
                except OSError:
                    return sent, Reply(seconds=time.perf_counter() - began)
                sent += taken
                rest = rest[taken:]
        return sent, self.reply(timeout=max(0.5, seconds - (time.perf_counter() - began)))

    def reply(self, timeout: float = 10.0) -> Reply:
        """Reads one final answer, or the end of the connection."""
        until = time.perf_counter() + timeout
        status, headers, body = 0, {}, b""
        try:
            while True:
                while b"\r\n\r\n" not in self._buffer:
                    if not self._more(until):
                        return Reply(seconds=self._seconds())
                head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
                first, *lines = head.decode("latin-1").split("\r\n")
                status = int(first.split()[1])
                headers = {n.strip().lower(): v.strip() for n, _, v in (each.partition(":") for each in lines)}
                if status >= 200:
                    break
            if "content-length" in headers:
                length = int(headers["content-length"])
                while len(self._buffer) < length and self._more(until):
                    pass
                body, self._buffer = self._buffer[:length], self._buffer[length:]
            elif "chunked" in headers.get("transfer-encoding", ""):
                while not self._buffer.endswith(b"0\r\n\r\n") and self._more(until):
                    pass
                body, self._buffer = _unchunk(self._buffer), b""
            else:
                while self._more(until):
                    pass
                body, self._buffer = self._buffer, b""
        except TimeoutError:
            return Reply(status, headers, body, self._seconds(), open=not status)
        except (OSError, ValueError, IndexError):
            self.ended = True
        return Reply(status, headers, body, self._seconds())

    def closed_within(self, seconds: float) -> float | None:
        """Seconds until the other side closes; None where it does not in that time. What it sends is thrown away."""
        began = time.perf_counter()
        self._buffer = b""
        try:
            while not self.ended and self._more(began + seconds):
                self._buffer = b""
        except TimeoutError:
            return None
        except OSError:
            pass
        return time.perf_counter() - began

    def _more(self, until: float) -> bool:
        left = until - time.perf_counter()
        if left <= 0:
            raise TimeoutError
        self._socket.settimeout(left)
        data = self._socket.recv(65536)
        self._buffer += data
        self.ended = not data
        return bool(data)

    def _seconds(self) -> float:
        return time.perf_counter() - self._began


def ask(address: Address, data: bytes, *, timeout: float = 10.0, source: str | None = None) -> Reply:
    """Sends bytes on a new connection and reads one answer. A refused connection is a reply of status 0."""
    began = time.perf_counter()
    try:
        with Peer(address, timeout=timeout, source=source) as peer:
            peer.send(data)
            reply = peer.reply(timeout)
    except TimeoutError:
        return Reply(seconds=time.perf_counter() - began, open=True)
    except OSError:
        return Reply(seconds=time.perf_counter() - began)
    return Reply(reply.status, reply.headers, reply.body, time.perf_counter() - began, reply.open)


def get(address: Address, path: str, *, timeout: float = 10.0, headers: Mapping[str, str] | None = None) -> Reply:
    """One GET on a new connection."""
    return ask(address, request(path, headers={"Connection": "close"} | dict(headers or {})), timeout=timeout)


def post(
    address: Address, path: str, value: Any, *, timeout: float = 10.0, headers: Mapping[str, str] | None = None
) -> Reply:
    """Posts JSON on a new connection."""
    body = value if isinstance(value, bytes) else dump(value)
    return ask(address, request(path, body, headers={"Connection": "close"} | dict(headers or {})), timeout=timeout)


class Asked(NamedTuple):
    """Answers to the same request, asked over and over.

    Attributes:
        statuses: of each answer, in order; 0 where none came in time.
        seconds: of each.
    """

    statuses: list[int]
    seconds: list[float]

    @property
    def good(self) -> int:
        """How many were answered with 200."""
        return self.statuses.count(200)

    def at(self, q: float) -> float:
        """A percentile of the seconds, those of what was never answered too."""
        return percentile(self.seconds, q)


class Asker:
    """Asks the same request over and over, from a thread, one at a time, while the block lasts."""

    def __init__(
        self, address: Address, data: bytes, *, every: float = 0.02, fresh: bool = False, timeout: float = 15.0
    ) -> None:
        """
        Args:
            every: seconds between two, or as long as the answer takes.
            fresh: a new connection for each.
        """
        self.asked = Asked([], [])
        self._address, self._data, self._every, self._fresh, self._timeout = address, data, every, fresh, timeout
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Asked:
        self._thread.start()
        return self.asked

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(self._timeout + 5)

    def _run(self) -> None:
        peer: Peer | None = None
        while not self._stop.is_set():
            began, reply = time.perf_counter(), Reply()
            if peer is not None:
                reply = self._ask(peer)
            if peer is None or (not reply.status and not reply.open):
                # None yet, or one that was kept alive and that the service has closed meanwhile: a new one, once.
                if peer is not None:
                    peer.close()
                peer = self._connect()
                reply = self._ask(peer) if peer is not None else Reply()
            seconds = time.perf_counter() - began
            self.asked.statuses.append(reply.status)
            self.asked.seconds.append(seconds)
            if peer is not None and (self._fresh or not reply.status or reply.headers.get("connection") == "close"):
                peer.close()
                peer = None
            self._stop.wait(max(0.0, self._every - seconds))
        if peer is not None:
            peer.close()

    def _connect(self) -> Peer | None:
        try:
            return Peer(self._address, timeout=self._timeout)
        except OSError:
            return None

    def _ask(self, peer: Peer) -> Reply:
        try:
            peer.send(self._data)
            return peer.reply(self._timeout)
        except OSError:
            return Reply()


def asking(address: Address, data: bytes, *, seconds: float, every: float = 0.02, fresh: bool = False) -> Asked:
    """Asks for so long and returns the answers."""
    with Asker(address, data, every=every, fresh=fresh) as asked:
        time.sleep(seconds)
    return asked


def metric(text: str, name: str, **labels: str) -> float | None:
    """The sum of a metric's samples with these labels, of the text of `/metrics`; None where there is none."""
    found = None
    for each in text.splitlines():
        series, _, value = each.rpartition(" ")
        if series.partition("{")[0] == name and all(f'{key}="{wanted}"' in series for key, wanted in labels.items()):
            found = (found or 0.0) + float(value)
    return found


def _unchunk(data: bytes) -> bytes:
    whole = b""
    while data:
        size, _, data = data.partition(b"\r\n")
        length = int(size.split(b";")[0] or b"0", 16)
        if not length:
            break
        whole, data = whole + data[:length], data[length + 2 :]
    return whole
