"""Bytes to records: opens plain, .gz and .xz files and hub data sets, and keeps the account of what was bad.

Files are UTF-8, with or without a byte order mark. A byte that is not is told with its line, and the rest is read on: a
file that was put together from two encodings has many, and a person wants to know of each.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import logging
import lzma
import re
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, TypeGuard

from service.repository import files
from training.data import dialect
from training.errors import DataError

logger = logging.getLogger(__name__)

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
        self._once: set[tuple[str, str, str]] = set()

    def add(self, where: str, reason: str, detail: str = "", *, once: bool = False) -> None:
        """Count a bad record. `where` is `file:line` or `file#id`; `reason` is the same for alike faults.

        Args:
            once: a fault of the whole file, as a column that it lacks: every record is counted, and the first shown.
        """
        self.bad[reason] += 1
        if once:
            key = (where.rpartition(":")[0], reason, detail)
            if key in self._once:
                return
            self._once.add(key)
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
        opened: Any = {".xz": lzma.open, ".gz": gzip.open}.get(Path(path).suffix.lower(), open)
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


def read_records(path: str, report: Report, named: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Records of a .csv, .tsv (or .txt) file, of JSON lines or a JSON list, or of a hub data set, each with its place.

    A record that spans lines has the place of its last one.

    Args:
        named: a table's dialect, of `dialect.DIALECTS`; empty to go by the file itself, and to tell why.
    """
    if path.startswith(HUB):
        yield from _read_hub(path)
        return
    suffix = Path(path.lower().removesuffix(".xz").removesuffix(".gz")).suffix
    try:
        if suffix in (".csv", ".tsv", ".txt"):
            yield from _read_table(path, report, dialect.CSV if suffix == ".csv" else dialect.PLAIN, named)
        else:
            yield from _read_json_records(path, report)
    except UNREADABLE as error:
        raise DataError(f"{path}: {error}") from error


def _read_table(path: str, report: Report, own: dialect.Dialect, named: str) -> Iterator[tuple[str, dict[str, Any]]]:
    name = Path(path).name
    with open_text(path) as file:
        found = dialect.find(file, own, named)
    if found.reason:
        tell = logger.warning if found.doubtful else logger.info
        tell("%s: read as table.dialect %r: %s", name, found.dialect.name or found.dialect.delimiter, found.reason)
    csv.field_size_limit(LONGEST_FIELD)
    with open_text(path) as file:
        for _ in range(found.header):
            next(file)
        reader = csv.reader(file, **found.dialect.options)
        try:
            yield from _read_rows(reader, name, report, found)
        except csv.Error as error:
            raise DataError(f"{name}:{reader.line_num + found.header}: {error}") from error


def _read_rows(reader: Any, name: str, report: Report, found: dialect.Found) -> Iterator[tuple[str, dict[str, Any]]]:
    header: list[str] = next(reader, [])
    if fault := not_utf8(" ".join(header)):
        raise DataError(f"{name}:1: not UTF-8 ({fault})")
    for column in header:
        if header.count(column) > 1:
            raise DataError(f"{name}:1: two columns are called {column!r}")
    for fields in reader:
        where = f"{name}:{reader.line_num + found.header}"
        if not fields:
            continue  # an empty line
        if fault := not_utf8(" ".join(fields)):
            report.add(where, "not UTF-8", fault)
        elif len(fields) < len(header):
            report.add(where, "too few columns", f"{len(fields)} of {len(header)}")
        elif any(fields[len(header) :]):  # what follows the last comma or tab may be nothing
            word = found.dialect.word
            hint = f"is a {word} not quoted?" if found.dialect.quoted else f"is there a {word} in a text?"
            report.add(where, "too many columns", f"{len(fields)} of {len(header)}: {hint}")
        else:
            yield where, dict(zip(header, fields, strict=False))


def _read_json_records(path: str, report: Report) -> Iterator[tuple[str, dict[str, Any]]]:
    """Of a file of JSON lines, or of one list of objects: what its first character says."""
    name = Path(path).name
    with open_text(path) as file:
        first = next((line for line in file if line.strip()), "")
    if not first.lstrip().startswith("["):
        _check_lines(path, first)
        with open_text(path) as file:
            yield from _read_lines(file, name, report)
        return
    try:
        content = read_json(path)
    except DataError as error:
        raise DataError(f"{error} (it begins with [, so all of it is read as one list)") from error
    for number, record in enumerate(content):
        where = f"{name}[{number}]"
        if isinstance(record, dict):
            yield where, record
        else:
            report.add(where, "not a JSON object")


def _check_lines(path: str, first: str) -> None:
    """Raise a `DataError` where a file is one JSON object over many lines, whose first is none."""
    if not first.lstrip().startswith("{"):
        return
    try:
        json.loads(first)
    except NOT_JSON:
        try:
            content = read_json(path)
        except DataError:
            return  # each bad line is told by itself
        names = ", ".join(map(repr, list(content)[:5]))
        raise DataError(
            f"{path}: one JSON object (of {names}) over many lines; records are an object a line, or a list of objects"
        ) from None


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


def name(path: str) -> str:
    """Return a data file's name in manifests: its folder and its name, without the compression's suffix."""
    parts = Path(path).parts[-2:]
    return "/".join(parts).removesuffix(".xz").removesuffix(".gz")
