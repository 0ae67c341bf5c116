"""Bytes to records: opens plain, .gz and .xz files and hub data sets, and keeps the account of what was bad."""

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

from training.errors import DataError

HUB = "hub:"
UNREADABLE = (OSError, EOFError, lzma.LZMAError, zlib.error, UnicodeDecodeError)
"""What a broken file raises while it is read."""
_SURROGATE = re.compile("[\ud800-\udfff]")
SHOWN = 20


class Report:
    """The account of one read: bad records by reason, with the first places, and records set aside by convention."""

    def __init__(self) -> None:
        self.bad: Counter[str] = Counter()
        self.set_aside: Counter[str] = Counter()
        self._shown: list[str] = []

    def add(self, where: str, reason: str, detail: str = "") -> None:
        """Counts a bad record. `where` is `file:line` or `file#id`; `reason` is the same for alike faults."""
        self.bad[reason] += 1
        if len(self._shown) < SHOWN:
            self._shown.append(f"  {where}: {reason}{f' ({detail})' if detail else ''}")

    def skip(self, reason: str) -> None:
        """Counts a record that a data set's own convention leaves out."""
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
        """Raises `DataError` when there were bad records, unless they are allowed."""
        if self.bad and not allow_bad:
            raise DataError(f"{self.summary()}\n(--allow-bad-data goes on without them)")


def open_text(path: str) -> IO[str]:
    """Opens a UTF-8 text file: plain, .gz or .xz."""
    try:
        if path.endswith(".xz"):
            return lzma.open(path, "rt", encoding="utf-8", newline="")
        if path.endswith(".gz"):
            return gzip.open(path, "rt", encoding="utf-8", newline="")
        return open(path, encoding="utf-8", newline="")
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error


def read_json(path: str) -> Any:
    """The JSON value of a whole file."""
    try:
        with open_text(path) as file:
            return json.load(file)
    except (*UNREADABLE, json.JSONDecodeError) as error:
        raise DataError(f"{path}: {error}") from error


def read_records(path: str, report: Report) -> Iterator[tuple[str, dict[str, Any]]]:
    """Records of a .tsv or .jsonl file, or of a hub data set, each with its place."""
    if path.startswith(HUB):
        yield from _read_hub(path)
        return
    plain = path.removesuffix(".xz").removesuffix(".gz")
    name = Path(path).name
    try:
        with open_text(path) as file:
            if plain.endswith((".tsv", ".txt")):
                # GLUE's files quote nothing: a lone " is text.
                reader = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
                header = next(reader, [])
                for fields in reader:
                    where = f"{name}:{reader.line_num}"
                    if len(fields) < len(header):
                        report.add(where, "too few columns", f"{len(fields)} of {len(header)}")
                    else:
                        yield where, dict(zip(header, fields, strict=False))
            else:
                for number, line in enumerate(file, start=1):
                    if not line.strip():
                        continue
                    where = f"{name}:{number}"
                    try:
                        record = json.loads(line)
                    except json.JSONDecodeError as error:
                        report.add(where, "not JSON", str(error))
                        continue
                    if isinstance(record, dict):
                        yield where, record
                    else:
                        report.add(where, "not a JSON object")
    except (*UNREADABLE, csv.Error) as error:
        raise DataError(f"{path}: {error}") from error


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
    """Hash of a data file as it lies on disk; None for a hub data set."""
    if path.startswith(HUB):
        return None
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
