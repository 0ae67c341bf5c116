"""Files of a Hugging Face hub: `hf://ORG/REPO[@REVISION][/PATH]`, as plain URLs (`ENDPOINT/ORG/REPO/resolve/...`).

A bundle names its own files, so nothing need be listed, and the hub's client library has nothing to add.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

from service.repository.sources.transfer import Place
from service.repository.sources.web import Web

ADDRESS = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>refs/(pr|convert)/[^/]+|[^/]+))?(/(?P<path>.*))?")
COMMIT = re.compile(r"[0-9a-f]{40}")


def folder(address: str, web: Web) -> Place:
    """Get the files of a repository, or of a folder of it, all of one commit.

    `HF_ENDPOINT`, `HF_TOKEN`, `HF_TOKEN_PATH` and `HF_HOME` mean what they mean to huggingface_hub.

    Raises:
        ValueError: the address names none, or it is not to be had.
        Interrupted: the hub does not answer.
    """
    found = ADDRESS.fullmatch(address)
    if not found:
        raise ValueError("a repository of a hub is hf://ORG/REPO, hf://ORG/REPO@REVISION or hf://ORG/REPO/PATH")
    endpoint = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    headers = {"Authorization": f"Bearer {token}"} if (token := _token(os.environ)) else {}
    repo, revision, path = found["repo"], found["revision"] or "main", (found["path"] or "").strip("/")
    if not COMMIT.fullmatch(revision):
        url = f"{endpoint.rstrip('/')}/api/models/{repo}/revision/{quote(revision, safe='')}"
        said = web.json(url, headers)
        revision = said.get("sha", "") if isinstance(said, dict) else ""
        if not COMMIT.fullmatch(revision):
            raise ValueError(f"{url} names no commit")
    return web.folder(f"{endpoint.rstrip('/')}/{repo}/resolve/{revision}/{quote(path)}".rstrip("/"), headers)


def _token(environment: Mapping[str, str]) -> str:
    if token := environment.get("HF_TOKEN", "").strip():
        return token
    home = environment.get("HF_HOME") or os.path.expanduser("~/.cache/huggingface")
    try:
        return Path(environment.get("HF_TOKEN_PATH") or Path(home) / "token").read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return ""
