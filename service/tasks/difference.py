"""How two answers to the same example differ, and the arithmetic of it. Knows no task."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

K = TypeVar("K", bound=Hashable)

SAME_SCORE = 0.05
"""Scores of a model that gives one number are the same answer where they differ by no more: absolutely, or relative to
the larger of the two."""
NONE = "(none)"
"""The other side of a flip where one answer has a label that the other does not have."""


@dataclass(frozen=True, slots=True)
class Difference:
    """How the second of two answers to the same example differs from the first.

    Attributes:
        agree: whether a client would take both for the same answer.
        flips: (first's, second's) labels where these differ; none is a client's text, and there are few pairs of them.
        distance: of the scores, 0 for equal ones: what it is of, the task says (`Task.compare`); None where the scores
            are no measure.
        overlap: share of the answers that is in both, 0 to 1, where answers have parts: spans, sets of labels.
        exact: whether spans are the same stretch of the same document, or both none; None for other tasks.
    """

    agree: bool
    flips: tuple[tuple[str, str], ...] = ()
    distance: float | None = None
    overlap: float | None = None
    exact: bool | None = None


def flip(first: str, second: str) -> tuple[tuple[str, str], ...]:
    """Get the flip from one label to another, none where they are the same."""
    return () if first == second else ((first, second),)


def same_score(first: float, second: float) -> bool:
    """Whether two scores are the same answer: see `SAME_SCORE`."""
    return math.isclose(first, second, rel_tol=SAME_SCORE, abs_tol=SAME_SCORE)


def total_variation(first: Mapping[K, float], second: Mapping[K, float]) -> float:
    """Get the total variation distance of two distributions, 0 to 1: half the sum of |difference|.

    Outcomes that one of them does not show are taken together as one, so of the best few it is the least that the
    distance can be.
    """
    shown = first.keys() & second.keys()
    rest = abs(sum(first[key] for key in shown) - sum(second[key] for key in shown))
    return min(1.0, 0.5 * (sum(abs(first[key] - second[key]) for key in shown) + rest))


def largest(first: Mapping[K, float], second: Mapping[K, float]) -> float:
    """Get the largest |difference| of a score that both show; 0 where they show none in common."""
    return max((abs(first[key] - second[key]) for key in first.keys() & second.keys()), default=0.0)


def jaccard(first: frozenset[str], second: frozenset[str]) -> float:
    """Get the share of all labels that is in both sets; 1 for two empty ones (Jaccard 1912)."""
    return len(first & second) / len(first | second) if first | second else 1.0


def discordance(first: Sequence[int], second: Sequence[int]) -> float:
    """Get the share of pairs that two rankings order differently, 0 to 1 (Kendall's tau distance), of what both rank.

    Where they have fewer than two in common: whether their best differ.
    """
    place = {item: place for place, item in enumerate(second)}
    ranks = [place[item] for item in first if item in place]
    if len(ranks) < 2:
        return float(first[0] != second[0])
    return 2 * _inversions(ranks)[0] / (len(ranks) * (len(ranks) - 1))


def _inversions(ranks: list[int]) -> tuple[int, list[int]]:
    """Count the pairs that stand in the wrong order, and sort them: a merge sort, n log n."""
    if len(ranks) < 2:
        return 0, ranks
    half = len(ranks) // 2
    (before, left), (after, right) = _inversions(ranks[:half]), _inversions(ranks[half:])
    count, merged, i = before + after, [], 0
    for rank in right:
        while i < len(left) and left[i] < rank:
            merged.append(left[i])
            i += 1
        count += len(left) - i
        merged.append(rank)
    return count, merged + left[i:]
