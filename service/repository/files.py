"""Files that are read once and whole: regular ones alone, bounded, with their sha256; and a bundle's manifest so."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

MANIFEST = "manifest.json"
"""The file that makes a folder a bundle."""
MAX_MANIFEST = 4 << 20


def read(path: Path, limit: int | None = None) -> bytes:
    """Read a regular file.

    Raises:
        OSError: it cannot be read, or is a folder.
        ValueError: it is a pipe or a device, or has more than `limit` bytes.
    """
    with open(path, "rb", opener=_open) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise ValueError(f"{path.name} is no regular file")
        if limit is not None and status.st_size > limit:
            raise ValueError(f"{path.name} has {status.st_size} bytes; the most is {limit}")
        return file.read()


def read_manifest(folder: Path) -> bytes:
    """Read the manifest of the bundle in `folder`. Raises what `read` raises."""
    return read(folder / MANIFEST, MAX_MANIFEST)


def digest(manifest: bytes) -> str:
    """Get a bundle's digest, the first 12 digits of its manifest's sha256: that holds every file's hash."""
    return hashlib.sha256(manifest).hexdigest()[:12]


def sync(path: Path) -> None:
    """Wait until a file's content, or a folder's names, would outlive a loss of power. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(path: Path) -> str:
    """Get the sha256 of a file, as hexadecimal digits. Raises OSError."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _open(path: str, flags: int) -> int:
    # A pipe would block for ever when it is opened, unless it is opened so.
    return os.open(path, flags | os.O_NONBLOCK)
