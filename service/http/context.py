"""One request and its answer: the id that both bear, the clock, and what is noted of them when they are over.

Owns request ids, the access log, the counts of requests, and the turning of errors into answers: every error of a
handler ends here. Nothing that is logged or counted is a caller's text.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import logging
import re
import secrets
import time
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import BertieError, Draining
from service.http import problems
from service.metrics import Metrics

logger = logging.getLogger(__name__)

_KEY = "bertie.exchange"
_SANE_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")
# Unique, and no secret: a random number for the process and a count cost less than randomness for each request.
_PROCESS = secrets.token_hex(8)
_COUNTER = itertools.count()
_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"))
_QUIET = frozenset(("/health/live", "/health/ready", "/metrics"))
"""Routes that machines ask for every few seconds: logged at debug."""
CALLER_GONE = 499
"""Noted as the status when the caller hung up: nobody reads that answer."""


@dataclass(slots=True)
class Exchange:
    """What is known of a request by now.

    Attributes:
        began: when its head came, on `time.perf_counter`'s clock.
        model: name of the model that answers; empty until one is chosen.
        rows: model rows that it made.
        status: of the answer; 0 until it begins.
    """

    request_id: str
    began: float
    model: str = ""
    rows: int = 0
    status: int = 0

    @property
    def seconds(self) -> float:
        """From its beginning to now."""
        return time.perf_counter() - self.began

    @staticmethod
    def of(scope: Scope) -> Exchange:
        """The exchange of a request in the making."""
        exchange: Exchange = scope[_KEY]
        return exchange


class ExchangeMiddleware:
    """The outermost layer of the application."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        # A metric's `labels` takes as long to find its child as the rest of a refusal; of these there are few.
        self._requests = functools.cache(metrics.requests.labels)
        self._duration = functools.cache(metrics.request_duration.labels)
        self._rejected = functools.cache(metrics.rejected.labels)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = scope[_KEY] = Exchange(_request_id(scope), time.perf_counter())

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
                headers = [(b"x-request-id", exchange.request_id.encode("ascii"))]
                if exchange.status >= 400:  # which phases it came through would say little: the whole time does
                    headers.append((b"server-timing", b"total;dur=%.3f" % (exchange.seconds * 1000)))
                message["headers"] = [*message["headers"], *headers]
            await send(message)

        try:
            try:
                await self._app(scope, receive, send_with_id)
            except BertieError as error:
                await self._refuse(error, scope, receive, send_with_id)
            except asyncio.CancelledError:  # by the server, whose time to stop is over
                if not exchange.status:
                    await self._refuse(Draining("the service stopped"), scope, receive, send_with_id)
                raise
            except Exception:
                # The log's formatter leaves the exception's message out: it may quote the caller's text.
                logger.exception("unexpected error", extra={"fields": {"request_id": exchange.request_id}})
                if exchange.status:
                    raise  # half an answer is out: all that is left is to break off the connection
                unexpected = BertieError("an unexpected error; the log has it under this request_id")
                await problems.response(unexpected, exchange.request_id)(scope, receive, send_with_id)
        finally:
            self._note(scope, exchange)

    async def _refuse(self, error: BertieError, scope: Scope, receive: Receive, send: Send) -> None:
        if error.reason and _route(scope) not in _QUIET:
            self._rejected(error.reason).inc()
        await problems.response(error, Exchange.of(scope).request_id)(scope, receive, send)

    def _note(self, scope: Scope, exchange: Exchange) -> None:
        route, seconds = _route(scope), exchange.seconds
        self._requests(route, exchange.model, str(exchange.status)).inc()
        self._duration(route, exchange.model).observe(seconds)
        if exchange.status == CALLER_GONE:
            self._rejected("cancelled").inc()
        level = logging.DEBUG if route in _QUIET else logging.INFO
        if logger.isEnabledFor(level):
            fields = {
                "request_id": exchange.request_id,
                "method": scope["method"] if scope["method"] in _METHODS else "other",
                "route": route,
                "status": exchange.status,
                "model": exchange.model,
                "rows": exchange.rows,
                "duration_ms": round(seconds * 1000, 2),
            }
            logger.log(level, "request", extra={"fields": fields})


def _route(scope: Scope) -> str:
    """The route's template, empty where there is none: the path itself may hold anything."""
    template: str = getattr(scope.get("route"), "path", "")
    return template


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            if _SANE_ID.fullmatch(value):
                caller_id: str = value.decode("ascii")
                return caller_id
            break
    return f"{_PROCESS}{next(_COUNTER):016x}"
