"""A part's output file: the columns kept of the input's rows, and the answers' columns after them.

Owns the three formats as output. Knows nothing of models.
"""

from __future__ import annotations

import csv
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from service.scoring.answers import Type
from service.scoring.readers import Block

GROUP_ROWS = 1 << 16
GROUP_BYTES = 32 << 20
"""A row group of a Parquet file is written when it has so much: what bounds memory."""
ARROW: dict[Type, pa.DataType] = {
    "string": pa.string(),
    "double": pa.float64(),
    "int64": pa.int64(),
    "bool": pa.bool_(),
    "json": pa.string(),
}
W = TypeVar("W", bound="Writer")


class Writer(ABC):
    """A file in the making; leaving the block closes it.

    Attributes:
        columns: of the answers.
    """

    columns: dict[str, Type]

    @abstractmethod
    def unfit(self, block: Block, place: int) -> str | None:
        """Get why a row cannot be kept in this format, if it cannot."""

    @abstractmethod
    def write(self, block: Block, places: Sequence[int], answers: Sequence[Sequence[Any]]) -> None:
        """Write the rows at some places of a block, each with its answer."""

    @abstractmethod
    def close(self) -> None:
        """End the file."""

    def __enter__(self: W) -> W:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class TextWriter(Writer):
    """A file of lines."""

    def __init__(self, path: Path, kept: Sequence[str] | None, columns: dict[str, Type]) -> None:
        """
        Args:
            kept: columns of the input that are kept; None for whatever a row has.
            columns: of the answers.
        """
        self.columns = columns
        self._kept = kept
        self._file = path.open("w", encoding="utf-8", newline="")

    def _rows(self, block: Block, places: Sequence[int]) -> list[dict[str, Any]]:
        if isinstance(block.rows, list) and self._kept is None:
            return [block.rows[place] for place in places]
        names = self._kept if self._kept is not None else block.names
        values = block.values(names)
        return [values[place] for place in places]

    def close(self) -> None:
        self._file.close()


class JsonLinesWriter(TextWriter):
    """A JSON object a line. Lists and mappings are what they are."""

    def unfit(self, block: Block, place: int) -> str | None:
        if isinstance(block.rows, list) and self._kept is None:
            taken = block.rows[place].keys() & self.columns.keys()
            if taken:
                return f"it has {min(taken)!r}, which is a column of the answer"
        return None

    def write(self, block: Block, places: Sequence[int], answers: Sequence[Sequence[Any]]) -> None:
        for row, answer in zip(self._rows(block, places), answers, strict=True):
            self._file.write(dumped(row | dict(zip(self.columns, answer, strict=True))) + "\n")


class CsvWriter(TextWriter):
    """Cells between commas, or other delimiters. A null is an empty cell."""

    def __init__(
        self, path: Path, kept: Sequence[str], columns: dict[str, Type], *, every: bool, delimiter: str
    ) -> None:
        """
        Args:
            every: whether every column of the input is to be kept: then a row must not have others.
        """
        super().__init__(path, kept, columns)
        self._kept: Sequence[str] = kept
        self._all = every
        self._cells = csv.writer(self._file, delimiter=delimiter, lineterminator="\n")
        self._cells.writerow([*kept, *columns])

    def unfit(self, block: Block, place: int) -> str | None:
        return unknown_column(block, place, self._kept) if self._all else None

    def write(self, block: Block, places: Sequence[int], answers: Sequence[Sequence[Any]]) -> None:
        for row, answer in zip(self._rows(block, places), answers, strict=True):
            self._cells.writerow([*(_cell(row.get(name)) for name in self._kept), *map(_cell, answer)])


class ParquetWriter(Writer):
    """A Parquet file. Kept columns have the types of the input's."""

    def __init__(self, path: Path, kept: pa.Schema, columns: dict[str, Type], *, every: bool) -> None:
        """
        Args:
            every: whether every column of the input is to be kept: then a row must not have others.
        """
        self.columns = columns
        self._kept = kept
        self._all = every
        self._answers = pa.schema([(name, ARROW[kind]) for name, kind in columns.items()])
        self._schema = pa.schema([*kept, *self._answers])
        self._file = pq.ParquetWriter(path, self._schema, compression="zstd")
        self._batches: list[pa.RecordBatch] = []

    def unfit(self, block: Block, place: int) -> str | None:
        if not isinstance(block.rows, list):
            return None
        row = block.rows[place]
        for field in self._kept:
            try:
                pa.scalar(row.get(field.name), field.type)
            except (pa.ArrowException, ValueError, TypeError, OverflowError):
                return f"column {field.name!r} is not of type {field.type}, as in the first rows"
        return unknown_column(block, place, self._kept.names) if self._all else None

    def write(self, block: Block, places: Sequence[int], answers: Sequence[Sequence[Any]]) -> None:
        if isinstance(block.rows, list):
            kept = pa.RecordBatch.from_pylist([block.rows[place] for place in places], schema=self._kept)
        else:
            kept = block.rows.select(self._kept.names).take(pa.array(places, pa.int64()))
        arrays = []
        for i, (field, kind) in enumerate(zip(self._answers, self.columns.values(), strict=True)):
            values = [answer[i] for answer in answers]
            arrays.append(pa.array(map(dumped, values) if kind == "json" else values, field.type, size=len(values)))
        self._batches.append(pa.RecordBatch.from_arrays([*kept.columns, *arrays], schema=self._schema))
        enough = sum(map(len, self._batches)) >= GROUP_ROWS
        if enough or sum(batch.nbytes for batch in self._batches) >= GROUP_BYTES:
            self._flush()

    def close(self) -> None:
        if self._batches:
            self._flush()
        self._file.close()

    def _flush(self) -> None:
        self._file.write_table(pa.Table.from_batches(self._batches, self._schema))
        self._batches = []


def dumped(value: Any) -> str:
    """Write a value as JSON; what JSON has not as its text."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, default=_plain)
    except ValueError:  # a number that is none
        return json.dumps(_finite(value), ensure_ascii=False, default=_plain)


def unknown_column(block: Block, place: int, kept: Sequence[str]) -> str | None:
    """Tell a value of a JSON line that the columns of the output have no place for. Nothing is dropped without a
    word."""
    if isinstance(block.rows, list):
        unknown = block.rows[place].keys() - set(kept)
        if unknown:
            return f"it has {min(unknown)!r}, which no row at the beginning has; --keep says which to keep"
    return None


def _cell(value: Any) -> Any:
    if isinstance(value, bool | list | tuple | dict):
        return dumped(value)
    return _plain(value) if isinstance(value, bytes) else value


def _plain(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and value - value != 0 else value
