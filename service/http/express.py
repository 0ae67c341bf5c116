"""The paths that are asked thousands of times a second, answered past the framework's layers.

Owns the way from a request to its handler there: first whether all would be refused, before the body is read or
anything is looked at; then the handler itself. Routing, exit stacks and exception handlers of the framework take a
twelfth of what a request costs the event loop, and do nothing for these (docs/lab.md). Knows nothing of models and
queues.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from service.errors import QueueFull
from service.http.body import CallerGone
from service.http.context import CALLER_GONE, Exchange


@dataclass(frozen=True, slots=True)
class Express:
    """A path's way.

    Attributes:
        route: what metrics and the access log tell of it.
        handler: answers its requests.
        check: raises QueueFull while all of them would be refused.
    """

    route: Route
    handler: Callable[[Request], Awaitable[Response]]
    check: Callable[[], None]


class ExpressMiddleware:
    """Answers POST to its paths, and lets everything else through. Errors are told by the layers around it."""

    def __init__(self, app: ASGIApp, paths: Mapping[str, Express]) -> None:
        self._app = app
        self._paths = paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises what handlers raise."""
        path = self._paths.get(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        if path is None:
            await self._app(scope, receive, send)
            return
        scope["route"] = path.route
        try:
            path.check()
        except QueueFull as error:
            Exchange.of(scope).model = error.model
            raise
        try:
            response = await path.handler(Request(scope, receive, send))
        except CallerGone:
            response = Response(status_code=CALLER_GONE)  # nobody reads it
        await response(scope, receive, send)
