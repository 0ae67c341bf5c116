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
import os
import re
import secrets
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import BertieError, DeadlineExceeded, Draining
from service.http import problems
from service.http.body import ClientGone
from service.keys.keyring import Key
from service.metrics import Metrics
from service.serving import Model, Predictions

if TYPE_CHECKING:  # it imports OpenTelemetry
    from service.traces import Trace, Traces

logger = logging.getLogger(__name__)

BEGAN = "bertie.began"
"""Where a scope holds the time of the request's first byte, if the server noted it."""
PERMIT = "bertie.permit"
"""Where a scope holds the request's permit, which is released when the request is over."""
KEY = "bertie.key"
"""Where a scope holds the key that the request bears."""
WAIT = "bertie.wait"
"""Where a scope holds the seconds that its refusal waits."""
REFUSE = "bertie.refuse"
"""Where a scope holds what writes its errors, if not as problem documents."""
_CONTEXT = "bertie.context"
_SANE_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")
# Unique, and no secret: a random number for the process and a count cost less than randomness for each request.
_process = secrets.token_hex(8)
_COUNTER = itertools.count()
_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"))
_QUIET = frozenset(("/health/live", "/health/ready", "/metrics"))
"""Routes that machines ask for every few seconds, beside the open endpoints: logged at debug."""
REFUSALS_EVERY = 0.1
"""Seconds between two lines about requests that got 429; each tells how many there were."""
CLIENT_GONE = 499
"""Noted as the status when the client left: nobody reads that answer."""


def _renew() -> None:
    """Number requests anew after a fork: no two processes may give the same ids."""
    global _process
    _process = secrets.token_hex(8)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)


@dataclass(slots=True)
class Context:
    """What is known of a request by now.

    Attributes:
        began: when its first byte came, on `time.perf_counter`'s clock.
        model: name of the model that answers, of several the first; empty until one is chosen.
        versions: of the models that answer.
        predictions: what was predicted for it.
        status: of the answer; 0 until it begins.
        trace: its trace, while traces are on.
    """

    request_id: str
    began: float
    model: str = ""
    versions: list[str] = field(default_factory=list)
    predictions: list[Predictions] = field(default_factory=list)
    status: int = 0
    trace: Trace | None = None

    @property
    def rows(self) -> int:
        """Model rows that it made."""
        return sum(each.rows for each in self.predictions)

    @property
    def tokens(self) -> int:
        """Tokens of these rows."""
        return sum(each.tokens for each in self.predictions)

    @property
    def seconds(self) -> float:
        """Time from its beginning to now."""
        return time.perf_counter() - self.began

    def chose(self, model: Model) -> None:
        """Note a model that answers."""
        self.model = self.model or model.name
        self.versions.append(model.version)

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Get the headers that every answer bears."""
        headers = [(b"x-request-id", self.request_id.encode("ascii"))]
        if self.versions:
            headers.append((b"x-model-version", ", ".join(self.versions).encode("ascii")))
        if self.status >= 400:  # which phases it came through would say little: the whole time does
            headers.append((b"server-timing", b"total;dur=%.3f" % (self.seconds * 1000)))
        return headers

    @staticmethod
    def of(scope: Scope) -> Context:
        """Get the context of a request in the making."""
        context: Context = scope[_CONTEXT]
        return context


class Recorder:
    """What is noted of requests: the access log, the counts, the traces.

    Attributes:
        traces: None while they are off.
    """

    def __init__(self, metrics: Metrics) -> None:
        # A metric's `labels` takes as long to find its child as the rest of a refusal; of these there are few.
        self._requests = functools.cache(metrics.requests.labels)
        self._duration = functools.cache(metrics.request_duration.labels)
        self._rejected = functools.cache(metrics.rejected.labels)
        self._key_requests = functools.cache(metrics.key_requests.labels)
        self._key_tokens = functools.cache(metrics.key_tokens.labels)
        self._key_rejected = functools.cache(metrics.key_rejected.labels)
        self.traces: Traces | None = None
        self._refusal_logged = 0.0
        self._refusals = 0  # not logged

    def reject(self, scope: Scope, error: BertieError) -> None:
        """Count a request that is refused."""
        if error.reason:
            self._reject(scope, error.reason)

    def trace(self, scope: Scope, context: Context) -> Trace | None:
        """Begin the trace of a request, where traces are on."""
        return None if self.traces is None else self.traces.begin(scope["headers"], context.began)

    def note(self, scope: Scope, context: Context, route: str) -> None:
        """Note a request that is over, at the template of its route."""
        quiet = _is_probe(scope)
        seconds, trace = context.seconds, None if quiet else context.trace
        self._requests(route, context.model, str(context.status)).inc()
        exemplar = {"trace_id": trace.id} if trace is not None and trace.sampled else None
        self._duration(route, context.model).observe(seconds, exemplar)
        if context.status == CLIENT_GONE:
            self._reject(scope, "cancelled")
        key: Key | None = scope.get(KEY)
        if key is not None:
            self._key_requests(key.name, str(context.status)).inc()
            self._key_tokens(key.name).inc(context.tokens)
        level = logging.DEBUG if quiet else logging.INFO
        told = logger.isEnabledFor(level)
        if not (told or self.traces) or (context.status == 429 and self._refused_lately()):
            return
        if trace is None and not quiet:  # the gate refused it
            trace = self.trace(scope, context)
        fields: dict[str, str | int | float] = {
            "request_id": context.request_id,
            "method": scope["method"] if scope["method"] in _METHODS else "other",
            "route": route,
            "status": context.status,
            "model": context.model,
            "version": ",".join(context.versions),
            "rows": context.rows,
            "duration_ms": round(seconds * 1000, 2),
        }
        if key is not None:
            fields["key"] = key.name
        if context.status == 429:
            fields["refused"], self._refusals = self._refusals, 0
        if trace is not None:
            trace.end(fields, context.predictions)
            fields["trace_id"] = trace.id
        if told:
            logger.log(level, "request", extra={"fields": fields})

    def _reject(self, scope: Scope, reason: str) -> None:
        self._rejected(reason).inc()
        if KEY in scope:
            self._key_rejected(scope[KEY].name, reason).inc()

    def _refused_lately(self) -> bool:
        """Whether a refusal was logged just now: of a flood a line each would be a flood of its own."""
        now = time.perf_counter()
        self._refusals += 1
        if now - self._refusal_logged < REFUSALS_EVERY:
            return True
        self._refusal_logged = now
        return False


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

    def __init__(self, app: ASGIApp, recorder: Recorder, seconds: float, in_flight: InFlight) -> None:
        """
        Args:
            seconds: a request may take, from its first byte to its answer's last.
        """
        self._app = app
        self._recorder = recorder
        self._seconds = seconds
        self._in_flight = in_flight

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        context = scope[_CONTEXT] = Context(request_id(scope), scope.get(BEGAN) or time.perf_counter())
        context.trace = self._recorder.trace(scope, context)

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                context.status = message["status"]
                message["headers"] = [*message["headers"], *context.headers()]
            await send(message)

        deadline = asyncio.timeout(self._seconds - context.seconds)
        self._in_flight.deadlines.add(deadline)
        try:
            async with deadline:
                await self._app(scope, receive, send_with_id)
        except ClientGone:
            context.status = CLIENT_GONE
        except asyncio.CancelledError:  # a gRPC call that its client gave up
            context.status = CLIENT_GONE
            raise
        except Exception as error:
            await self._refuse(self._told(error, deadline, context), scope, receive, send_with_id)
        finally:
            self._in_flight.deadlines.discard(deadline)
            if PERMIT in scope:
                scope[PERMIT].release()
            self._recorder.note(scope, context, route(scope))

    def _told(self, error: Exception, deadline: asyncio.Timeout, context: Context) -> BertieError:
        """Turn what a handler raised into what the client is told."""
        if isinstance(error, BertieError):
            return error
        if isinstance(error, TimeoutError) and deadline.expired():
            if self._in_flight.stopped:
                return Draining("the service stopped before this request was answered")
            return DeadlineExceeded(f"the request took longer than the {self._seconds:g} seconds that it may take")
        # The log's formatter leaves the exception's message out: it may quote the client's text.
        fields = {"request_id": context.request_id} | ({"trace_id": context.trace.id} if context.trace else {})
        logger.error("unexpected error", exc_info=error, extra={"fields": fields})
        return BertieError("an unexpected error; the log has it under this request_id")

    async def _refuse(self, error: BertieError, scope: Scope, receive: Receive, send: Send) -> None:
        context = Context.of(scope)
        if context.status:
            raise error  # half an answer is out: all that is left is to break off the connection
        if not _is_probe(scope):
            self._recorder.reject(scope, error)
        write: problems.Refuse = scope.get(REFUSE, problems.write)
        await write(error, context.request_id).response()(scope, receive, send)


def _is_probe(scope: Scope) -> bool:
    return route(scope) in _QUIET or getattr(scope.get("route"), "open", False)


def route(scope: Scope) -> str:
    """Get the route's template, empty where there is none: the path itself may hold anything."""
    template: str = getattr(scope.get("route"), "path", "")
    return template


def request_id(scope: Scope) -> str:
    """Get the id that a request bears, where it is sane, or make one."""
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            if _SANE_ID.fullmatch(value):
                client_id: str = value.decode("ascii")
                return client_id
            break
    return f"{_process}{next(_COUNTER):016x}"
