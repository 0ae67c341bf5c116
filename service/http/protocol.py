"""The server's side of a connection, with limits: uvicorn's protocol on httptools, which has none of a head.

Owns the bounds on a request's head (bytes, lines, time), on a body that nobody reads any more, and what a half-closed
connection and an offer to change the protocol mean. Knows nothing of what is asked.
"""

from __future__ import annotations

import asyncio
import socket
import time
from dataclasses import dataclass
from typing import Any, cast

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from service.http.context import BEGAN

LINGER_SECONDS = 2.0
"""How long to throw away what a client goes on to send after its answer: a connection that is closed before is reset,
and the answer lost with it."""
_TCP_CLOSE = 7  # <netinet/tcp.h>
_OFFERS = (b"upgrade", b"connection", b"http2-settings")


@dataclass(frozen=True, slots=True)
class HeadLimits:
    """Bounds on a request's head."""

    bytes: int
    lines: int
    seconds: float


class Protocol(HttpToolsProtocol):
    """One connection. Make a class with limits of its own by `limited`."""

    limits: HeadLimits

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._refusal = (400, "this is no HTTP/1.1 request")  # what is told where the parser stops
        self._ended_at = 0.0  # what comes after that is thrown away
        self._waiting_since: float | None = None  # for a head to be complete
        self._in_head = False
        self._in_body = False
        self._pending = 0  # bytes read of a head that is not complete
        self._size = self._lines = self._hosts = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a head."""
        super().connection_made(transport)
        self._waiting_since = self.loop.time()

    def data_received(self, data: bytes) -> None:
        """Parse what came, within the limits."""
        self._unset_keepalive_if_required()
        if self._ended_at or self.parser is None:
            return
        if self._waiting_since is None and not self._in_body:
            self._waiting_since = self.loop.time()
        whole = self._in_head
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._ignore_offer(data[upgrade.args[0] :])
        except httptools.HttpParserError:
            self._refuse(*self._refusal)
        if self._in_head and not self._ended_at:
            self._pending += len(data) if whole else 0
            if self._pending > self.limits.bytes:
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
            else:
                self.transport.close()
        if self._ended_at and now - self._ended_at > LINGER_SECONDS:
            self.transport.abort()

    # ---- the parser's callbacks ----

    def on_message_begin(self) -> None:
        super().on_message_begin()
        cast(dict[str, Any], self.scope)[BEGAN] = time.perf_counter()
        self._in_head = True
        if self._waiting_since is None:
            self._waiting_since = self.loop.time()
        self._size = self._lines = self._hosts = 0

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._measure(len(url), 1)

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        self._hosts += self.headers[-1][0] == b"host"
        self._measure(len(name) + len(value), 1)

    def on_headers_complete(self) -> None:
        self._in_head, self._in_body = False, True
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
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._in_body = False
        if not self.parser.should_upgrade():
            super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._in_body:  # an answer before the body was complete
            self._end()

    def _measure(self, size: int, lines: int) -> None:
        self._size += size + 4
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
        """Answer what is no request."""
        if self.cycle is None or self.cycle.response_complete:
            body = reason.encode()
            head = b"content-type: text/plain; charset=utf-8\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
            self.transport.write(STATUS_LINE[status] + head % len(body) + body)
            self._end()
        else:  # an earlier request of the connection has its answer yet to come; this one gets none
            self._ended_at = self.loop.time()
            self.cycle.keep_alive = False

    def _end(self) -> None:
        """Say no more, and throw away what else comes until the client closes, or lingers too long."""
        self._ended_at = self.loop.time()
        self._waiting_since = None
        if self.transport.can_write_eof() and not self.transport.is_closing():
            self.transport.write_eof()


def limited(limits: HeadLimits) -> type[Protocol]:
    """Get the protocol with these limits, for uvicorn's `http` setting."""
    return type("LimitedProtocol", (Protocol,), {"limits": limits})
