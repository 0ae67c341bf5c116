"""The file of disagreements: inputs on which two versions differ, with both answers, for people to look at.

It holds clients' texts, so it is off unless a setting names it. Owns the file and its bound; a thread writes it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic_core import to_json

logger = logging.getLogger(__name__)

MOST_WAITING = 256
"""Lines that wait to be written; what comes then is dropped."""


class Disagreements:
    """The writer of JSON lines. When the file is full it becomes `NAME.1`, and the one before that is gone."""

    def __init__(self, path: Path, most_bytes: int) -> None:
        self._path, self._most_bytes = path, most_bytes
        self._waiting: queue.Queue[Mapping[str, Any] | None] = queue.Queue(MOST_WAITING)
        self._told = False
        self._thread = threading.Thread(target=self._work, name="disagreements", daemon=True)
        self._thread.start()

    def add(self, record: Mapping[str, Any]) -> None:
        """Write a record, or drop it where too many wait. Never blocks."""
        with contextlib.suppress(queue.Full):
            self._waiting.put_nowait(record)

    def close(self, seconds: float = 1.0) -> None:
        """Write what waits, for at most so long."""
        with contextlib.suppress(queue.Full):
            self._waiting.put_nowait(None)
            self._thread.join(seconds)

    def _work(self) -> None:
        while (record := self._waiting.get()) is not None:
            try:
                self._write(to_json(record, inf_nan_mode="null", fallback=str) + b"\n")
            except OSError as error:
                if not self._told:  # once: a disk that is full stays so for a while
                    logger.error("the file of disagreements cannot be written: %s", error.strerror)
                self._told = True
            else:
                self._told = False

    def _write(self, line: bytes) -> None:
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            size = os.fstat(descriptor).st_size
            if size and size + len(line) > self._most_bytes:
                os.replace(self._path, self._path.with_name(self._path.name + ".1"))
                os.close(descriptor)
                descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            os.write(descriptor, line)
        finally:
            os.close(descriptor)
