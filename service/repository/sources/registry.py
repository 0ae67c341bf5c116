"""An OCI registry: image and artifact manifests, blobs by their digest, and who may have them.

After the OCI distribution specification 1.1 and the token protocol of Docker's registries
(distribution.github.io/distribution/spec/auth/token).
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import platform
import posixpath
import re
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit
from urllib.request import parse_http_list, parse_keqv_list

from service.repository.manifest import MANIFEST
from service.repository.sources.incoming import Incoming
from service.repository.sources.reference import IMAGE, is_loopback
from service.repository.sources.transfer import MAX_MANIFEST, Opener, Stream, read
from service.repository.sources.web import Refused, Web

MANIFESTS = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
TITLE = "org.opencontainers.image.title"
DOCKER_HUB = ("docker.io", "registry-1.docker.io", "https://index.docker.io/v1/")
"""Its name in references, its host, and its name in Docker's configuration."""
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
HELPER_SECONDS = 10.0


class Registry:
    """A repository of a registry. This machine's registries speak plain http, as for Docker."""

    def __init__(self, web: Web, host: str, repository: str) -> None:
        self._web = web
        self._name = host
        self._repository = repository
        served = DOCKER_HUB[1] if host == DOCKER_HUB[0] else host
        scheme = "http" if is_loopback(urlsplit(f"//{host}").hostname or "") else "https"
        self._url = f"{scheme}://{served}/v2/{repository}"
        self._authorization = ""

    def manifest(self, tag: str, digest: str) -> tuple[dict[str, Any], str]:
        """Get the manifest of an image or an artifact, and its sha256; of an index, that for Linux on this processor.

        Args:
            digest: sha256 of the manifest, or of the index; empty: the tag's.

        Raises:
            ValueError: it is not to be had, or another than the digest says.
            Interrupted: the registry does not answer.
        """
        for _ in range(2):
            manifest, found = self._manifest(f"sha256:{digest}" if digest else tag, digest)
            if "manifests" not in manifest:
                return manifest, found
            digest = _digest(_choose(_dicts(manifest, "manifests")))
        raise ValueError("an index of it names another index")

    def blob(self, layer: Mapping[str, Any]) -> Opener:
        """Get a layer as a file. The digest is checked by what reads it."""
        return self._file(f"blobs/sha256:{_digest(layer)}")

    def _manifest(self, reference: str, digest: str) -> tuple[dict[str, Any], str]:
        content = read(self._file(f"manifests/{reference}", {"Accept": ", ".join(MANIFESTS)}), MAX_MANIFEST)
        found = hashlib.sha256(content).hexdigest()
        if digest and found != digest:
            raise ValueError(f"the manifest {reference} has sha256:{found}")
        try:
            manifest = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"the manifest {reference} is no JSON: {error}") from error
        if not isinstance(manifest, dict) or not ("layers" in manifest or "manifests" in manifest):
            raise ValueError(f"the manifest {reference} has no layers")
        return manifest, found

    def _file(self, path: str, headers: Mapping[str, str] | None = None) -> Opener:
        @contextmanager
        def opener(begin: int) -> Iterator[Stream]:
            with ExitStack() as stack:
                try:
                    stream = stack.enter_context(self._open(path, headers, begin))
                except Refused as refused:
                    if refused.status != 401:
                        raise
                    self._authorization = self._answer_to(refused)
                    stream = stack.enter_context(self._open(path, headers, begin))
                yield stream

        return opener

    def _open(self, path: str, headers: Mapping[str, str] | None, begin: int) -> AbstractContextManager[Stream]:
        authorized = {"Authorization": self._authorization} if self._authorization else {}
        return self._web.file(f"{self._url}/{path}", {**(headers or {}), **authorized})(begin)

    def _answer_to(self, refused: Refused) -> str:
        """Get what to send as `Authorization`: a token from where the challenge says, or user and password."""
        kind, _, rest = refused.challenge.partition(" ")
        user, secret = _credentials(DOCKER_HUB[2] if self._name == DOCKER_HUB[0] else self._name)
        basic = f"Basic {base64.b64encode(f'{user}:{secret}'.encode()).decode()}" if user else ""
        if kind.lower() == "basic" and basic:
            return basic
        said = parse_keqv_list([part for part in parse_http_list(rest) if re.fullmatch(r"\w+=.+", part)])
        if kind.lower() != "bearer" or "realm" not in said:
            raise refused
        asked = {"scope": said.get("scope", f"repository:{self._repository}:pull")}
        if "service" in said:
            asked["service"] = said["service"]
        if secret and not user:
            form = {"grant_type": "refresh_token", "client_id": "bertie", "refresh_token": secret, **asked}
            answer = self._web.json(said["realm"], form=form)
        else:
            headers = {"Authorization": basic} if basic else {}
            separator = "&" if "?" in said["realm"] else "?"
            answer = self._web.json(f"{said['realm']}{separator}{urlencode(asked)}", headers)
        token = (answer.get("token") or answer.get("access_token")) if isinstance(answer, dict) else None
        if not isinstance(token, str):
            raise refused
        return f"Bearer {token}"


def bring(address: str, arriving: Incoming, web: Web) -> Path:
    """Bring the bundle of an image's layers, or of an artifact's files, and get its folder in the cache.

    An image's bundle is in whatever folder (KServe's modelcars have it in /models). An artifact's layer is a file where
    it has a title, as those of oras have.

    Args:
        address: as `IMAGE` has it.

    Raises:
        ValueError, Interrupted, OSError: as `arriving` raises them.
    """
    named = IMAGE.fullmatch(address)
    assert named is not None  # the reference was checked
    registry = Registry(web, named["host"], named["repository"])
    manifest, digest = registry.manifest(named["tag"] or "latest", named["digest"] or "")
    if folder := arriving.of_image(digest):
        return folder
    layers = _dicts(manifest, "layers")
    titled = {str(_dict(layer, "annotations").get(TITLE, "")): layer for layer in layers}
    folders = [posixpath.dirname(title) for title in titled if posixpath.basename(title) == MANIFEST]
    if len(folders) > 1:
        raise ValueError(f"it holds several bundles, in {' and '.join(map(repr, folders))}")
    if not folders:
        tars = [layer for layer in reversed(layers) if "tar" in str(layer.get("mediaType", ""))]
        return arriving.from_layers((registry.blob(layer), _digest(layer)) for layer in tars)

    def place(name: str) -> Opener:
        layer = titled.get(posixpath.join(folders[0], name))
        if layer is None:
            raise ValueError(f"{name} is missing beside the {MANIFEST} in it")
        return registry.blob(layer)

    return arriving.from_folder(place, _digest(titled[posixpath.join(folders[0], MANIFEST)]))


def _dicts(manifest: Mapping[str, Any], field: str) -> list[dict[str, Any]]:
    found = manifest[field]
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise ValueError(f"{field} of its manifest is no list of descriptors")
    return found


def _dict(descriptor: Mapping[str, Any], field: str) -> dict[str, Any]:
    found = descriptor.get(field)
    return found if isinstance(found, dict) else {}


def _digest(descriptor: Mapping[str, Any]) -> str:
    kind, _, digest = str(descriptor.get("digest")).partition(":")
    if kind != "sha256" or len(digest) != 64 or not set(digest) <= set("0123456789abcdef"):
        raise ValueError(f"its manifest names a digest that is no sha256: {str(descriptor.get('digest'))[:80]!r}")
    return digest


def _choose(manifests: list[dict[str, Any]]) -> dict[str, Any]:
    wanted = ("linux", ARCHITECTURES.get(platform.machine(), platform.machine()))
    platforms = [_dict(each, "platform") for each in manifests]
    named = [(str(each.get("os", "")), str(each.get("architecture", ""))) for each in platforms]
    for choice in (wanted, ("", "")):
        if choice in named:
            return manifests[named.index(choice)]
    raise ValueError(f"its index has nothing for {'/'.join(wanted)}: {', '.join(map('/'.join, named))}"[:300])


def _credentials(name: str) -> tuple[str, str]:
    """Get user and password that Docker's configuration has for a registry; a token to be refreshed has no user."""
    folder = os.environ.get("DOCKER_CONFIG") or os.path.expanduser("~/.docker")
    try:
        config = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
        if helper := (config.get("credHelpers") or {}).get(name) or config.get("credsStore"):
            return _ask(helper, name)
        for key, entry in (config.get("auths") or {}).items():
            if name in (key, key.partition("://")[2].partition("/")[0]):
                if entry.get("identitytoken"):
                    return "", entry["identitytoken"]
                user, _, password = base64.b64decode(entry.get("auth", "")).decode().partition(":")
                return user, password
    except (OSError, ValueError, AttributeError, TypeError, LookupError, subprocess.SubprocessError):
        pass  # a repository may be open to all: if it is not, its 401 is told
    return "", ""


def _ask(helper: str, name: str) -> tuple[str, str]:
    """Ask a credential helper (github.com/docker/docker-credential-helpers)."""
    command = [f"docker-credential-{helper}", "get"]
    done = subprocess.run(command, input=name, capture_output=True, text=True, timeout=HELPER_SECONDS, check=True)
    said = json.loads(done.stdout)
    return ("" if said["Username"] == "<token>" else said["Username"]), said["Secret"]
