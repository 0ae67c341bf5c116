"""One connection of the server, without a socket: its transport only records, its application waits or answers."""

import asyncio
from typing import Any

import uvicorn
from uvicorn.server import ServerState

from service.http.protocol import HeadLimits, Protocol, limited

LIMITS = HeadLimits(bytes=2048, lines=10, seconds=10.0)
GET = b"GET /a HTTP/1.1\r\nHost: b\r\n\r\n"
POST = b"POST /a HTTP/1.1\r\nHost: b\r\nContent-Length: 5\r\n\r\n"
CHUNKED = b"POST /a HTTP/1.1\r\nHost: b\r\nTransfer-Encoding: chunked\r\n\r\n"


class Transport:
    """Records what is done to it. `peer_state` is the state of the TCP connection."""

    def __init__(self) -> None:
        self.written = b""
        self.ended = self.closed = self.aborted = self.paused = False
        self.peer_state = 8  # half-closed

    def write(self, data: bytes) -> None:
        assert not self.ended
        self.written += data

    def write_eof(self) -> None:
        self.ended = True

    def can_write_eof(self) -> bool:
        return True

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = self.aborted = True

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def get_extra_info(self, name: str) -> Any:
        return self if name == "socket" else None

    def getsockopt(self, *_: Any) -> bytes:
        return bytes([self.peer_state])

    def getsockname(self) -> tuple[str, int]:
        return ("127.0.0.1", 1)

    getpeername = getsockname
    family = 2


class Connection:
    """A connection to an application that answers each request when it is allowed to.

    Attributes:
        scopes, bodies: of the requests that the application got; `gone`: how many clients left.
        go: it answers while this is set.
        reads: whether it reads bodies.
    """

    def __init__(self, limits: HeadLimits = LIMITS) -> None:
        self.scopes: list[Any] = []
        self.bodies: list[bytes] = []
        self.gone = 0
        self.go = asyncio.Event()
        self.go.set()
        self.reads = True
        self.loop = asyncio.get_running_loop()
        config = uvicorn.Config(
            self._app, interface="asgi3", http=limited(limits), lifespan="off", ws="none", log_config=None
        )
        self.state = ServerState()
        self.protocol: Protocol = limited(limits)(config, self.state, {}, self.loop)
        self.transport = Transport()
        self.protocol.connection_made(self.transport)  # type: ignore[arg-type]

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        self.scopes.append(scope)
        body, more = b"", self.reads
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.gone += 1
                return
            body, more = body + message["body"], message["more_body"]
        self.bodies.append(body)
        await self.go.wait()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    async def send(self, *pieces: bytes) -> bytes:
        """Send pieces. Returns all that was answered so far."""
        for piece in pieces:
            self.protocol.data_received(piece)
            await self.settle()
        return self.transport.written

    async def settle(self) -> None:
        for _ in range(10):
            await asyncio.sleep(0)

    def expire(self, seconds: float) -> None:
        """What happens when so much time has passed."""
        self.protocol.expire(self.loop.time() + seconds)

    @property
    def answers(self) -> int:
        return self.transport.written.count(b"HTTP/1.1 200 OK")
