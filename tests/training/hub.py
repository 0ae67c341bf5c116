"""A small hub on loopback, which answers what huggingface_hub asks for, and fails in the ways that hubs fail."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

MAIN = "main"


@dataclass
class Repo:
    """A repository: its files at each commit, and the names of commits."""

    commits: dict[str, dict[str, bytes]]
    names: dict[str, str]
    token: str = ""  # that it wants; it is gated with one
    gone: set[str] = field(default_factory=set)  # files that are listed and not there


@dataclass
class Hub:
    """What it holds, what it was asked for, and how it is to fail.

    Attributes:
        asked: method, path and `Range` of each request.
        busy: answers of 429 that are left, of paths with the word; and their Retry-After.
        broken: connections that are cut half-way, of files by name, that are left.
        failing: a status for everything.
    """

    endpoint: str = ""
    repos: dict[str, Repo] = field(default_factory=dict)
    tokens: set[str] = field(default_factory=set)
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    busy: dict[str, int] = field(default_factory=dict)
    retry_after: str = ""
    broken: dict[str, int] = field(default_factory=dict)
    failing: int = 0

    def push(self, name: str, folder: Path, revision: str = MAIN, **more: bytes) -> str:
        """Make a commit of a folder's files and `more`, and return its hash."""
        files = {path.name: path.read_bytes() for path in sorted(folder.iterdir())} | more
        commit = hashlib.sha1(
            name.encode() + b"".join(files.values()) + b"".join(n.encode() for n in files)
        ).hexdigest()
        repo = self.repos.setdefault(name, Repo({}, {}))
        repo.commits[commit] = files
        repo.names[revision] = commit
        return commit

    def fetched(self) -> set[str]:
        """Return the names of files whose content was asked for."""
        return {path.rpartition("/")[2] for method, path, _ in self.asked if method == "GET" and "/resolve/" in path}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, *arguments: object) -> None:
        pass

    def _answer(self) -> None:
        hub, path = self.hub, unquote(urlsplit(self.path).path)
        hub.asked.append((self.command, path, self.headers.get("Range", "")))
        if hub.failing:
            return self._say(hub.failing, b"")
        for word, left in hub.busy.items():
            if word in path and left and self.command == "GET":
                hub.busy[word] -= 1
                return self._say(429, b"", {"Retry-After": hub.retry_after} if hub.retry_after else {})
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token not in hub.tokens:
            return self._say(401, b"", {"X-Error-Message": "Invalid credentials in Authorization header"})
        for pattern, answer in (
            (r"/api/models/(?P<name>.+)/revision/(?P<revision>.+)", self._info),
            (r"/api/models/(?P<name>.+)/tree/(?P<revision>[^/]+)", self._tree),
            (r"/api/models/(?P<name>[^/]+(/[^/]+)?)", self._info),
            (r"/(?P<name>.+)/resolve/(?P<revision>.+)/(?P<file>[^/]+)", self._file),
        ):
            if found := re.fullmatch(pattern, path):
                named = found.groupdict()
                repo = hub.repos.get(named["name"])
                if repo is None and token:
                    return self._say(404, b"", {"X-Error-Code": "RepoNotFound"})
                if repo is None:  # nobody is told which private ones there are
                    return self._say(401, b"", {"X-Error-Message": "Invalid username or password."})
                if repo.token and token != repo.token:
                    return self._say(401 if not token else 403, b"", {"X-Error-Code": "GatedRepo"})
                revision = named.get("revision") or MAIN
                commit = repo.names.get(revision, revision)
                if commit not in repo.commits:
                    return self._say(404, b"", {"X-Error-Code": "RevisionNotFound"})
                return answer(repo, commit, named)
        return self._say(404, b"")

    def _info(self, repo: Repo, commit: str, named: dict[str, str]) -> None:
        siblings = [{"rfilename": name} for name in repo.commits[commit]]
        body = {"_id": "1", "id": named["name"], "sha": commit, "private": False, "tags": [], "siblings": siblings}
        self._say(200, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def _tree(self, repo: Repo, commit: str, named: dict[str, str]) -> None:
        files = repo.commits[commit].items()
        body = [{"type": "file", "path": path, "size": len(text), "oid": _etag(text)} for path, text in files]
        self._say(200, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def _file(self, repo: Repo, commit: str, named: dict[str, str]) -> None:
        name = named["file"]
        content = repo.commits[commit].get(name)
        if content is None or name in repo.gone:
            return self._say(404, b"", {"X-Error-Code": "EntryNotFound"})
        headers = {"ETag": f'"{_etag(content)}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        status, part = 200, content
        if wanted := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            begin, end = int(wanted[1]), min(int(wanted[2] or len(content) - 1), len(content) - 1)
            status, part = 206, content[begin : end + 1]
            headers["Content-Range"] = f"bytes {begin}-{end}/{len(content)}"
        if self.command == "GET" and self.hub.broken.get(name, 0):
            self.hub.broken[name] -= 1
            return self._say(status, part, headers, half=True)
        return self._say(status, part, headers)

    def _say(self, status: int, body: bytes, headers: dict[str, str] | None = None, *, half: bool = False) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) // 2] if half else body)
        if half:
            self.close_connection = True


def _etag(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


@contextmanager
def serving() -> Iterator[Hub]:
    """Serve an empty hub on a free port of loopback until the block ends."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
