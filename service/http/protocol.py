"""The server's side of a connection, with limits: uvicorn's protocol on httptools, which has none of a head.

Owns the bounds on a request's head (bytes, lines, time), on a body that nobody reads any more, and what a half-closed
connection and an offer to change the protocol mean. Knows nothing of what is asked.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from service.http.context import BEGAN, WAIT

LINGER_SECONDS = 2.0
"""How long to throw away what a client goes on to send after its answer: a connection that is closed before is reset,
and the answer lost with it."""
FLUSH_SECONDS = 30.0
"""How long an answer may take to be sent when the connection is to be closed after it."""
MOST_PIPELINED = 1024
"""Requests of a connection that wait for the answers of earlier ones: 3 KB each, of 30 bytes sent."""
MOST_REFUSED = 16
"""Requests that are refused in one iteration of the event loop, of all connections together; more of them wait for the
next one. Or each of a flood's connections would have its refusal before anybody else's request gets on."""
_TCP_CLOSE = 7  # <netinet/tcp.h>
_OFFERS = (b"upgrade", b"connection", b"http2-settings")


@dataclass(frozen=True, slots=True)
class HeadLimits:
    """Bounds on a request's head."""

    bytes: int
    lines: int
    seconds: float


class Pacer:
    """Work of which so much is done in an iteration of the event loop, and the rest in the next ones, in order."""

    def __init__(self, most: int) -> None:
        self._most = self._left = most
        self._waiting: deque[Callable[[], None]] = deque()

    def take(self, loop: asyncio.AbstractEventLoop, work: Callable[[], None]) -> None:
        """Do the work now, or in a later iteration."""
        if self._left == self._most:
            loop.call_soon(self._next, loop)
        self._waiting.append(work)
        self._go_on()

    def _next(self, loop: asyncio.AbstractEventLoop) -> None:
        self._left = self._most
        if self._waiting:
            loop.call_soon(self._next, loop)
            self._go_on()

    def _go_on(self) -> None:
        while self._left and self._waiting:
            self._left -= 1
            self._waiting.popleft()()


class Protocol(HttpToolsProtocol):
    """One connection. Make a class with limits of its own by `limited`."""

    limits: HeadLimits
    refusal: Callable[[Any, bool], bytes | None]
    """What is answered to a request that is refused at once, by its scope and whether its connection goes on."""
    pacer: Pacer
    """In which that is answered."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._refusal = (400, "this is no HTTP/1.1 request")  # what is told where the parser stops
        self._ended_at = 0.0  # what comes after that is thrown away
        self._closing_since = 0.0
        self._refused_at = 0.0  # a request whose body is still to come
        self._waiting_since: float | None = None  # for a head to be complete
        self._in_head = False
        self._in_body = False
        self._pending = 0  # bytes read since a part of a message was complete: of a head, of what frames a body
        self._size = self._lines = self._hosts = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a head."""
        super().connection_made(transport)
        self._waiting_since = self.loop.time()

    def connection_lost(self, exc: Exception | None) -> None:
        """Let the request at work know; its answer has nowhere to go."""
        super().connection_lost(exc)
        if self.cycle is not None:
            self.cycle.transport = self.transport  # no circle of references is left

    def data_received(self, data: bytes) -> None:
        """Parse what came, within the limits."""
        if self._ended_at or self.parser is None:
            return
        self._unset_keepalive_if_required()
        if self._waiting_since is None and not self._in_body:
            self._waiting_since = self.loop.time()
        self._pending += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._ignore_offer(data[upgrade.args[0] :])
        except httptools.HttpParserError:
            self._refuse(*self._refusal)
        if self._pending > self.limits.bytes and not self._ended_at:
            self._refuse(431, f"the head has more than {self.limits.bytes} bytes, which is the limit")

    def eof_received(self) -> bool | None:  # type: ignore[override]
        """Answer a client that has shut its sending side, as long as it can still read.

        The end of what a client sends says nothing of whether it listens. A client that has gone answers whatever is
        sent to it with a reset: so an interim answer is sent, which others skip (RFC 9110, section 15.2).
        """
        cycle = self.cycle
        if self._ended_at or cycle is None or cycle.response_complete or cycle.more_body:
            return None
        cycle.keep_alive = False
        if self.pipeline:  # an interim answer would come into the midst of an earlier one
            return True
        if not cycle.response_started and cycle.scope["http_version"] == "1.1":
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.loop.call_later(0.02, self._abort_if_gone, 0.02)
        return True

    def _abort_if_gone(self, seconds: float) -> None:
        if self.transport.is_closing() or self.cycle.response_complete:
            return
        connection = cast(socket.socket | None, self.transport.get_extra_info("socket"))
        if connection is not None and hasattr(socket, "TCP_INFO"):
            if connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _TCP_CLOSE:
                self.transport.abort()
            else:
                self.loop.call_later(seconds, self._abort_if_gone, min(2 * seconds, 1.0))

    def expire(self, now: float) -> None:
        """Close the connection if it has kept the server waiting for too long. Call it about once a second.

        Args:
            now: the event loop's time.
        """
        if self._waiting_since is not None and now - self._waiting_since > self.limits.seconds:
            if self._in_head:
                self._refuse(408, f"the head was not complete within {self.limits.seconds:g} seconds")
            elif not self._answering:
                self.transport.close()
        if self.transport.is_closing():  # what it still has to send, nobody may ever read
            self._closing_since = self._closing_since or now
            if now - self._closing_since > FLUSH_SECONDS:
                self.transport.abort()
        if self._refused_at and now - self._refused_at > LINGER_SECONDS:
            self._refused_at = 0.0
            self._end()
        if self._ended_at and now - self._ended_at > LINGER_SECONDS and not self._answering:
            self.transport.abort()

    def shutdown(self) -> None:
        """Close the connection as soon as it has its answer."""
        super().shutdown()
        if not self._answering:
            self.transport.close()

    def end(self, cycle: RequestResponseCycle) -> None:
        """Close the connection after its last answer; where more of the request comes, as `_end` does.

        An answer that broke off half-way is of no use to anybody, and may be so because nobody reads.
        """
        self.pipeline.clear()
        self.cycle.disconnected = True
        if not cycle.response_complete:
            self.transport.abort()
        elif self._in_body and self.transport.can_write_eof():
            self._end()
        else:
            self.transport.close()

    @property
    def _answering(self) -> bool:
        """Whether a request of the connection has its answer yet to come."""
        return self.cycle is not None and not self.cycle.response_complete and not self.cycle.disconnected

    # ---- the parser's callbacks ----

    def on_message_begin(self) -> None:
        super().on_message_begin()
        cast(dict[str, Any], self.scope)[BEGAN] = time.perf_counter()
        self._in_head = True
        if self._waiting_since is None:
            self._waiting_since = self.loop.time()
        self._size, self._lines, self._hosts = 0, 1, 0

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._measure(len(url), 0)  # a URL may come in pieces

    def on_header(self, name: bytes, value: bytes) -> None:
        self._measure(len(name) + len(value) + 4, 1)
        if self._in_body:  # after a body: what comes there must not pass for a header (RFC 9110, section 6.5.1)
            return
        super().on_header(name, value)
        self._hosts += self.headers[-1][0] == b"host"

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._waiting_since, self._pending = None, 0
        version = self.parser.get_http_version()
        if version not in ("1.0", "1.1"):
            self._stop(f"HTTP/{version} is not spoken here")
        if self._hosts > 1 or (version == "1.1" and not self._hosts):
            self._stop(f"a request has one Host header, not {self._hosts or 'none'}")
        if self.parser.should_upgrade():
            if self.parser.get_method() == b"CONNECT":
                self._stop("this is no proxy")
            return  # the request begins again without its offer, see `_ignore_offer`
        if len(self.pipeline) >= MOST_PIPELINED:
            self._stop("too many requests wait for the answers of earlier ones on this connection")
        self._in_body = True
        super().on_headers_complete()
        self.cycle.transport = cast(asyncio.Transport, _AnswerTransport(self, self.cycle))
        self.cycle.send_500_response = partial(_give_up, self.transport)  # type: ignore[method-assign]

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        refusal = self.refusal(cycle.scope, cycle.keep_alive)
        if refusal is None:
            super()._start_asgi_task(cycle, app)
            return
        answer = partial(self._answer_refused, cycle, refusal)
        if wait := cast(dict[str, Any], cycle.scope).get(WAIT, 0.0):
            self.flow.pause_reading()
            self.loop.call_later(wait, self.pacer.take, self.loop, answer)
        else:
            self.pacer.take(self.loop, answer)

    def _answer_refused(self, cycle: RequestResponseCycle, refusal: bytes) -> None:
        cycle.on_response = _nothing  # no circle of references is left
        if cycle.disconnected or self.transport.is_closing():  # while it waited for its turn
            return
        cycle.response_started = cycle.response_complete = True
        cycle.body = bytearray()
        self.transport.write(refusal)
        self.flow.resume_reading()
        if self._in_body and cycle is self.cycle:  # its body is on its way, and is thrown away
            self._refused_at = self.loop.time()
        else:
            self._refused(cycle)

    def _refused(self, cycle: RequestResponseCycle) -> None:
        self._refused_at = 0.0
        if not cycle.keep_alive:
            self.end(cycle)
        self.on_response_complete()

    def on_body(self, body: bytes) -> None:
        self._pending = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_body, self._pending = False, 0
        if self._refused_at:
            self._refused(self.cycle)
        elif not self.parser.should_upgrade():
            super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._in_body and self.cycle.response_complete:  # an answer before its request's body was complete
            self._end()

    def _measure(self, size: int, lines: int) -> None:
        self._size += size
        self._lines += lines
        if self._size > self.limits.bytes:
            self._stop(f"the head has more than {self.limits.bytes} bytes, which is the limit", 431)
        if self._lines > self.limits.lines:
            self._stop(f"the head has more than {self.limits.lines} lines, which is the limit", 431)

    def _stop(self, reason: str, status: int = 400) -> None:
        """Make the parser stop: what a callback raises becomes its error."""
        self._refusal = (status, reason)
        raise ValueError(reason)

    def _ignore_offer(self, rest: bytes) -> None:
        """Go on as if the client had not offered to change the protocol (RFC 9110, section 7.8), as Java's client and
        curl --http2 do with a first request: its body would be lost otherwise."""
        method, version = self.parser.get_method(), self.parser.get_http_version().encode()
        lines = [b"%b: %b" % header for header in self.headers if header[0] not in _OFFERS]
        if any(b"close" in value.lower() for name, value in self.headers if name == b"connection"):
            lines.append(b"connection: close")
        head = b"\r\n".join([b"%b %b HTTP/%b" % (method, self.url, version), *lines, b"", b""])
        self.parser = httptools.HttpRequestParser(self)
        self.data_received(head + rest)

    def _refuse(self, status: int, reason: str) -> None:
        """Answer what is no request, or the one whose body breaks off."""
        cycle = self.cycle
        if self._answering and cycle.more_body and not cycle.response_started and not self.pipeline:
            cycle.disconnected = True  # its body broke off: this is its answer
            cycle.message_event.set()
        if self._answering:  # an earlier request of the connection has its answer yet to come; this one gets none
            self._ended_at, self._waiting_since = self.loop.time(), None
            cycle.keep_alive = False
            return
        body = reason.encode()
        head = b"content-type: text/plain; charset=utf-8\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
        if not self._refused_at:  # that has its answer
            self.transport.write(STATUS_LINE[status] + head % len(body) + body)
        self._end()

    def _end(self) -> None:
        """Say no more, and throw away what else comes until the client closes, or lingers too long."""
        self._ended_at, self._waiting_since = self.loop.time(), None
        if self.transport.can_write_eof() and not self.transport.is_closing():
            self.transport.write_eof()


async def _give_up(transport: asyncio.Transport) -> None:
    """Break off a connection in place of uvicorn's own last word, which would wait for ever: it is sent where the
    application has failed before its answer began, and that is where nothing can be written (`context`)."""
    transport.abort()


def _nothing() -> None:
    pass


class _AnswerTransport:
    """What an answer is written to: the connection, which ends as the protocol says."""

    __slots__ = ("close", "is_closing", "write")

    def __init__(self, protocol: Protocol, cycle: RequestResponseCycle) -> None:
        self.write, self.is_closing = protocol.transport.write, protocol.transport.is_closing
        self.close = partial(protocol.end, cycle)


def limited(limits: HeadLimits, refusal: Callable[[Any, bool], bytes | None] | None = None) -> type[Protocol]:
    """Get the protocol with these limits, for uvicorn's `http` setting."""
    refuses = staticmethod(refusal or (lambda scope, keep_alive: None))
    return type("LimitedProtocol", (Protocol,), {"limits": limits, "refusal": refuses, "pacer": Pacer(MOST_REFUSED)})
