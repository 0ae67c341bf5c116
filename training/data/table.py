"""Anyone's own classification data: CSV, TSV, JSON lines or a hub data set, with the columns that a recipe names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pydantic

from service.tasks import ClassificationExample
from training.data.glue import LabelledText
from training.data.records import Report, is_text, read_records
from training.errors import DataError, did_you_mean

MOST_LABELS = 1000
"""Labels that are taken from the data unasked. More of them, and the column is hardly one of labels."""


@pydantic.dataclasses.dataclass(frozen=True, config={"extra": "forbid", "strict": False})
class Table:
    """Which columns of a table are read."""

    text: str = "text"  # the text, or the first of a pair
    text_pair: str = ""  # the second text of a pair; empty where texts stand alone
    label: str = "label"  # the label, or the labels of a text that may have several
    id: str = "id"  # the record's name, which no other may have; a table may lack this column
    separator: str = ","  # what stands between several labels in a cell (in JSON, they may be a list)


@dataclass(frozen=True, slots=True)
class TaggedText:
    """An example with every label that holds, of labels that do not exclude one another."""

    example: ClassificationExample
    labels: frozenset[str]


def read_table(path: str, table: Table, labels: Sequence[str], report: Report) -> Iterator[LabelledText]:
    """Texts with one of `labels` each, by name, or by number where no name is one; any label, where none is given."""
    for where, record, example in _examples(path, table, report):
        label = _name(record.get(table.label))
        if not label:
            _no_label(where, record, table, report)
        elif (known := _known(label, labels)) is None:
            report.add(where, "unknown label", repr(label) + did_you_mean(label, labels))
        else:
            yield LabelledText(example, known)


def read_tags(path: str, table: Table, labels: Sequence[str], report: Report) -> Iterator[TaggedText]:
    """Texts with any number of labels each: names between separators, or a JSON list. An empty cell is none of them."""
    for where, record, example in _examples(path, table, report):
        cell = record.get(table.label)
        if isinstance(cell, str):
            cell = [name for name in cell.split(table.separator) if name.strip()]
        names = [_name(each) for each in cell] if isinstance(cell, list) else [_name(cell)]
        unknown = [name for name in names if _known(name, labels) is None]
        if not all(names):
            _no_label(where, record, table, report)
        elif unknown:
            report.add(where, "unknown label", repr(unknown[0]) + did_you_mean(unknown[0], labels))
        else:
            yield TaggedText(example, frozenset(_known(name, labels) or name for name in names))


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
    return tuple(sorted(found, key=int if all(label.isdecimal() for label in found) else None))


def _examples(
    path: str, table: Table, report: Report
) -> Iterator[tuple[str, Mapping[str, Any], ClassificationExample]]:
    """(place, record, example) of each record whose texts are texts and whose id is its own."""
    places: dict[str, str] = {}
    columns = [table.text, *((table.text_pair,) if table.text_pair else ())]
    for where, record in read_records(path, report):
        if missing := [column for column in columns if column not in record]:
            report.add(where, f"no column {missing[0]!r}", did_you_mean(missing[0], record).removeprefix("; "))
        elif bad := [column for column in columns if not is_text(record[column])]:
            report.add(where, f"{bad[0]!r} is empty or not a text")
        elif (identifier := _name(record.get(table.id))) and identifier in places:
            report.add(where, "the id stands twice", f"{identifier!r}, first at {places[identifier]}")
        else:
            places[identifier] = where
            yield where, record, ClassificationExample(*(record[column].strip() for column in columns))


def _no_label(where: str, record: Mapping[str, Any], table: Table, report: Report) -> None:
    if table.label in record:
        report.add(where, "no label", f"{table.label!r} is {record[table.label]!r}")
    else:
        report.add(where, f"no column {table.label!r}", did_you_mean(table.label, record).removeprefix("; "))


def _name(value: Any) -> str:
    """A cell as a name: JSON has numbers and truth values where CSV has text; nothing of what is neither."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip() if isinstance(value, str | int | float) else ""


def _known(label: str, labels: Sequence[str]) -> str | None:
    """The label that is meant: hubs and GLUE number labels from 0 in their order."""
    if not labels or label in labels:
        return label
    if label.isdecimal() and int(label) < len(labels) and not any(name.isdecimal() for name in labels):
        return labels[int(label)]
    return None
