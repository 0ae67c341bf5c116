"""The log: one line a record, for eyes or for machines, written by a thread of its own.

Owns the format and what may be in it. A client's text may not: so of an exception only its kind and its frames are
logged, and the message too where it comes from the system or from ONNX Runtime, which have seen no text.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from types import TracebackType
from typing import Any, Literal, TextIO, TypeAlias

from prometheus_client import Counter

Format = Literal["console", "json"]
MOST_WAITING = 4096
"""Records that wait to be written. More are dropped and counted: a log that nobody reads must not stop the service."""
WRITE_EVERY = 0.05
"""Seconds between two looks at what waits."""


Lock: TypeAlias = Callable[[], contextlib.AbstractContextManager[object]]
"""Held while lines are written, where other processes write to the same place: a pipe takes long ones in parts."""


def configure(
    form: Format,
    level: str,
    dropped: Counter,
    lock: Lock = contextlib.nullcontext,
    fields: Mapping[str, object] | None = None,
) -> Writer:
    """Send all of the process's log to stderr in that form; replaces what was configured before.

    Args:
        dropped: counts the records that nobody could read.
        fields: that each record has.
    """
    writer = Writer(sys.stderr, dropped, lock)
    if fields:
        writer.addFilter(partial(_add, fields))
    _use(writer, form, level)
    return writer


def configure_unthreaded(form: Format, level: str, lock: Callable[[], contextlib.AbstractContextManager[bool]]) -> None:
    """The same without a thread, for a process that is to be forked: what cannot be written at once is dropped.

    Args:
        lock: gives whether it was had; it must not wait.
    """
    _use(_Direct(sys.stderr.fileno(), lock), form, level)


def _use(handler: logging.Handler, form: Format, level: str) -> None:
    handler.setFormatter(JsonFormatter() if form == "json" else ConsoleFormatter())
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    # What no format shows need not be looked up for each record (Python's logging HOWTO, "Optimization").
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = ""
    # Its lines on starting and stopping are ours to write; its access log would hold paths.
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    logging.getLogger("httpx2").setLevel(logging.WARNING)  # it logs URLs whole, signatures and passwords too


class Writer(logging.Handler):
    """Hands records to a thread, which writes what has come a few times a second; drops and counts them while too many
    wait. A thread that woke for each record would take more time than the record."""

    def __init__(self, stream: TextIO, dropped: Counter, lock: Lock = contextlib.nullcontext) -> None:
        super().__init__()
        self._stream = stream
        self._lock = lock
        self._dropped = dropped
        self._waiting: deque[logging.LogRecord] = deque()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._write, name="log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Add the record, or drop it."""
        if len(self._waiting) < MOST_WAITING:
            self._waiting.append(record)
        else:
            self._dropped.inc()

    def close_within(self, seconds: float) -> bool:
        """Write what waits, and no more. Returns whether it was done in time."""
        self._closing.set()
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def close(self) -> None:
        """End the thread when it has written what waits."""
        self._closing.set()
        super().close()

    def _write(self) -> None:
        closing = False
        while not closing:
            closing = self._closing.wait(WRITE_EVERY)
            lines = []
            while self._waiting:
                record = self._waiting.popleft()
                try:
                    lines.append(self.format(record) + "\n")
                except Exception:  # its arguments do not fit its message: no reason to write no other
                    self._dropped.inc()
            if lines:
                with contextlib.suppress(OSError, ValueError), self._lock():  # nobody reads the log, or it is closed
                    self._stream.write("".join(lines))
                    self._stream.flush()


class _Direct(logging.Handler):
    """Writes each record at once, or never."""

    def __init__(self, descriptor: int, lock: Callable[[], contextlib.AbstractContextManager[bool]]) -> None:
        super().__init__()
        self._descriptor, self._locked = descriptor, lock

    def emit(self, record: logging.LogRecord) -> None:
        line = (self.format(record) + "\n").encode(errors="replace")
        with contextlib.suppress(OSError), self._locked() as mine:
            # A pipe is ready where it has room for so much; nobody else fills it meanwhile.
            if mine and select.select([], [self._descriptor], [], 0)[1]:
                os.write(self._descriptor, line[: select.PIPE_BUF])


class ConsoleFormatter(logging.Formatter):
    """`12:34:56.789 INFO    service.http.context  request  status=200 rows=1`."""

    def format(self, record: logging.LogRecord) -> str:
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        line = f"{clock}.{int(record.msecs):03} {record.levelname:7} {record.name}  {record.getMessage()}"
        if fields := _fields(record):
            line += "  " + " ".join(f"{key}={value}" for key, value in fields.items())
        if record.exc_info:
            line += "\n" + describe(record.exc_info)
        return line


class JsonFormatter(logging.Formatter):
    """An object with `time` (UTC), `level`, `logger`, `message`, the record's fields, and `traceback` for an error."""

    def format(self, record: logging.LogRecord) -> str:
        clock = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        values = {
            "time": f"{clock}.{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            values["traceback"] = describe(record.exc_info)
        return json.dumps(values, ensure_ascii=False, default=str)


def describe(
    exc_info: tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None],
) -> str:
    """Write an exception's traceback and its causes', the first cause first, without messages that may quote text."""
    parts: list[str] = []
    error = exc_info[1]
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        message = f": {error}" if _has_seen_no_text(error) else ""
        parts.append("".join(traceback.format_tb(error.__traceback__)) + type(error).__name__ + message)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return "\n\nthen\n\n".join(reversed(parts))


def _has_seen_no_text(error: BaseException) -> bool:
    return isinstance(error, OSError) or type(error).__module__.startswith("onnxruntime")


def _add(fields: Mapping[str, object], record: logging.LogRecord) -> bool:
    record.fields = {**fields, **_fields(record)}
    return True


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    fields: dict[str, Any] = getattr(record, "fields", {})
    return fields
