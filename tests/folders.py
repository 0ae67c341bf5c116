"""Folders that a test may not read or write, though it runs as root."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType

NOBODY = 65534


class Nobody:
    """A user without rights. In a `with` block, the process is it; a process without root's rights is itself.

    Attributes:
        folder: one that this user owns.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._is_root = os.geteuid() == 0
        if self._is_root:
            os.chown(folder, NOBODY, NOBODY)

    def __enter__(self) -> None:
        if self._is_root:
            os.seteuid(NOBODY)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._is_root:
            os.seteuid(0)
