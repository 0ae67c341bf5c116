"""Files that are read once and whole: regular ones alone, bounded, with their sha256."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path


def read(path: Path, limit: int | None = None) -> bytes:
    """Read a regular file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is a pipe, a device or a folder, or has more than `limit` bytes.
    """
    # A pipe would block for ever when it is opened, unless it is opened so.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError(f"{path.name} is no regular file")
        if limit is not None and status.st_size > limit:
            raise ValueError(f"{path.name} has {status.st_size} bytes; the most is {limit}")
        return file.read()


def sha256(path: Path) -> str:
    """Get the sha256 of a file, as hexadecimal digits. Raises OSError."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
