"""Files of this machine, and of object stores through fsspec: `file://`, `s3://`, `gs://`."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from service.repository.sources.transfer import CHUNK, Interrupted, Opener, Place, Stream

PACKAGES = {"s3": "s3fs", "gs": "gcsfs"}
"""What fsspec wants for a scheme. Credentials come from where each looks for them: variables, files, the machine."""
PART = 4 << 20
"""Bytes that are asked for at once, and come before a connection has idled too long."""


def local(url: str) -> Place:
    """Get the files below a `file://` URL.

    Raises:
        ValueError: it is of another machine, or does not begin at the root.
    """
    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
        raise ValueError("a file of this machine is file:///PATH, from the root on")

    def place(name: str) -> Opener:
        path = Path(unquote(parts.path)) / name

        @contextmanager
        def opener(begin: int) -> Iterator[Stream]:
            if not path.is_file():  # opening a pipe would wait for ever
                raise ValueError(f"there is no file {str(path)!r}")
            yield Stream(begin, _chunks(path, begin))

        return opener

    return place


def remote(scheme: str, address: str, idle_seconds: float) -> Place:
    """Get the files below a path of an object store.

    Raises:
        ValueError: the package that the store wants is not installed.
    """
    try:
        import fsspec
        from fsspec.asyn import AsyncFileSystem, sync

        if scheme in PACKAGES:
            importlib.import_module(PACKAGES[scheme])
    except ImportError as error:
        raise ValueError(f"{scheme}:// wants {PACKAGES[scheme]}: pip install {PACKAGES[scheme]}") from error
    # An instance that others use, or a listing that is kept, may know of files as they were.
    store = fsspec.filesystem(scheme, skip_instance_cache=True, use_listings_cache=False)

    def call(name: str, path: str, **arguments: int) -> Any:
        try:
            if isinstance(store, AsyncFileSystem):
                return sync(store.loop, getattr(store, f"_{name}"), path, timeout=idle_seconds, **arguments)
            return getattr(store, name)(path, **arguments)
        except (FileNotFoundError, IsADirectoryError) as error:
            raise ValueError(f"there is no file {scheme}://{path}") from error
        except PermissionError as error:
            raise ValueError(f"{scheme}://{path} is not to be read: {error}") from error
        except Exception as error:  # each store has errors of its own
            raise Interrupted(f"{scheme}://{path}: {str(error) or type(error).__name__}") from error

    def place(name: str) -> Opener:
        path = f"{address.rstrip('/')}/{name}" if name else address

        def parts(begin: int, end: int) -> Iterator[bytes]:
            while begin < end:
                part = call("cat_file", path, start=begin, end=min(begin + PART, end))
                if not part:
                    raise Interrupted(f"{scheme}://{path} ends at byte {begin} of {end}")
                begin += len(part)
                yield part

        @contextmanager
        def opener(begin: int) -> Iterator[Stream]:
            yield Stream(begin, parts(begin, call("info", path)["size"]))

        return opener

    return place


def _chunks(path: Path, begin: int) -> Iterator[bytes]:
    try:
        with open(path, "rb") as file:
            file.seek(begin)
            while chunk := file.read(CHUNK):
                yield chunk
    except OSError as error:
        raise ValueError(f"{str(path)!r} cannot be read: {error.strerror}") from error
