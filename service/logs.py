"""The log: one line a record, for eyes or for machines, written by a thread of its own.

Owns the format and what may be in it. A client's text may not: so of an exception only its kind and its frames are
logged, and the message too where it comes from the system or from ONNX Runtime, which have seen no text.
"""

from __future__ import annotations

import json
import logging
import logging.handlers
import queue
import sys
import time
import traceback
from types import TracebackType
from typing import Any, Literal

from prometheus_client import Counter

Format = Literal["console", "json"]
MOST_WAITING = 4096
"""Records that wait to be written: as many again are dropped and counted, for a log that nobody reads must not stop the
service."""


def configure(form: Format, level: str, dropped: Counter) -> Writer:
    """Send all of the process's log to stderr in that form; replaces what was configured before.

    Args:
        dropped: counts the records that nobody could read.
    """
    stream = logging.StreamHandler(sys.stderr)
    stream.setFormatter(JsonFormatter() if form == "json" else ConsoleFormatter())
    writer = Writer(stream, dropped)
    logging.basicConfig(handlers=[writer], level=level.upper(), force=True)
    # Its lines on starting and stopping are ours to write; its access log would hold paths.
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    return writer


class Writer(logging.handlers.QueueHandler):
    """Hands records to a thread that writes them; drops and counts them while too many wait."""

    def __init__(self, stream: logging.Handler, dropped: Counter) -> None:
        self._waiting: queue.Queue[Any] = queue.Queue(MOST_WAITING)
        super().__init__(self._waiting)
        self._dropped = dropped
        self._listener = logging.handlers.QueueListener(self._waiting, stream)
        self._listener.start()

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        """Leave the record as it is: the thread formats it."""
        return record

    def enqueue(self, record: logging.LogRecord) -> None:
        """Add the record, or drop it."""
        try:
            self._waiting.put_nowait(record)
        except queue.Full:
            self._dropped.inc()

    def close_within(self, seconds: float) -> bool:
        """Write what waits. Returns whether it was done in time."""
        until = time.monotonic() + seconds
        while not self._waiting.empty() and time.monotonic() < until:
            time.sleep(0.005)
        if done := self._waiting.empty():
            self._listener.stop()
        return done


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


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    fields: dict[str, Any] = getattr(record, "fields", {})
    return fields
