"""The pages for people, the playground at `/` and the API's reference at `/docs`, and their files.

Owns what is served from `web/` and of Swagger UI: the files that were there at start, each at a path of its own, so
that no request can name another. Nothing comes from another host, so the pages work where there is no network. Knows
nothing of what is in them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Coroutine, Iterable
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import PurePath
from typing import Any, TypeAlias

from starlette.requests import Request
from starlette.responses import Response

Handler: TypeAlias = Callable[[Request], Coroutine[Any, Any, Response]]

WEB = files("service") / "web"
SWAGGER = files("fastapi_offline") / "static"
"""Swagger UI, as this package carries it. Its application is of no use here."""
FILES = (*WEB.iterdir(), SWAGGER / "swagger-ui-bundle.js", SWAGGER / "swagger-ui.css")
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


def handlers(files: Iterable[Traversable] = FILES) -> dict[str, Handler]:
    """The handler of each path, one for each of `files` of a known type; `docs.html` is at `/docs`, `index.html` at
    `/`."""
    return {_path(file.name): _handler(file) for file in files if PurePath(file.name).suffix in MEDIA_TYPES}


def _path(name: str) -> str:
    return "/" if name == "index.html" else f"/{name.removesuffix('.html')}"


def _handler(file: Traversable) -> Handler:
    content = file.read_bytes()
    etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    headers = _HEADERS | {"ETag": etag, "Content-Type": MEDIA_TYPES[PurePath(file.name).suffix]}

    async def serve(request: Request) -> Response:
        known = request.headers.get("if-none-match", "").replace("W/", "").split(",")
        if etag in map(str.strip, known):
            return Response(status_code=304, headers=headers)
        return Response(content, headers=headers)

    return serve
