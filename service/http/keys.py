"""API keys: who may call.

Owns which paths stay open. Knows nothing of what they do.
"""

from __future__ import annotations

import hmac
from collections.abc import Collection, Sequence

from starlette.types import ASGIApp, Receive, Scope, Send

from service.errors import Unauthorized


class KeyMiddleware:
    """Lets a request through when it bears one of the keys, or asks for an open path."""

    def __init__(self, app: ASGIApp, keys: Sequence[str], open_paths: Collection[str]) -> None:
        self._app = app
        self._keys = [key.encode("utf-8") for key in keys]
        self._open_paths = frozenset(open_paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises Unauthorized."""
        if scope["type"] == "http" and scope["path"] not in self._open_paths:
            self._check(scope)
        await self._app(scope, receive, send)

    def _check(self, scope: Scope) -> None:
        given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        scheme, _, token = given.partition(b" ")
        if scheme.lower() != b"bearer":
            raise Unauthorized("this service wants an API key: Authorization: Bearer KEY")
        token = token.strip(b" ")
        # Every key is compared, each in constant time: the time taken tells neither how much of a key was right nor
        # which key it was.
        if not sum(hmac.compare_digest(token, key) for key in self._keys):
            raise Unauthorized("the API key is unknown")
