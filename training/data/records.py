"""Bytes to records: opens plain, .gz and .xz files and hub data sets, and keeps the account of what was bad.

Files are UTF-8, with or without a byte order mark. A byte that is not is told with its line, and the rest is read on: a
file that was put together from two encodings has many, and a person wants to know of each.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import lzma
import re
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, TypeGuard

from service.repository import files
from training.errors import DataError

HUB = "hub:"
UNREADABLE = (OSError, EOFError, lzma.LZMAError, zlib.error)
"""What a broken file raises while it is read."""
NOT_JSON = (ValueError, RecursionError)
"""What `json` raises: a number of 5,000 digits and lists in lists in lists are other errors than its own."""
LONGEST_FIELD = 1 << 24
"""Characters of a table's longest field. One that is longer is a quotation mark that nothing closes."""
_SURROGATE = re.compile("[\ud800-\udfff]")
_NOT_UTF8 = re.compile("[\udc80-\udcff]")
"""What Python's `surrogateescape` makes of a byte that is not UTF-8."""
SHOWN = 20


class Report:
    """The account of one read: bad records by reason, with the first places, and records set aside by convention."""

    def __init__(self) -> None:
        self.bad: Counter[str] = Counter()
        self.set_aside: Counter[str] = Counter()
        self._shown: list[str] = []

    def add(self, where: str, reason: str, detail: str = "") -> None:
        """Count a bad record. `where` is `file:line` or `file#id`; `reason` is the same for alike faults."""
        self.bad[reason] += 1
        if len(self._shown) < SHOWN:
            self._shown.append(f"  {where}: {reason}{f' ({detail})' if detail else ''}")

    def skip(self, reason: str) -> None:
        """Count a record that a data set's own convention leaves out."""
        self.set_aside[reason] += 1

    def summary(self) -> str:
        """The account as text, empty when nothing is to be told."""
        lines = [f"set aside: {count} {reason}" for reason, count in self.set_aside.items()]
        if self.bad:
            counts = ", ".join(f"{count} x {reason}" for reason, count in self.bad.most_common())
            lines += [f"{self.bad.total()} bad records: {counts}", *self._shown]
            if self.bad.total() > len(self._shown):
                lines.append(f"  ... and {self.bad.total() - len(self._shown)} more")
        return "\n".join(lines)

    def check(self, *, allow_bad: bool) -> None:
        """Raise `DataError` when there were bad records, unless they are allowed."""
        if self.bad and not allow_bad:
            raise DataError(f"{self.summary()}\n(--allow-bad-data goes on without them)")


def open_text(path: str) -> IO[str]:
    """Open a UTF-8 text file: plain, .gz or .xz. Bytes that are not UTF-8 come as lone surrogates; see `not_utf8`."""
    try:
        opened: Any = {".xz": lzma.open, ".gz": gzip.open}.get(Path(path).suffix, open)
        file: IO[str] = opened(path, "rt", encoding="utf-8-sig", errors="surrogateescape", newline="")
        return file
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error


def not_utf8(text: str) -> str:
    """What is told of the first byte in `text` that was not UTF-8; empty where all were."""
    found = _NOT_UTF8.search(text)
    return f"byte 0x{ord(found[0]) - 0xDC00:02x} after {text[: found.start()][-20:]!r}" if found else ""


def read_json(path: str) -> Any:
    """The JSON value of a whole file."""
    try:
        with open_text(path) as file:
            text = file.read()
        for number, line in enumerate(text.split("\n") if _NOT_UTF8.search(text) else (), start=1):
            if fault := not_utf8(line):
                raise DataError(f"{path}:{number}: not UTF-8 ({fault})")
        return json.loads(text)
    except (*UNREADABLE, *NOT_JSON) as error:
        raise DataError(f"{path}: {error}") from error


def read_records(path: str, report: Report) -> Iterator[tuple[str, dict[str, Any]]]:
    """Records of a .csv, .tsv (or .txt) or .jsonl file, or of a hub data set, each with its place.

    A record that spans lines has the place of its last one.
    """
    if path.startswith(HUB):
        yield from _read_hub(path)
        return
    plain = path.removesuffix(".xz").removesuffix(".gz")
    try:
        with open_text(path) as file:
            if plain.endswith((".csv", ".tsv", ".txt")):
                yield from _read_table(file, Path(path).name, report, quoted=plain.endswith(".csv"))
            else:
                yield from _read_lines(file, Path(path).name, report)
    except UNREADABLE as error:
        raise DataError(f"{path}: {error}") from error


def _read_table(file: IO[str], name: str, report: Report, *, quoted: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    csv.field_size_limit(LONGEST_FIELD)
    # GLUE's tables quote nothing: a lone " is text.
    how: dict[str, Any] = {"strict": True} if quoted else {"delimiter": "\t", "quoting": csv.QUOTE_NONE}
    reader = csv.reader(file, **how)
    try:
        header = next(reader, [])
        if fault := not_utf8(" ".join(header)):
            raise DataError(f"{name}:1: not UTF-8 ({fault})")
        for column in header:
            if header.count(column) > 1:
                raise DataError(f"{name}:1: two columns are called {column!r}")
        for fields in reader:
            where = f"{name}:{reader.line_num}"
            if not fields:
                continue  # an empty line
            if fault := not_utf8(" ".join(fields)):
                report.add(where, "not UTF-8", fault)
            elif len(fields) < len(header):
                report.add(where, "too few columns", f"{len(fields)} of {len(header)}")
            elif any(fields[len(header) :]):  # what follows the last comma or tab may be nothing
                hint = "is a comma not quoted?" if quoted else "is there a tab in a text?"
                report.add(where, "too many columns", f"{len(fields)} of {len(header)}: {hint}")
            else:
                yield where, dict(zip(header, fields, strict=False))
    except csv.Error as error:
        raise DataError(f"{name}:{reader.line_num}: {error}") from error


def _read_lines(file: IO[str], name: str, report: Report) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(file, start=1):
        if not line.strip():
            continue
        where = f"{name}:{number}"
        if fault := not_utf8(line):
            report.add(where, "not UTF-8", fault)
            continue
        try:
            record = json.loads(line)
        except NOT_JSON as error:
            report.add(where, "not JSON", str(error))
            continue
        if isinstance(record, dict):
            yield where, record
        else:
            report.add(where, "not a JSON object")


def is_text(value: Any) -> TypeGuard[str]:
    """Whether `value` is a string with something in it that a tokenizer can read: JSON can hold half a character."""
    return isinstance(value, str) and bool(value.strip()) and not _SURROGATE.search(value)


def _read_hub(path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows of `hub:NAME[:CONFIG]#SPLIT`, through `datasets` (which runs no code of the data set's own)."""
    import datasets

    name, _, split = path.removeprefix(HUB).partition("#")
    name, _, config = name.partition(":")
    try:
        rows = datasets.load_dataset(name, config or None, split=split or "train")
    except Exception as error:  # the hub client raises dozens of kinds
        raise DataError(f"{path}: {type(error).__name__}: {error}") from error
    for number, row in enumerate(rows):
        yield f"{path}[{number}]", dict(row)


def sha256(path: str) -> str | None:
    """Hash of a data file as it lies on disk, or of a folder's names and hashes; None for a hub data set."""
    if path.startswith(HUB):
        return None
    if (folder := Path(path)).is_dir():
        names = sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())
        return hashlib.sha256("".join(f"{name} {sha256(str(folder / name))}\n" for name in names).encode()).hexdigest()
    return files.sha256(Path(path))
