"""Bundles from elsewhere into the cache: `fetch` one by its reference, `resolve` those of the settings.

A bundle is what its manifest's sha256 says, since that holds the sha256 of every other file. So a reference that ends
in `#sha256=HEX`, or an image's in `@sha256:HEX`, can only ever bring the same. One without is taken as it is, and the
log says how to pin it.
"""

from __future__ import annotations

import errno
import logging
from contextlib import closing
from pathlib import Path

from service.errors import BundleError
from service.repository.sources import reference as references
from service.repository.sources import stores
from service.repository.sources.cache import Cache
from service.repository.sources.incoming import Incoming
from service.repository.sources.reference import Reference
from service.repository.sources.transfer import Download, Interrupted
from service.settings import Settings

logger = logging.getLogger(__name__)

MAX_BYTES = 20_000_000_000
IDLE_SECONDS = 30.0


def split(models: tuple[str, ...]) -> tuple[tuple[str, ...], dict[str, str]]:
    """Tell the bundles of `BERTIE_MODELS` apart: names in the folder, and references by name (`NAME=REFERENCE`).

    Raises:
        BundleError: two have one name.
    """
    names, found = [], {}
    for entry in models:
        name, _, reference = entry.partition("=")
        if "://" not in reference:  # a name has no slash
            names.append(entry)
        elif name in found:
            raise BundleError(f"BERTIE_MODELS names two bundles {name!r}")
        else:
            found[name] = reference
    if twice := sorted(found.keys() & set(names)):
        raise BundleError(f"BERTIE_MODELS names two bundles {twice[0]!r}")
    return tuple(names), found


def resolve(settings: Settings) -> list[tuple[str, Path]]:
    """Fetch the bundles that `BERTIE_MODELS` gives by reference: their names and folders, in its order.

    Raises:
        BundleError: one is not to be had, or calls itself by another name.
    """
    resolved = []
    for name, reference in split(settings.models)[1].items():
        folder = locate(reference, settings)
        if folder.name != name:
            raise BundleError(f"BERTIE_MODELS calls a bundle {name!r} that calls itself {folder.name!r}: say so there")
        resolved.append((name, folder))
    return resolved


def locate(source: str, settings: Settings) -> Path:
    """Get the folder of a bundle: one on this machine, or that of a reference, which has `://` and is fetched.

    Raises:
        BundleError: it is not to be had.
    """
    if "://" not in source:
        return Path(source)
    return fetch(source, settings.cache_dir, max_bytes=settings.max_bundle_bytes)


def fetch(reference: str, cache: Path, *, max_bytes: int = MAX_BYTES, idle_seconds: float = IDLE_SECONDS) -> Path:
    """Get the folder of the bundle that a reference names, complete and verified, in the folder `cache`.

    What is pinned and there costs no network. The folder is named as the model, and is not to be changed.

    Args:
        reference: `https://HOST/FOLDER`, `https://HOST/BUNDLE.tar.gz`, `hf://ORG/REPO@REVISION/PATH`,
            `s3://BUCKET/PATH`, `gs://BUCKET/PATH`, `file:///PATH` or `oci://REGISTRY/REPOSITORY:TAG`.
        max_bytes: of all that comes for it, and of the bundle.
        idle_seconds: for which the other side may say nothing, or next to nothing, before another try.

    Raises:
        BundleError: it is not to be had, is not what the hash says, or does not fit; one line says why. Nothing of it
            is left in the cache.
    """
    wanted = references.parse(reference)
    try:
        store = Cache(cache)
        if folder := _cached(wanted, store):
            return folder
        logger.info("fetching %s", wanted.shown)
        with store.incoming() as incoming:
            arriving = Incoming(store, incoming, Download(max_bytes), sha256=wanted.sha256, digest=wanted.digest)
            folder = _bring(wanted, arriving, idle_seconds)
    except (ValueError, RecursionError, Interrupted) as error:
        raise BundleError(f"{wanted.shown}: {error}") from error
    except OSError as error:
        full = "; make room, or set BERTIE_CACHE_DIR" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        raise BundleError(f"{wanted.shown}: the cache {str(cache)!r} fails: {error.strerror or error}{full}") from error
    if not wanted.pinned:
        logger.warning("%s is not pinned: add #sha256=%s to take no other", wanted.shown, folder.parent.name)
    return folder


def _cached(wanted: Reference, store: Cache) -> Path | None:
    if wanted.sha256:
        return store.get(wanted.sha256)
    return store.of_image(wanted.digest) if wanted.digest else None


def _bring(wanted: Reference, arriving: Incoming, idle_seconds: float) -> Path:
    if wanted.scheme == "file":
        place = stores.local(wanted.url)
    elif wanted.scheme in stores.PACKAGES:
        place = stores.remote(wanted.scheme, wanted.address, idle_seconds)
    else:
        return _bring_by_http(wanted, arriving, idle_seconds)
    return arriving.from_archive(place("")) if wanted.is_archive else arriving.from_folder(place)


def _bring_by_http(wanted: Reference, arriving: Incoming, idle_seconds: float) -> Path:
    try:
        from service.repository.sources import hub, registry
        from service.repository.sources.web import Web
    except ImportError as error:
        raise ValueError(f"{wanted.scheme}:// wants httpx2: pip install -e '.[remote]'") from error
    with closing(Web(idle_seconds, plain=wanted.scheme == "http" and wanted.pinned)) as web:
        if wanted.scheme == "oci":
            return registry.bring(wanted.address, arriving, web)
        place = hub.folder(wanted.address, web) if wanted.scheme == "hf" else web.folder(wanted.url)
        return arriving.from_archive(place("")) if wanted.is_archive else arriving.from_folder(place)
