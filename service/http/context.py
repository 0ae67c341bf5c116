"""The request context: a request's id, clock and deadline, and what is noted of it when it is over.

Owns request ids, deadlines, the access log, the counts of requests, and the turning of errors into answers: every error
of a handler ends here. Nothing that is logged or counted is a client's text.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import logging
import re
import secrets
import time
from collections.abc import Hashable
from dataclasses import dataclass, field

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import BertieError, DeadlineExceeded, Draining
from service.http import problems
from service.http.body import ClientGone
from service.metrics import Metrics

logger = logging.getLogger(__name__)

BEGAN = "bertie.began"
"""Where a scope holds the time of the request's first byte, if the server noted it."""
_KEY = "bertie.context"
_SANE_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")
# Unique, and no secret: a random number for the process and a count cost less than randomness for each request.
_PROCESS = secrets.token_hex(8)
_COUNTER = itertools.count()
_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"))
_QUIET = frozenset(("/health/live", "/health/ready", "/metrics"))
"""Routes that machines ask for every few seconds: logged at debug."""
CLIENT_GONE = 499
"""Noted as the status when the client left: nobody reads that answer."""


@dataclass(slots=True)
class Context:
    """What is known of a request by now.

    Attributes:
        began: when its first byte came, on `time.perf_counter`'s clock.
        client: who sent it, for fair shares: the number of its key, or its address.
        model: name of the model that answers; empty until one is chosen.
        rows: model rows that it made.
        status: of the answer; 0 until it begins.
    """

    request_id: str
    began: float
    client: Hashable = None
    model: str = ""
    rows: int = 0
    status: int = 0

    @property
    def seconds(self) -> float:
        """Time from its beginning to now."""
        return time.perf_counter() - self.began

    @staticmethod
    def of(scope: Scope) -> Context:
        """Get the context of a request in the making."""
        context: Context = scope[_KEY]
        return context


@dataclass(slots=True)
class InFlight:
    """The requests in flight, as their deadlines.

    Attributes:
        stopped: the time for what was admitted is over.
    """

    deadlines: set[asyncio.Timeout] = field(default_factory=set)
    stopped: bool = False

    def stop(self) -> None:
        """End every request now, with a 503."""
        self.stopped = True
        for deadline in self.deadlines:
            with contextlib.suppress(RuntimeError):  # it is over already, and its answer on the way
                deadline.reschedule(0)


class ContextMiddleware:
    """The outermost layer of the application."""

    def __init__(self, app: ASGIApp, metrics: Metrics, seconds: float, in_flight: InFlight) -> None:
        """
        Args:
            seconds: a request may take, from its first byte to its answer's last.
        """
        self._app = app
        self._seconds = seconds
        self._in_flight = in_flight
        # A metric's `labels` takes as long to find its child as the rest of a refusal; of these there are few.
        self._requests = functools.cache(metrics.requests.labels)
        self._duration = functools.cache(metrics.request_duration.labels)
        self._rejected = functools.cache(metrics.rejected.labels)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        client = scope.get("client")
        context = Context(_request_id(scope), scope.get(BEGAN) or time.perf_counter(), client[0] if client else None)
        scope[_KEY] = context

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                context.status = message["status"]
                headers = [(b"x-request-id", context.request_id.encode("ascii"))]
                if context.status >= 400:  # which phases it came through would say little: the whole time does
                    headers.append((b"server-timing", b"total;dur=%.3f" % (context.seconds * 1000)))
                message["headers"] = [*message["headers"], *headers]
            await send(message)

        deadline = asyncio.timeout(self._seconds - context.seconds)
        self._in_flight.deadlines.add(deadline)
        try:
            async with deadline:
                await self._app(scope, receive, send_with_id)
        except ClientGone:
            context.status = CLIENT_GONE
        except Exception as error:
            await self._refuse(self._told(error, deadline, context), scope, receive, send_with_id)
        finally:
            self._in_flight.deadlines.discard(deadline)
            self._note(scope, context)

    def _told(self, error: Exception, deadline: asyncio.Timeout, context: Context) -> BertieError:
        """Turn what a handler raised into what the client is told."""
        if isinstance(error, BertieError):
            return error
        if isinstance(error, TimeoutError) and deadline.expired():
            if self._in_flight.stopped:
                return Draining("the service stopped before this request was answered")
            return DeadlineExceeded(f"the request took longer than the {self._seconds:g} seconds that it may take")
        # The log's formatter leaves the exception's message out: it may quote the client's text.
        logger.error("unexpected error", exc_info=error, extra={"fields": {"request_id": context.request_id}})
        return BertieError("an unexpected error; the log has it under this request_id")

    async def _refuse(self, error: BertieError, scope: Scope, receive: Receive, send: Send) -> None:
        context = Context.of(scope)
        if context.status:
            raise error  # half an answer is out: all that is left is to break off the connection
        if error.reason and _route(scope) not in _QUIET:
            self._rejected(error.reason).inc()
        await problems.response(error, context.request_id)(scope, receive, send)

    def _note(self, scope: Scope, context: Context) -> None:
        route, seconds = _route(scope), context.seconds
        self._requests(route, context.model, str(context.status)).inc()
        self._duration(route, context.model).observe(seconds)
        if context.status == CLIENT_GONE:
            self._rejected("cancelled").inc()
        level = logging.DEBUG if route in _QUIET else logging.INFO
        if logger.isEnabledFor(level):
            fields = {
                "request_id": context.request_id,
                "method": scope["method"] if scope["method"] in _METHODS else "other",
                "route": route,
                "status": context.status,
                "model": context.model,
                "rows": context.rows,
                "duration_ms": round(seconds * 1000, 2),
            }
            logger.log(level, "request", extra={"fields": fields})


def _route(scope: Scope) -> str:
    """Get the route's template, empty where there is none: the path itself may hold anything."""
    template: str = getattr(scope.get("route"), "path", "")
    return template


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            if _SANE_ID.fullmatch(value):
                client_id: str = value.decode("ascii")
                return client_id
            break
    return f"{_PROCESS}{next(_COUNTER):016x}"
