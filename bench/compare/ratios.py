"""ALBERT over BERT of the same shape: what sharing changes, and what it does not.

Owns which models are held against each other, and in what. Knows nothing of how it is shown.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from bench.compare.results import Comparison, Row
from bench.report.figure import Figure

PAIRS = (("albert-base", "bert-base"), ("albert-large", "bert-large"))
"""Models of the same shape, so that they differ in sharing and factorisation alone."""

Pair: TypeAlias = tuple[Row, Row]
"""An ALBERT and its BERT."""


@dataclass(frozen=True, slots=True)
class Ratio:
    """How many times its BERT an ALBERT costs; `estimated` where one of the two was not run."""

    value: float
    estimated: bool


@dataclass(frozen=True, slots=True)
class Quantity:
    """Something that models cost.

    Attributes:
        name: what it is called.
        ratios: each pair's, in the order of `pairs`; None for one that was not measured in it.
        fact: what stands behind the first pair's ratio where the page begins with it; else empty.
    """

    name: str
    ratios: tuple[Ratio | None, ...]
    fact: str = ""


def pairs(comparison: Comparison) -> list[Pair]:
    """List the pairs that were compared."""
    names = {row.name for row in comparison.rows}
    return [(comparison.row(a), comparison.row(b)) for a, b in PAIRS if a in names and b in names]


def quantities(compared: list[Pair]) -> list[Quantity]:
    """List every cost in which some pair was measured, what is stored first."""
    found: list[Quantity] = []

    def add(name: str, figures: Iterable[tuple[Figure | None, Figure | None]], fact: str = "") -> None:
        ratios = tuple(
            Ratio(mine.over(theirs), mine.estimated or theirs.estimated) if mine and theirs else None
            for mine, theirs in figures
        )
        if any(ratios):
            found.append(Quantity(name, ratios, fact))

    first, _ = compared[0]
    tokens = middle(first.flops)
    add("parameters", ((Figure((a.parameters.total,)), Figure((b.parameters.total,))) for a, b in compared))
    for kind in first.sizes:
        name = "checkpoint file" if kind == "checkpoint" else f"{kind} graph file"
        add(name, ((a.sizes.get(kind), b.sizes.get(kind)) for a, b in compared))
    for precision in first.memory:
        figures = [(a.memory.get(precision), b.memory.get(precision)) for a, b in compared]
        add(f"memory served, {precision}", figures, f"the memory of the serving process, {precision}")
    add("memory of training", ((a.training_memory, b.training_memory) for a, b in compared))
    add(
        f"operations, {tokens} tokens", ((Figure((a.flops[tokens],)), Figure((b.flops[tokens],))) for a, b in compared),
        f"the operations for a row of {tokens} tokens",
    )  # fmt: skip
    for precision in first.latency:
        times = [[row.latency.get(precision, {}).get(tokens) for row in pair] for pair in compared]
        add(f"time of a row, {precision}", ((a, b) for a, b in times), f"the time for it, served in {precision}")
    add("time of training", ((b.training, a.training) for a, b in compared))  # those are tokens a second
    return found


def middle(lengths: Mapping[int, int]) -> int:
    """Get the length that a summary shows: the one in the middle."""
    return sorted(lengths)[len(lengths) // 2]
