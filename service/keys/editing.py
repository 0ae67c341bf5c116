"""Changes to a key file: what else stands in it, comments too, stays as it is.

Owns the writing: one who writes at a time, a new file renamed over the old one, so that who reads finds either. Knows
nothing of who reads. Import it where a key file is changed alone: serving does without `tomlkit`.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import tomlkit
from tomlkit import TOMLDocument
from tomlkit.exceptions import TOMLKitError
from tomlkit.items import AoT

from service.errors import ConfigurationError
from service.keys import entries
from service.keys.entries import Entry

_HEAD = (
    "# Keys by name: hashes, limits and models. `python -m service keys` changes them; a service notices by itself.\n\n"
)


def read(path: Path) -> list[Entry]:
    """Read the keys of a file. Raises ConfigurationError."""
    return entries.parse(_text(path))


def add(path: Path, name: str, limits: dict[str, Any]) -> str:
    """Add a key to a file, which is made where there is none, and get its token.

    Args:
        limits: other fields of `Entry`.

    Raises:
        ConfigurationError: the name is taken, or a field is wrong.
    """
    token = entries.new_token()
    with _changing(path) as document:
        table = tomlkit.table()
        fields = {"name": name, "hashes": [entries.written(token)], **limits}
        for field, value in fields.items():
            table.add(field, value)
        table.add(tomlkit.nl())
        _tables(document, path).append(table)
    return token


def rotate(path: Path, name: str, keep_for: timedelta) -> tuple[str, datetime]:
    """Give a key a new token.

    Args:
        keep_for: how long its other tokens stay good.

    Returns:
        The token, and when the others expire.

    Raises:
        ConfigurationError: there is no key of that name.
    """
    token, now = entries.new_token(), datetime.now(UTC).replace(microsecond=0)
    until = now + keep_for
    with _changing(path) as document:
        table = _find(document, path, name)
        hashes = tomlkit.array().multiline(True)
        for each in entries.parse(document.as_string()):
            for old in each.hashes if each.name == name else ():
                expires = min(until, old.until or until)
                if expires > now:
                    kept = tomlkit.inline_table()
                    kept.update({"hash": old.hash, "until": expires})
                    hashes.append(kept)
        hashes.append(entries.written(token))
        table["hashes"] = hashes
    return token, until


def revoke(path: Path, name: str) -> None:
    """Take a key out of a file. Raises ConfigurationError: there is none of that name."""
    with _changing(path) as document:
        tables = _tables(document, path)
        del tables[tables.index(_find(document, path, name))]
        if not tables:  # an empty list of tables would be written as an array
            del document["key"]


@contextlib.contextmanager
def _changing(path: Path) -> Iterator[TOMLDocument]:
    """Change a file's document in the block; it is written where the result can be read."""
    path = Path(os.path.realpath(path))  # a link stays a link
    with _alone(path.parent):
        try:
            document = tomlkit.parse(_text(path) if path.exists() else _HEAD)
        except TOMLKitError as error:
            raise ConfigurationError(f"{path}: it is no TOML: {error}") from None
        if path.exists():
            _check(path, document)
        yield document
        _check(path, document)
        _write(path, document.as_string())


def _check(path: Path, document: TOMLDocument) -> None:
    try:
        entries.parse(document.as_string())
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error.detail}") from None


def _tables(document: TOMLDocument, path: Path) -> AoT:
    if not document.get("key"):
        document.pop("key", None)
        document.add("key", tomlkit.aot())
    found = document["key"]
    if not isinstance(found, AoT):
        raise ConfigurationError(f"{path} has its keys in an array: only tables, [[key]], can be changed here")
    return found


def _find(document: TOMLDocument, path: Path, name: str) -> Any:
    for table in _tables(document, path):
        if table["name"] == name:
            return table
    raise ConfigurationError(f"{path} has no key called {name!r}")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"{path} is not UTF-8") from None


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep others who change files of a folder waiting, by its lock, which the system takes back at any end."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise ConfigurationError(f"{folder} cannot be opened: {error.strerror}") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _write(path: Path, text: str) -> None:
    """Write a file at once, for its owner alone; one that is there keeps its owner and its mode."""
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)  # mode 0600
        try:
            with open(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
                if path.exists():
                    before = path.stat()
                    os.fchmod(file.fileno(), before.st_mode & 0o777)
                    with contextlib.suppress(PermissionError):
                        os.fchown(file.fileno(), before.st_uid, before.st_gid)
                file.flush()
                os.fsync(file.fileno())
            os.replace(name, path)
        except BaseException:
            os.unlink(name)
            raise
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be written: {error.strerror}") from None
