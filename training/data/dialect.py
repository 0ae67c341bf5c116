"""How the fields of a table's file are told apart: its dialect, as a recipe says or as the file itself shows.

Owns what speaks for a dialect and against it. Knows nothing of columns, records or labels.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from typing import Any


@dataclass(frozen=True, slots=True)
class Dialect:
    """What stands between fields, and whether a field may stand in quotation marks, those within it doubled."""

    name: str  # as a recipe's `table.dialect` has it; empty for one that only a file's own `sep=` line can ask for
    delimiter: str
    quoted: bool

    @property
    def options(self) -> dict[str, Any]:
        """How `csv.reader` is to read it."""
        rest: dict[str, Any] = {"strict": True} if self.quoted else {"quoting": csv.QUOTE_NONE}
        return {"delimiter": self.delimiter, **rest}

    @property
    def word(self) -> str:
        """What its delimiter is called."""
        return WORDS.get(self.delimiter, repr(self.delimiter))


CSV = Dialect("csv", ",", quoted=True)
SEMICOLON = Dialect("semicolon", ";", quoted=True)
TSV = Dialect("tsv", "\t", quoted=True)
PLAIN = Dialect("plain", "\t", quoted=False)
"""RFC 4180's; that of spreadsheets in much of Europe; pandas' with tabs; GLUE's, where quotation marks are text."""
DIALECTS = {dialect.name: dialect for dialect in (CSV, SEMICOLON, TSV, PLAIN)}
WORDS = {",": "comma", ";": "semicolon", "\t": "tab"}
SAMPLE = 1 << 20
"""Characters, from the first quotation mark of a tab-separated file on, by which it is seen what such a mark is."""
FEW = 10
"""Fields in quotation marks from whose commas alone little can be told."""
_SEPARATOR_LINE = re.compile(r'"?sep=(.)"?[\r\n]*', re.IGNORECASE)
"""A first line by which spreadsheets are told the delimiter."""
_ENCLOSED = re.compile(r'"(?:[^"]|"")*"')
_FIELD = re.compile(r'(?:"([^"]*+(?:""[^"]*+)*+)"|([^"\t\r\n]*+))(\t|\r\n|\r|\n|\Z)')
"""A field of a tab-separated file as pandas writes it: in quotation marks where it holds one, a tab or a line break."""
_UNCLOSED = re.compile(r'"[^"]*+(?:""[^"]*+)*+\Z')
_LINE_BREAK = re.compile(r"\r\n|\r|\n")


@dataclass(frozen=True, slots=True)
class Found:
    """A file's dialect, and why."""

    dialect: Dialect
    header: int = 0  # lines before the header
    reason: str = ""  # what spoke for it, where there was something to decide
    doubtful: bool = False  # whether something speaks for another one too


def find(file: Iterable[str], own: Dialect, named: str = "") -> Found:
    """Find a file's dialect.

    Args:
        file: its lines from the first on, with their ends.
        own: what a file of such a name has, where nothing in it says otherwise.
        named: the dialect that a recipe names; empty to go by the file.
    """
    lines = iter(file)
    first = next(lines, "")
    said = _SEPARATOR_LINE.fullmatch(first)
    if named:
        return Found(DIALECTS[named], header=int(said is not None))
    if said:
        by_delimiter = {dialect.delimiter: dialect for dialect in (CSV, SEMICOLON, TSV)}
        dialect = by_delimiter.get(said[1], Dialect("", said[1], quoted=True))
        return Found(dialect, header=1, reason=f"its first line says {first.strip()!r}")
    delimiter, reason = _delimiter(first, own)
    if delimiter != "\t":
        return Found(CSV if delimiter == "," else SEMICOLON, reason=reason)
    quoted, why, doubtful = _quoted(first, lines)
    return Found(TSV if quoted else PLAIN, reason="; ".join(filter(None, (reason, why))), doubtful=doubtful)


def _delimiter(header: str, own: Dialect) -> tuple[str, str]:
    """What the header's fields are told apart by, and why, where it is not what the file's name says."""
    bare = _ENCLOSED.sub("", header)
    counts = {each: bare.count(each) for each in WORDS}
    most = max(counts, key=counts.__getitem__)
    if counts[most] <= counts[own.delimiter]:
        return own.delimiter, ""
    return most, f"its first line has {_counted(counts, most)} and {_counted(counts, own.delimiter)}"


def _counted(counts: dict[str, int], delimiter: str) -> str:
    count = counts[delimiter]
    return f"{count or 'no'} {WORDS[delimiter]}{'s' if count > 1 else ''}"


def _quoted(first: str, lines: Iterable[str]) -> tuple[bool, str, bool]:
    """Whether quotation marks enclose the fields of a tab-separated file; why; and whether that is in doubt.

    A writer who encloses fields encloses each one that has a quotation mark in it, and doubles those; so a mark that
    stands otherwise is text, and they all are. A field in marks without any within it may be either's: a sentence that
    somebody says.
    """
    sample, whole, commas_bare = _sample(first, lines)
    columns = first.count("\t") + 1
    strong, weak, commas_enclosed = "", 0, 0
    if '"' in first:
        strong = "the names of its columns stand in them"
    at = record = 0
    across = False
    while at < len(sample):
        match = _FIELD.match(sample, at)
        if match is None:
            if not whole and _UNCLOSED.match(sample, at):
                break  # the sample ends within it
            excerpt = sample[at:].partition("\n")[0].partition("\t")[0][:30]
            return False, f"quotation marks are text: one stands by itself in {excerpt!r}", bool(strong)
        inner, bare, end = match.groups()
        at = match.end()
        if inner is None:
            commas_bare |= "," in bare
        else:
            weak += 1
            commas_enclosed += "," in inner
            across |= "\t" in inner or bool(_LINE_BREAK.search(inner))
            if '""' in inner:
                strong = strong or f"those within are doubled in {match[0].strip()[:30]!r}"
        if end != "\t":
            raw = _LINE_BREAK.split(sample[record:at].rstrip("\r\n"))
            if across and any(line.count("\t") + 1 != columns for line in raw):
                strong = strong or f"one with a tab or a line break in it begins in {raw[0][:30]!r}"
            record, across = at, False
    if strong:
        return True, f"quotation marks enclose fields: {strong}", False
    if weak and commas_enclosed == weak and not commas_bare:  # so do spreadsheets
        told = f"quotation marks enclose fields: all that have a comma stand in them, and no others ({weak})"
        return True, told, weak < FEW
    if weak:
        return False, f"quotation marks are text: none is doubled in the fields that stand in them ({weak})", True
    return False, "", False


def _sample(first: str, lines: Iterable[str]) -> tuple[str, bool, bool]:
    """What begins with the first line that has a quotation mark; whether it goes to the end of the file; and whether
    a comma stands before it."""
    parts: list[str] = []
    size, commas = 0, False
    for line in chain([first], lines):
        if parts or '"' in line:
            if size > SAMPLE:
                return "".join(parts), False, commas
            parts.append(line)
            size += len(line)
        else:
            commas |= "," in line
    return "".join(parts), True, commas
