"""The caller's side of a connection: the body that it sends, and its hanging up.

Owns the limits on a body and the watch for a caller who goes away. Knows nothing of what the body says.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.requests import Request
from starlette.types import Receive

from service.errors import TooLarge, UnsupportedMediaType


class CallerGone(Exception):
    """The caller hung up before the answer was ready."""


async def read_json(request: Request, limit: int) -> bytes:
    """The body, as it came.

    Args:
        limit: most bytes that it may have. A body that declares more is not read at all; one that does not declare its
            size is read until it has more.

    Raises:
        UnsupportedMediaType: it is not declared as JSON in UTF-8, or is compressed.
        TooLarge: it is over the limit.
        CallerGone: the caller hung up half-way.
    """
    headers = request.headers
    _check_media_type(headers.get("content-type", ""))
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise UnsupportedMediaType("compressed bodies are not taken: leave out Content-Encoding")
    declared = headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit:
        raise TooLarge(f"the body has {int(declared)} bytes; the limit is {limit}")
    chunks, size = [], 0
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise CallerGone
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > limit:
            raise TooLarge(f"the body has more than {limit} bytes, which is the limit")
        chunks.append(chunk)
        if not message.get("more_body", False):
            return chunks[0] if len(chunks) == 1 else b"".join(chunks)


@asynccontextmanager
async def watched(receive: Receive) -> AsyncIterator[None]:
    """Cancels the block when the caller hangs up. To be entered when the whole body has been read.

    Raises:
        CallerGone: it did.
    """
    task = asyncio.current_task()
    assert task is not None
    gone = False

    async def watch() -> None:
        nonlocal gone
        while (await receive())["type"] != "http.disconnect":
            pass
        gone = True
        task.cancel()

    watcher = asyncio.create_task(watch())
    try:
        yield
    except asyncio.CancelledError:
        if gone and task.uncancel() == 0:
            raise CallerGone from None
        raise
    finally:
        watcher.cancel()


def _check_media_type(content_type: str) -> None:
    media_type, _, parameters = content_type.partition(";")
    media_type = media_type.strip().lower()
    if media_type != "application/json" and not (
        media_type.startswith("application/") and media_type.endswith("+json")
    ):
        raise UnsupportedMediaType("the body must be JSON: send Content-Type: application/json")
    name, _, charset = parameters.strip().partition("=")
    if name.strip().lower() == "charset" and charset.strip().strip('"').lower() not in ("utf-8", "utf8"):
        raise UnsupportedMediaType("the body must be in UTF-8")
