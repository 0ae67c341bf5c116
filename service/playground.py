"""The page for people at `/`, and its files.

Owns what is served from `web/`: the files that were there at start, each at a path of its own, so that no request can
name another. Knows nothing of what is in them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeAlias

from starlette.requests import Request
from starlette.responses import Response

Handler: TypeAlias = Callable[[Request], Coroutine[Any, Any, Response]]

FOLDER = Path(__file__).with_name("web")
MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".woff2": "font/woff2",
}
_HEADERS = {
    "Cache-Control": "no-cache",  # ask every time; the ETag makes the answer small
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def handlers(folder: Path = FOLDER) -> dict[str, Handler]:
    """The handler of each path, one for each file of a known type in `folder`; `index.html` is at `/`."""
    return {
        "/" if path.name == "index.html" else f"/{path.name}": _handler(path)
        for path in sorted(folder.glob("*"))
        if path.suffix in MEDIA_TYPES
    }


def _handler(path: Path) -> Handler:
    content = path.read_bytes()
    etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    headers = _HEADERS | {"ETag": etag, "Content-Type": MEDIA_TYPES[path.suffix]}

    async def serve(request: Request) -> Response:
        known = request.headers.get("if-none-match", "").replace("W/", "").split(",")
        if etag in map(str.strip, known):
            return Response(status_code=304, headers=headers)
        return Response(content, headers=headers)

    return serve
