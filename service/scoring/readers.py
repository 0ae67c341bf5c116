"""Rows of Parquet, JSON lines and CSV files, in blocks, from any row on.

Owns the three formats as input. Knows nothing of models.
"""

from __future__ import annotations

import contextlib
import io
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, islice
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from service.scoring.errors import ScoringError
from service.scoring.lines import Fault, Record, csv_header, csv_records, json_records
from service.scoring.storage import File, told

ROWS = 1024
"""Most rows of a block."""
CHARACTERS = 2_000_000
"""Of a block of text lines: with it, long rows come in blocks of few."""
LOOKED_AT = 1000
"""First rows of a JSON lines file, whose keys are its columns."""
BUFFER = 1 << 20

FORMATS: Mapping[str, str] = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "csv",
}
"""What a file is, by how its name ends."""


@dataclass(frozen=True, slots=True)
class Start:
    """Where a part of a file begins.

    Attributes:
        first: its first row, from 0.
        rows: how many it has.
        offset: of the first row in bytes; 0 in a Parquet file.
    """

    first: int
    rows: int
    offset: int


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Some rows that follow one another.

    Attributes:
        first: row of the file that is the first one.
        rows: the rows: an Arrow batch from Parquet, else the values by column of each, none where it has a fault.
        faults: of rows that cannot be read, by their place in the block.
    """

    first: int
    rows: pa.RecordBatch | list[dict[str, Any]]
    faults: dict[int, Fault]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def names(self) -> list[str]:
        """Names of an Arrow batch's columns."""
        return [] if isinstance(self.rows, list) else list(self.rows.schema.names)

    def values(self, columns: Sequence[str]) -> list[dict[str, Any]]:
        """Get the values of some columns, row by row; what a row has not is left out."""
        if isinstance(self.rows, list):
            return [{name: row[name] for name in columns if name in row} for row in self.rows]
        lists = [_values(self.rows.column(name)) for name in columns]
        if not lists:
            return [{} for _ in range(len(self.rows))]
        return [dict(zip(columns, values, strict=True)) for values in zip(*lists, strict=True)]


class Reader(ABC):
    """A file of rows."""

    def __init__(self, file: File) -> None:
        self.file = file

    @abstractmethod
    def columns(self) -> list[str]:
        """Get the names of its columns. Raises ScoringError where the file cannot be read."""

    @abstractmethod
    def schema(self, columns: Sequence[str]) -> pa.Schema:
        """Get the types of some columns, for a Parquet file of them."""

    @abstractmethod
    def starts(self, rows: int) -> Iterator[Start]:
        """Cut the file into parts of so many rows."""

    @abstractmethod
    def blocks(self, start: Start, columns: Sequence[str] | None) -> Iterator[Block]:
        """Read the rows of a part: of these columns, or all."""


class TextReader(Reader):
    """A file of lines."""

    @abstractmethod
    def records(self, file: Any, offset: int) -> Iterator[Record]:
        """Read its records from an offset on; 0 is the first."""

    def schema(self, columns: Sequence[str]) -> pa.Schema:
        return pa.schema([(name, pa.string()) for name in columns])

    def starts(self, rows: int) -> Iterator[Start]:
        first = count = offset = 0
        with self._open() as file:
            for record in self.records(file, 0):
                if count == rows:
                    yield Start(first, count, offset)
                    first, count = first + count, 0
                if not count:
                    offset = record.offset
                count += 1
        if count:
            yield Start(first, count, offset)

    def blocks(self, start: Start, columns: Sequence[str] | None) -> Iterator[Block]:
        with self._open() as file:
            records = self.records(file, start.offset)
            at, end = start.first, start.first + start.rows
            while at < end:
                block = _block(at, records, min(ROWS, end - at))
                if not len(block):
                    raise ScoringError(f"{self.file.url} ends at row {at}, and had {end} when the run began")
                yield block
                at += len(block)

    @contextlib.contextmanager
    def _open(self) -> Iterator[Any]:
        with self.file.open() as raw, told(self.file.url):
            yield raw if isinstance(raw, io.BufferedReader) else io.BufferedReader(raw, BUFFER)


class JsonLinesReader(TextReader):
    """A JSON object a line."""

    def columns(self) -> list[str]:
        return list(dict.fromkeys(name for row in self._first() for name in row))

    def schema(self, columns: Sequence[str]) -> pa.Schema:
        rows = self._first()
        found = []
        for name in columns:
            try:
                kind = pa.array([row.get(name) for row in rows]).type
            except (pa.ArrowException, OverflowError) as error:
                raise ScoringError(f"{self.file.url}: column {name!r} is of several types: {error}") from error
            found.append((name, pa.string() if pa.types.is_null(kind) else kind))
        return pa.schema(found)

    def records(self, file: Any, offset: int) -> Iterator[Record]:
        return json_records(file, offset)

    def _first(self) -> list[dict[str, Any]]:
        with self._open() as file:
            first = list(islice(self.records(file, 0), LOOKED_AT))
        return [record.row for record in first if isinstance(record.row, dict)]


class CsvReader(TextReader):
    """Cells between delimiters, a header first. All values are texts."""

    def __init__(self, file: File, delimiter: str | None) -> None:
        super().__init__(file)
        self._delimiter = delimiter or ("\t" if file.url.endswith(".tsv") else ",")

    def columns(self) -> list[str]:
        with self._open() as file:
            return csv_header(file, self.file.url, self._delimiter)[0]

    def records(self, file: Any, offset: int) -> Iterator[Record]:
        header, begin = csv_header(file, self.file.url, self._delimiter)
        return csv_records(file, header, self._delimiter, offset or begin)


class ParquetReader(Reader):
    """A Parquet file; its columns keep their types."""

    def columns(self) -> list[str]:
        with self._open() as file:
            return list(file.schema_arrow.names)

    def schema(self, columns: Sequence[str]) -> pa.Schema:
        with self._open() as file:
            return pa.schema([file.schema_arrow.field(name) for name in columns])

    def starts(self, rows: int) -> Iterator[Start]:
        with self._open() as file:
            total = file.metadata.num_rows
        for first in range(0, total, rows):
            yield Start(first, min(rows, total - first), 0)

    def blocks(self, start: Start, columns: Sequence[str] | None) -> Iterator[Block]:
        at, end = start.first, start.first + start.rows
        with self._open() as file:
            ends = list(accumulate(file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)))
            begins = [0, *ends[:-1]]
            groups = [
                i for i, (begin, after) in enumerate(zip(begins, ends, strict=True)) if begin < end and at < after
            ]
            position = begins[groups[0]]
            chosen = None if columns is None else list(columns)
            for batch in file.iter_batches(ROWS, row_groups=groups, columns=chosen, use_threads=False):
                skipped = min(len(batch), max(0, at - position))
                position += len(batch)
                batch = batch.slice(skipped, end - at)
                step = max(1, CHARACTERS * len(batch) // max(1, batch.nbytes))
                for begin in range(0, len(batch), step):
                    piece = batch.slice(begin, step)
                    yield Block(at, piece, {})
                    at += len(piece)

    @contextlib.contextmanager
    def _open(self) -> Iterator[pq.ParquetFile]:
        with self.file.open() as raw:
            try:
                yield pq.ParquetFile(raw, buffer_size=BUFFER, pre_buffer=False)
            except (pa.ArrowException, OSError) as error:
                reason = str(error).partition("\n")[0]
                raise ScoringError(f"{self.file.url} is no whole Parquet file: {reason}") from error


def open_reader(file: File, delimiter: str | None = None) -> Reader:
    """Choose the reader of a file by its name. Raises ScoringError."""
    match format_of(file):
        case "parquet":
            return ParquetReader(file)
        case "csv":
            return CsvReader(file, delimiter)
    return JsonLinesReader(file)


def format_of(file: File) -> str:
    """Get a file's format by its name. Raises ScoringError."""
    for ending, kind in FORMATS.items():
        if file.url.lower().endswith(ending):
            return kind
    raise ScoringError(f"{file.url}: its name ends with none of {', '.join(FORMATS)}")


def _block(first: int, records: Iterator[Record], most: int) -> Block:
    """Take the next rows, up to `most` and some megabytes."""
    rows: list[dict[str, Any]] = []
    faults: dict[int, Fault] = {}
    characters = 0
    for record in records:
        if isinstance(record.row, Fault):
            faults[len(rows)] = record.row
            rows.append({})
        else:
            rows.append(record.row)
            characters += sum(len(value) for value in record.row.values() if isinstance(value, str))
        if len(rows) == most or characters > CHARACTERS:
            break
    return Block(first, rows, faults)


def _values(column: pa.Array) -> list[Any]:
    """Get a column as Python has it; a text that is not UTF-8 as its bytes."""
    try:
        return list(column.to_pylist())
    except UnicodeDecodeError:
        return [_text(value) for value in column.cast(pa.large_binary()).to_pylist()]


def _text(value: bytes | None) -> str | bytes | None:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return value
