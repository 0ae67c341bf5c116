"""The layouts of data files, by name: what reads each, and what it reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, TypeAlias

from training.data.glue import LabelledText, read_nli, read_sst2
from training.data.race import ChoiceQuestion, read_race
from training.data.records import Report
from training.data.squad import Question, read_squad
from training.data.table import Table, TaggedText, read_table, read_tags

Layout: TypeAlias = Literal["sst2", "nli", "squad", "race", "table"]
LAYOUTS: Mapping[str, tuple[Layout, ...]] = {
    "classification": ("sst2", "nli", "table"),
    "multiple_choice": ("race",),
    "span": ("squad",),
}
"""The data that each task can be learnt from and scored on."""

Labelled: TypeAlias = LabelledText | TaggedText | Question | ChoiceQuestion
"""A task's example with what is right of it. Each has its `example`, as the service's task encodes it."""


def read(
    path: str, layout: Layout, report: Report, *, labels: Sequence[str], table: Table, multi_label: bool
) -> Iterator[Labelled]:
    """The examples of a file in that layout.

    Args:
        labels: the labels there may be; with layout `table`, none means any.
        table: the columns of layout `table`.
        multi_label: whether a record of layout `table` may have several labels.
    """
    match layout:
        case "squad":
            return read_squad(path, report)
        case "race":
            return read_race(path, report)
        case "sst2":
            return read_sst2(path, labels, report)
        case "nli":
            return read_nli(path, labels, report)
        case "table" if multi_label:
            return read_tags(path, table, labels, report)
        case "table":
            return read_table(path, table, labels, report)
