"""Anyone's own classification data: CSV, TSV, JSON lines or a hub data set, with the columns that a recipe names."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pydantic

from service.tasks import ClassificationExample
from training.data.glue import LabelledText
from training.data.names import Names, in_order, name_of
from training.data.records import Report, is_text, read_records
from training.errors import DataError, did_you_mean

MOST_LABELS = 1000
"""Labels that are taken from the data unasked. More of them, and the column is hardly one of labels."""


@pydantic.dataclasses.dataclass(frozen=True, config={"extra": "forbid", "strict": False})
class Table:
    """Which columns of a table are read, and how."""

    text: str = "text"  # the text, or the first of a pair
    text_pair: str = ""  # the second text of a pair; empty where texts stand alone
    label: str = "label"  # the label, or the labels of a text that may have several
    id: str = "id"  # the record's name, which no other may have; a table may lack this column
    separator: str = ","  # what stands between several labels in a cell (in JSON, they may be a list)
    # what a number is in the column of labels: a label by its `value`, or the `index` of one, from 0 in their order
    numbers: Literal["value", "index"] = "value"
    # what stands between the fields of a CSV or TSV file, and whether quotation marks enclose them: a key of
    # `dialect.DIALECTS`; empty to go by the file
    dialect: Literal["", "csv", "semicolon", "tsv", "plain"] = ""


@dataclass(frozen=True, slots=True)
class TaggedText:
    """An example with every label that holds, of labels that do not exclude one another."""

    example: ClassificationExample
    labels: frozenset[str]


@dataclass(frozen=True, slots=True)
class ScoredText:
    """An example with the number that it should have, and where it stands."""

    example: ClassificationExample
    score: float
    place: str = ""


def read_table(path: str, table: Table, labels: Sequence[str], report: Report) -> Iterator[LabelledText]:
    """Texts with one of `labels` each, by name; any label, where none is given. A number is a label by its value."""
    names = Names(labels, indices=table.numbers == "index")
    for where, record, example in _examples(path, table, report):
        name = name_of(record.get(table.label))
        if not name:
            _no_label(where, record, table, report)
        elif (known := names.find(name)) is None:
            report.add(where, "unknown label", names.fault(name), once=True)
        else:
            yield LabelledText(example, known)


def read_tags(path: str, table: Table, labels: Sequence[str], report: Report) -> Iterator[TaggedText]:
    """Texts with any number of labels each: names between separators, or a JSON list. An empty cell is none of them."""
    names = Names(labels, indices=table.numbers == "index")
    for where, record, example in _examples(path, table, report):
        cell = record.get(table.label)
        if isinstance(cell, str):
            cell = [name for name in cell.split(table.separator) if name.strip()]
        found = [name_of(each) for each in cell] if isinstance(cell, list) else [name_of(cell)]
        unknown = [name for name in found if names.find(name) is None]
        if not all(found):
            _no_label(where, record, table, report)
        elif unknown:
            report.add(where, "unknown label", names.fault(unknown[0]), once=True)
        else:
            yield TaggedText(example, frozenset(names.find(name) or name for name in found))


def read_scores(path: str, table: Table, report: Report) -> Iterator[ScoredText]:
    """Texts with a number each, in the column of labels; true and false are 1 and 0."""
    for where, record, example in _examples(path, table, report):
        cell = record.get(table.label)
        if cell is None or cell == "":
            _no_label(where, record, table, report)
        elif (score := _number(cell)) is None:
            report.add(where, "not a number", f"{table.label!r} is {cell!r}")
        else:
            yield ScoredText(example, score, where)


def labels_of(examples: Iterable[LabelledText | TaggedText]) -> tuple[str, ...]:
    """The labels that the examples have: numbers by their value, names by their code points.

    Raises:
        DataError: there are fewer than two, or more than 1,000.
    """
    found = {label for e in examples for label in (e.labels if isinstance(e, TaggedText) else (e.label,))}
    if len(found) < 2:
        raise DataError(
            f"the training data has {len(found)} labels ({', '.join(found)}): there is nothing to tell apart"
        )
    if len(found) > MOST_LABELS:
        raise DataError(
            f"the training data has {len(found)} different labels: is table.label the column of labels? "
            "If so, list them in the recipe's labels"
        )
    return in_order(found)


def _examples(
    path: str, table: Table, report: Report
) -> Iterator[tuple[str, Mapping[str, Any], ClassificationExample]]:
    """(place, record, example) of each record whose texts are texts and whose id is its own."""
    places: dict[str, str] = {}
    columns = [table.text, *((table.text_pair,) if table.text_pair else ())]
    for where, record in read_records(path, report, table.dialect):
        if missing := [column for column in columns if column not in record]:
            _no_column(where, record, missing[0], report)
        elif bad := [column for column in columns if not is_text(record[column])]:
            report.add(where, f"{bad[0]!r} is empty or not a text")
        elif (identifier := _identifier(record.get(table.id))) and identifier in places:
            report.add(where, "the id stands twice", f"{identifier!r}, first at {places[identifier]}")
        else:
            places[identifier] = where
            yield where, record, ClassificationExample(*(record[column].strip() for column in columns))


def _number(cell: Any) -> float | None:
    """A cell as a number; None for what is none, or is not finite."""
    try:
        number = float({"true": 1, "false": 0}.get(str(cell).strip().lower(), cell))
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _no_label(where: str, record: Mapping[str, Any], table: Table, report: Report) -> None:
    if table.label in record:
        report.add(where, "no label", f"{table.label!r} is {record[table.label]!r}")
    else:
        _no_column(where, record, table.label, report)


def _no_column(where: str, record: Mapping[str, Any], column: str, report: Report) -> None:
    report.add(where, f"no column {column!r}", did_you_mean(column, record).removeprefix("; "), once=True)


def _identifier(value: Any) -> str:
    """A cell as a record's id, as the file spells it; empty for what is none."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip() if isinstance(value, str | int | float) else ""
