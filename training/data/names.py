"""What a file calls a label: a number is a label by its value, however the file spells it, and never an index by guess.

pandas writes 1 as 1.0 where a column has an empty cell, and JSON has numbers where CSV has text. Owns how the names of
labels are read and ordered. Knows nothing of files.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any

from training.errors import did_you_mean

_NUMBER = re.compile(r"[+-]?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]+)?|\.[0-9]+)(?:e[+-][0-9]{2})?")
"""As Python and pandas write one. "007" and "5E1" are names: codes are written so."""


def name_of(value: Any) -> str:
    """A cell as a label's name, the same for 1, 1.0, "1" and "1.0"; empty for what names nothing."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and not math.isfinite(value):
        return ""
    if not isinstance(value, str | int | float):
        return ""
    text = str(value).strip()
    number = value_of(text)
    if number is None:
        return text
    if number == number.to_integral_value():
        return str(int(number))
    return format(number, "f").rstrip("0")


def value_of(name: str) -> Decimal | None:
    """The number that a name is; None for one that is none."""
    return Decimal(name) if _NUMBER.fullmatch(name) else None


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """The names, each once: numbers by their value, others by their code points."""
    found = set(names)
    by_value = {name: number for name in found if (number := value_of(name)) is not None}
    return tuple(sorted(found, key=by_value.__getitem__ if len(by_value) == len(found) else None))


class Names:
    """The labels that a file's cells may name; any, where none is given.

    Args:
        labels: in the order of their ids.
        indices: whether the file has indices of the labels, from 0, where it has numbers.
    """

    def __init__(self, labels: Sequence[str], *, indices: bool = False) -> None:
        self._labels = tuple(labels)
        self._indices = indices
        self._by_name = {name_of(label): label for label in labels}

    def find(self, name: str) -> str | None:
        """The label that a cell's name means; None where it is none of them."""
        if not self._labels:
            return name
        if self._indices and name.isdecimal():
            return self._labels[int(name)] if int(name) < len(self._labels) else None
        return self._by_name.get(name)

    def fault(self, name: str) -> str:
        """What is told of a name that is none of them."""
        told = repr(name) + did_you_mean(name, self._labels)
        numbers = any(value_of(label) is not None for label in self._labels)
        if not self._indices and not numbers and name.isdecimal() and int(name) < len(self._labels):
            told += '; where the file numbers its labels from 0 in this order, say table.numbers = "index"'
        return told
