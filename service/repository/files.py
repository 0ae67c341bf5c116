"""Files that are read once and whole: regular ones alone, bounded, with their sha256."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path


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


def sha256(path: Path) -> str:
    """Get the sha256 of a file, as hexadecimal digits. Raises OSError."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _open(path: str, flags: int) -> int:
    # A pipe would block for ever when it is opened, unless it is opened so.
    return os.open(path, flags | os.O_NONBLOCK)
