"""Records of text files, one by one with their places: JSON lines and CSV (RFC 4180).

Owns what a record is and where it ends. What cannot be read is a `Fault` in its place; no record is ever lost.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from service.scoring.errors import ScoringError

LONGEST = 4 << 20
"""Bytes of the longest line, and characters of the longest cell, that are read."""

csv.field_size_limit(LONGEST)


class Fault(NamedTuple):
    """Why a row cannot be answered, and which field is to blame, if it is one."""

    reason: str
    field: str | None = None


class Record(NamedTuple):
    """A row of a text file.

    Attributes:
        offset: where it begins, in bytes.
        row: its values by column, or why there are none.
    """

    offset: int
    row: dict[str, Any] | Fault


class Lines:
    """The lines of a file as text, from a place on. A line that is no text has what is wrong with it in `fault`.

    Attributes:
        offset: where the next line begins.
        fault: of the record's lines.
    """

    def __init__(self, file: Any, offset: int) -> None:
        self._file = file
        self.seek(offset)

    def seek(self, offset: int) -> None:
        """Go on from another place."""
        self._file.seek(offset)
        self.offset = offset
        self.fault: Fault | None = None

    def begin(self) -> int:
        """Begin a record. Returns where it is."""
        self.fault = None
        return self.offset

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._file.readline(LONGEST)
        if not line:
            raise StopIteration
        self.offset += len(line)
        if len(line) == LONGEST and not line.endswith(b"\n"):
            self.fault = Fault(f"the line is longer than {LONGEST} bytes")
            while line and not line.endswith(b"\n"):
                line = self._file.readline(LONGEST)
                self.offset += len(line)
            return "\n"
        try:
            return str(line, "utf-8")
        except UnicodeDecodeError:
            self.fault = Fault("it is not UTF-8")
            return str(line, "utf-8", "replace")


def json_records(file: Any, offset: int = 0) -> Iterator[Record]:
    """Read JSON lines from a record's offset on. A blank line is no row."""
    lines = Lines(file, offset)
    while True:
        begin = lines.begin()
        line = next(lines, None)
        if line is None:
            return
        if lines.fault:
            yield Record(begin, lines.fault)
        elif not line.isspace():
            yield Record(begin, _object(line.removeprefix("\ufeff") if begin == 0 else line))


def csv_records(file: Any, header: list[str], delimiter: str, offset: int) -> Iterator[Record]:
    """Read CSV from a record's offset on. A blank line is no row."""
    lines = Lines(file, offset)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        begin = lines.begin()
        try:
            cells = next(reader, None)
        except csv.Error as error:
            # A quote that never closes takes all that follows for its cell: go on with the next line.
            lines.seek(begin)
            next(lines)
            reader = csv.reader(lines, delimiter=delimiter, strict=True)
            yield Record(begin, lines.fault or Fault(f"it is no CSV: {error}"))
            continue
        if cells is None:
            return
        if lines.fault:
            yield Record(begin, lines.fault)
        elif len(cells) == len(header):
            yield Record(begin, dict(zip(header, cells, strict=True)))
        elif cells:
            yield Record(begin, Fault(f"it has {len(cells)} cells, and the header {len(header)}"))


def csv_header(file: Any, url: str, delimiter: str) -> tuple[list[str], int]:
    """Read the names of a CSV file's columns. Returns them, and where the rows begin.

    Raises:
        ScoringError: there are none, or two are the same.
    """
    lines = Lines(file, 0)
    try:
        names = next(csv.reader(lines, delimiter=delimiter, strict=True), [])
    except csv.Error as error:
        raise ScoringError(f"{url}: its header is no CSV: {error}") from error
    if lines.fault or not names:
        raise ScoringError(f"{url}: {lines.fault.reason if lines.fault else 'it has no header'}")
    names[0] = names[0].removeprefix("\ufeff")
    if len(set(names)) < len(names):
        raise ScoringError(f"{url}: two of its columns have the same name")
    return names, lines.offset


def _object(line: str) -> dict[str, Any] | Fault:
    try:
        row = json.loads(line)
        if not isinstance(row, dict):
            return Fault("it is no JSON object")
        if "\\ud" in line or "\\uD" in line:
            json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return Fault("it holds half of a surrogate pair")
    except (ValueError, RecursionError) as error:
        return Fault(f"it is no JSON: {error}")
    return row
