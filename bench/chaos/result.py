"""The result of an attack: its measured values, what is wanted, and whether that holds.

Owns the table that is printed. Knows nothing of how an attack is made.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Value:
    """A measured value and its unit ("s", "MB", or empty for a count or a word)."""

    amount: Any
    unit: str = ""

    def __str__(self) -> str:
        if self.amount is None:
            return "never"
        if isinstance(self.amount, bool):
            return "yes" if self.amount else "no"
        if isinstance(self.amount, float):
            digits = 0 if abs(self.amount) >= 100 else 1 if abs(self.amount) >= 10 else 2
            return f"{self.amount:.{digits}f} {self.unit}".strip()
        if isinstance(self.amount, Sequence) and not isinstance(self.amount, str):
            return ", ".join(map(str, self.amount)) or "none"
        return f"{self.amount} {self.unit}".strip()


@dataclass(slots=True)
class Result:
    """What an attack did.

    Attributes:
        number: the fault's number in the table of issue 10.
        attack: in a few words.
        wanted: in a few words.
        values: what was measured, by name; `result["name"]` is the bare amount.
        met: whether what is wanted holds.
    """

    number: int
    attack: str
    wanted: str
    values: dict[str, Value] = field(default_factory=dict)
    met: bool = False

    def __getitem__(self, name: str) -> Any:
        return self.values[name].amount

    def put(self, name: str, amount: Any, unit: str = "") -> Any:
        """Notes a value and returns it."""
        self.values[name] = Value(amount, unit)
        return amount

    def measured(self) -> str:
        """All values in one line."""
        return "; ".join(f"{name} {value}" for name, value in self.values.items())


def table(results: Iterable[Result], *, markdown: bool) -> str:
    """The results as a table: of Markdown, or as plain text."""
    if markdown:
        lines = ["| # | attack | measured | wanted | met |", "|---|---|---|---|---|"]
        for each in results:
            cells = (str(each.number), each.attack, each.measured(), each.wanted, "yes" if each.met else "**no**")
            lines.append("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |")
        return "\n".join(lines)
    return "\n".join(line(each) for each in results)


def line(result: Result) -> str:
    """One result as plain text."""
    mark = "met    " if result.met else "NOT MET"
    lines = (result.attack, f"measured: {result.measured()}", f"wanted:   {result.wanted}")
    return f"{result.number:2}  {mark}  " + "\n      ".join(lines)
