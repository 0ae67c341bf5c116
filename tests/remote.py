"""A web server and an OCI registry on loopback, which fail in the ways that those fail."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import re
import tarfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

TITLE = "org.opencontainers.image.title"
LAYER = "application/vnd.oci.image.layer.v1.tar"
IMAGE = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"


@dataclass(frozen=True)
class Asked:
    """A request that came."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


@dataclass
class Web:
    """What it holds by path, what it was asked for, and how it is to fail.

    Attributes:
        asked: the requests, in their order.
        failing: statuses that a path has left to answer with, and the headers of those answers.
        broken: after how many bytes the connection is cut, each time that is left, by path.
        changes: what a path holds from when its connection is cut.
        moved: where a path redirects to.
        locked: the `Authorization` that a path wants; `challenge` is what it answers to another.
        drip: seconds between the bytes of a path.
        ranges: whether it can begin in the midst of a file.
        etag: whether it tells one version of a file from another.
    """

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    failing: dict[str, list[tuple[int, dict[str, str]]]] = field(default_factory=dict)
    broken: dict[str, list[int]] = field(default_factory=dict)
    changes: dict[str, bytes] = field(default_factory=dict)
    moved: dict[str, str] = field(default_factory=dict)
    locked: dict[str, str] = field(default_factory=dict)
    challenge: str = 'Basic realm="here"'
    drip: dict[str, float] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    ranges: bool = True
    etag: bool = True

    def put(self, path: str, folder: Path) -> str:
        """Serve a folder's files below a path, and return the URL of that."""
        self.files |= {f"{path}/{file.name}": file.read_bytes() for file in folder.iterdir()}
        return f"{self.url}{path}"

    def paths(self) -> list[str]:
        """Return the paths that were asked for."""
        return [asked.path for asked in self.asked]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    web: Web

    def do_GET(self) -> None:
        path, _, _ = self.path.partition("?")
        web = self.web
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        web.asked.append(Asked(self.command, self.path, dict(self.headers.items()), body))
        if web.failing.get(path):
            status, headers = web.failing[path].pop(0)
            return self._say(status, b"", headers)
        if path in web.moved:
            return self._say(302, b"", {"Location": web.moved[path]})
        for locked, wanted in web.locked.items():
            if path.startswith(locked) and self.headers.get("Authorization") != wanted:
                return self._say(401, b"", {"WWW-Authenticate": web.challenge})
        if path not in web.files:
            return self._say(404, b"", {})
        content = web.files[path]
        tag = f'"{hashlib.md5(content).hexdigest()}"'
        headers = web.headers | ({"ETag": tag} if web.etag else {})
        wanted_range = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if web.ranges and wanted_range and self.headers.get("If-Range", tag) == tag:
            begin = int(wanted_range[1])
            headers["Content-Range"] = f"bytes {begin}-{len(content) - 1}/{len(content)}"
            return self._say(206, content[begin:], headers, path)
        return self._say(200, content, headers, path)

    do_POST = do_GET

    def log_message(self, *arguments: object) -> None:
        pass

    def _say(self, status: int, body: bytes, headers: dict[str, str], path: str = "") -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        try:
            if seconds := self.web.drip.get(path):
                for byte in body:
                    self.wfile.write(bytes([byte]))
                    time.sleep(seconds)
            elif self.web.broken.get(path):
                self.wfile.write(body[: self.web.broken[path].pop(0)])
                self.web.files |= {path: self.web.changes[path]} if path in self.web.changes else {}
                self.close_connection = True
            else:
                self.wfile.write(body)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True


@contextmanager
def serving() -> Iterator[Web]:
    """Serve an empty web server on a free port of loopback until the block ends."""
    web = Web()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"web": web}))
    server.daemon_threads = True
    server.block_on_close = False
    web.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield web
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


# ---- a registry -----------------------------------------------------------------------------------------------------


class Registry:
    """Images and artifacts of a web server, as an OCI registry shows them.

    Attributes:
        host: HOST:PORT of references.
    """

    def __init__(self, web: Web, repository: str = "team/qa") -> None:
        self.web = web
        self.host = web.url.removeprefix("http://")
        self.base = f"/v2/{repository}"
        self.name = f"oci://{self.host}/{repository}"

    def blob(self, content: bytes) -> str:
        """Hold a blob, and return its digest."""
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        self.web.files[f"{self.base}/blobs/{digest}"] = content
        return digest

    def manifest(self, fields: dict[str, Any], tag: str = "latest") -> str:
        """Hold a manifest under a tag, and return its digest."""
        content = json.dumps({"schemaVersion": 2, **fields}).encode()
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        for reference in (tag, digest):
            self.web.files[f"{self.base}/manifests/{reference}"] = content
        return digest

    def image(self, *layers: bytes, tag: str = "latest") -> str:
        """Hold an image of layers, the lowest first, and return its digest."""
        described = []
        for layer in layers:
            kind = LAYER + ("+gzip" if layer[:2] == b"\x1f\x8b" else "")
            described.append({"mediaType": kind, "digest": self.blob(layer), "size": len(layer)})
        config = {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": self.blob(b"{}"), "size": 2}
        return self.manifest({"mediaType": IMAGE, "config": config, "layers": described}, tag)

    def artifact(self, files: Mapping[str, bytes], tag: str = "latest") -> str:
        """Hold an artifact of files by their titles, and return its digest."""
        described = [
            {
                "mediaType": "application/octet-stream",
                "digest": self.blob(content),
                "size": len(content),
                "annotations": {TITLE: title},
            }
            for title, content in files.items()
        ]
        config = {"mediaType": "application/vnd.oci.empty.v1+json", "digest": self.blob(b"{}"), "size": 2}
        return self.manifest({"mediaType": IMAGE, "config": config, "layers": described}, tag)

    def lock(self, user: str = "", password: str = "", token: str = "secret-token") -> None:
        """Want a token from now on, as the registry's own service gives it to all, or to the user."""
        self.web.locked[self.base] = f"Bearer {token}"
        self.web.challenge = f'Bearer realm="{self.web.url}/token",service="here",scope="repository:team/qa:pull"'
        self.web.files["/token"] = json.dumps({"token": token}).encode()
        if user:
            self.web.locked["/token"] = basic(user, password)


def basic(user: str, password: str) -> str:
    """Return what says who asks, by password."""
    return f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"


# ---- archives -------------------------------------------------------------------------------------------------------


def tar_of(files: Mapping[str, bytes], *members: tarfile.TarInfo, packed: bool = False) -> bytes:
    """Make a tar of files by their paths, and of members that are none."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for member in members:
            tar.addfile(member)
        for path, content in files.items():
            member = tarfile.TarInfo(path)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return gzip.compress(buffer.getvalue()) if packed else buffer.getvalue()


def files_of(folder: Path, prefix: str = "") -> dict[str, bytes]:
    """Return a folder's files by path, below a prefix."""
    return {f"{prefix}{path.name}": path.read_bytes() for path in sorted(folder.iterdir())}
