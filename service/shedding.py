"""Requests that would be refused whatever they hold, refused before anything is done for them.

Owns the place of that check: before routes, body and fields are looked at. A refusal costs the event loop half as much
there, and in a flood of requests refusals are most of its work. Knows nothing of models and queues.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from service.errors import QueueFull
from service.exchange import Exchange


class SheddingMiddleware:
    """Lets a request through unless its route's check refuses it."""

    def __init__(self, app: ASGIApp, checks: Mapping[str, tuple[Route, Callable[[], None]]]) -> None:
        """
        Args:
            checks: of each path that has one, its route, and what raises QueueFull while all would be refused there.
        """
        self._app = app
        self._checks = checks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises QueueFull."""
        if scope["type"] == "http" and scope["method"] == "POST" and (found := self._checks.get(scope["path"])):
            route, check = found
            try:
                check()
            except QueueFull as error:
                scope["route"] = route
                Exchange.of(scope).model = error.model
                raise
        await self._app(scope, receive, send)
