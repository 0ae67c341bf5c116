"""The client's side of a connection: the body that it sends, and its leaving.

Owns the limits on a body and the watch for a client that leaves. Knows nothing of what the body says.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from starlette.requests import Request
from starlette.types import Receive

from service.errors import TooLarge, UnsupportedMediaType
from service.scheduler.permits import BYTES_PER_TOKEN, REQUEST_TOKENS, Permit

WATCH_AFTER = 0.01
"""Seconds before the watch begins: most requests have their answer by then, and a watch costs a task."""


class ClientGone(Exception):
    """The client left before the answer was ready."""


def declared_length(headers: Mapping[str, str], limit: int, *, is_json: bool = True) -> int:
    """Get the length that a body declares, 0 where it declares none.

    Args:
        is_json: whether it must be declared as JSON.

    Raises:
        UnsupportedMediaType: it is not declared as JSON in UTF-8, or is compressed.
        TooLarge: it is over the limit.
    """
    if is_json:
        _check_media_type(headers.get("content-type", ""))
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise UnsupportedMediaType("compressed bodies are not taken: leave out Content-Encoding")
    declared = headers.get("content-length", "")
    length = int(declared) if declared.isdigit() else 0
    if length > limit:
        raise TooLarge(f"the body has {length} bytes; the limit is {limit}")
    return length


async def read(request: Request, limit: int, permit: Permit | None = None) -> bytes:
    """Read the body. One whose length is not declared is counted into the permit, where there is one, as it comes.

    Raises:
        TooLarge: it is over the limit.
        QueueFull: it is over what the permit can be given.
        ClientGone: the client left half-way.
    """
    chunks, size, declared = [], 0, "content-length" in request.headers
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > limit:
            raise TooLarge(f"the body has more than {limit} bytes, which is the limit")
        if permit is not None and not declared:
            permit.resize(REQUEST_TOKENS + size // BYTES_PER_TOKEN)
        chunks.append(chunk)
        if not message.get("more_body", False):
            return chunks[0] if len(chunks) == 1 else b"".join(chunks)


class Connected:
    """Cancel the block when the client leaves. To be entered when the whole body has been read.

    Raises:
        ClientGone: it did.
    """

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._gone = False
        self._watcher: asyncio.Task[None] | None = None

    async def __aenter__(self) -> None:
        self._task = asyncio.current_task()
        self._starting = asyncio.get_running_loop().call_later(WATCH_AFTER, self._start)

    async def __aexit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self._starting.cancel()
        if self._watcher is not None:
            self._watcher.cancel()
        if kind is asyncio.CancelledError and self._gone and self._task is not None and self._task.uncancel() == 0:
            raise ClientGone from None

    def _start(self) -> None:
        self._watcher = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._gone = True
        assert self._task is not None
        self._task.cancel()


def _check_media_type(content_type: str) -> None:
    if content_type == "application/json":
        return
    media_type, _, parameters = content_type.partition(";")
    media_type = media_type.strip().lower()
    if media_type != "application/json" and not (
        media_type.startswith("application/") and media_type.endswith("+json")
    ):
        raise UnsupportedMediaType("the body must be JSON: send Content-Type: application/json")
    name, _, charset = parameters.strip().partition("=")
    if name.strip().lower() == "charset" and charset.strip().strip('"').lower() not in ("utf-8", "utf8"):
        raise UnsupportedMediaType("the body must be in UTF-8")
