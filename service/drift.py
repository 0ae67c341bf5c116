"""Drift: how far what a model is asked and answers now is from its dev set.

Owns the profile of a dev set, the same of the last hours, and the distance between them: the population stability
index, the symmetric Kullback-Leibler divergence of two sets of shares (Siddiqi 2006, Credit Risk Scorecards, chapter 8;
there, over 0.1 is worth a look and over 0.25 is another population). It counts; no text is kept.
"""

from __future__ import annotations

import math
import time
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import numpy as np
from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from service.engine.batch import Encoded
from service.tasks import AnyTask

FEATURES = ("label", "score", "tokens", "unknown")
"""What is compared: predicted labels, scores, tokens of an input, and the share of tokens that the vocabulary lacks."""
LEAST = 300
"""Inputs, of the dev set and of the last hours, below which nothing is said. Ten bins of 300 inputs of one kind beside
300 are 0.06 apart on average, and over 0.11 once in twenty times."""
SLOTS, SLOT_SECONDS = 24, 600.0
"""The last hours are four, counted by ten minutes each."""

Count = Annotated[int, Field(ge=0)]


@dataclass(frozen=True, slots=True, config={"extra": "ignore"})
class Histogram:
    """Counts of values: up to the first edge, from there up to the second, ..., over the last."""

    edges: tuple[float, ...]
    counts: tuple[Count, ...]

    @model_validator(mode="after")
    def _check(self) -> Histogram:
        if len(self.counts) != len(self.edges) + 1 or list(self.edges) != sorted(self.edges):
            raise ValueError("a histogram has ascending edges, and one count more")
        return self


@dataclass(frozen=True, slots=True, kw_only=True, config={"extra": "ignore"})
class Profile:
    """What the inputs and answers of a dev set are like.

    Attributes:
        data: the dev files.
        inputs: how many there are.
        labels: how many got each label; that of a question is `answer` or `no_answer`, so its share is in here.
        scores: of the answers.
        tokens: of the inputs, all rows of each together.
        known, unknown: tokens that the vocabulary has, and that it lacks.
    """

    data: tuple[str, ...]
    inputs: Count
    labels: Mapping[str, Count]
    scores: Histogram
    tokens: Histogram
    known: Count
    unknown: Count


class _Slot(NamedTuple):
    """What was counted in one `SLOT_SECONDS`, by feature."""

    period: int
    counts: Mapping[str, list[int]]


class Tally(NamedTuple):
    """What drift is measured by, by feature.

    Attributes:
        least: inputs of the dev set.
        expected: counts of the dev set.
        found: counts of the last hours.
    """

    least: int
    expected: Mapping[str, list[int]]
    found: Mapping[str, list[int]]

    @property
    def inputs(self) -> int:
        """Inputs of the last hours."""
        return sum(self.found["tokens"])  # each counts once there

    def distance(self, feature: str) -> float:
        """Get the population stability index of one of `FEATURES` in the last hours; NaN where there was too little, or
        where the dev set has but one bin."""
        if min(self.least, self.inputs) < LEAST or len(self.expected[feature]) == 1:
            return math.nan
        return stability_index(self.expected[feature], self.found[feature])


def add(tallies: Sequence[Tally]) -> Tally:
    """Add up what several processes have found with one profile."""
    first = tallies[0]
    return first._replace(
        found={
            feature: [sum(bins) for bins in zip(*(each.found[feature] for each in tallies), strict=True)]
            for feature in first.found
        }
    )


class Drift:
    """Counts what one model is asked and answers. Used on one event loop; any thread may ask for the distance."""

    def __init__(self, profile: Profile, unknown_id: int | None, clock: Callable[[], float] = time.monotonic) -> None:
        """
        Args:
            unknown_id: id of the token for what the vocabulary lacks, if there is one.
        """
        self._profile, self._unknown_id, self._clock = profile, unknown_id, clock
        self._labels = {label: i for i, label in enumerate(profile.labels)}
        self._expected = {
            "label": [*profile.labels.values(), 0],  # the last one is what no dev answer was
            "score": [*profile.scores.counts],
            "tokens": [*profile.tokens.counts],
            "unknown": [profile.known, profile.unknown],
        }
        self._slots = [self._empty(-SLOTS) for _ in range(SLOTS)]

    def observe(self, task: AnyTask, encoded: Sequence[Sequence[Encoded]], predictions: Sequence[Any]) -> None:
        """Count inputs: the rows of each, and what was predicted."""
        period = int(self._clock() / SLOT_SECONDS)
        slot = self._slots[period % SLOTS]
        if slot.period != period:
            slot = self._slots[period % SLOTS] = self._empty(period)
        by_label, by_score, by_tokens, by_unknown = (slot.counts[feature] for feature in FEATURES)
        for rows, prediction in zip(encoded, predictions, strict=True):
            labels, score, tokens = describe(task, rows, prediction)
            for label in labels:
                by_label[self._labels.get(label, -1)] += 1
            if score is not None:
                by_score[bisect_left(self._profile.scores.edges, score)] += 1
            by_tokens[bisect_left(self._profile.tokens.edges, tokens)] += 1
            unknown = count_unknown(rows, self._unknown_id)
            by_unknown[0] += tokens - unknown
            by_unknown[1] += unknown

    def tally(self) -> Tally:
        """Get what drift is measured by now."""
        oldest = int(self._clock() / SLOT_SECONDS) - SLOTS
        recent = [slot.counts for slot in self._slots if slot.period > oldest] or [self._empty(0).counts]
        found = {
            feature: [sum(bins) for bins in zip(*(counts[feature] for counts in recent), strict=True)]
            for feature in FEATURES
        }
        return Tally(self._profile.inputs, self._expected, found)

    def distance(self, feature: str) -> float:
        """Get the population stability index of one of `FEATURES` in the last hours; NaN where there was too little, or
        where the dev set has but one bin."""
        return self.tally().distance(feature)

    def _empty(self, period: int) -> _Slot:
        return _Slot(period, {feature: [0] * len(self._expected[feature]) for feature in FEATURES})


def describe(task: AnyTask, rows: Sequence[Encoded], prediction: Any) -> tuple[tuple[str, ...], float | None, int]:
    """Get the labels of an input, the empty one where none holds; its score, if that is a probability; its tokens."""
    score: float | None
    labels, score = task.observed(prediction)
    return labels or ("",), score, sum(map(len, rows))


def count_unknown(rows: Sequence[Encoded], unknown_id: int | None) -> int:
    """Count the tokens that the vocabulary lacks."""
    if unknown_id is None:
        return 0
    ids = rows[0].input_ids if len(rows) == 1 else np.concatenate([row.input_ids for row in rows])
    return int(np.count_nonzero(ids == unknown_id))


def stability_index(expected: Sequence[int], found: Sequence[int]) -> float:
    """Get the population stability index of counts of the same bins.

    Each bin has half a count more, so that one that is empty on one side is far and not infinitely far.
    """

    def shares(counts: Sequence[int]) -> list[float]:
        total = sum(counts) + 0.5 * len(counts)
        return [(count + 0.5) / total for count in counts]

    return sum((q - p) * math.log(q / p) for p, q in zip(shares(expected), shares(found), strict=True))
