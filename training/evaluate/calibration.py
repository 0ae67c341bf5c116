"""Scores that are as high as answers are right: the temperature, the calibration error, the reliability diagram.

Owns what is fitted and measured on the scores of dev answers, decoded as in production. Guo et al. 2017 (arXiv
1706.04599): logits are divided by one number, so no answer changes, and scores become less (or more) sure.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training import tasks
from training.evaluate.runner import Inferred, decode
from training.tasks import Served

BINS = 15
COOLEST, HOTTEST = 0.1, 10.0
FEWEST = 100
"""Answers that a temperature is fitted on at least: the fit to a handful says nothing of the next ones."""
MOST = 20_000
"""Labels of texts that it is fitted on at most, where each label of a text is an answer: it would take minutes."""


@dataclass(frozen=True, slots=True)
class Scored:
    """Dev answers with their scores."""

    # probability that each answer was given, shape [answers]. Labels that do not exclude one another are an answer
    # each
    score: NDArray[np.float64]
    # whether it is: the gold label or option, or an exact match with a reference answer; whether such a label holds;
    # shape [answers]
    right: NDArray[np.bool_]
    # mean negative log-likelihood, in nats, of the gold labels or options; of a span, of its being right or wrong; of
    # such a label, of its holding or not
    loss: float


@dataclass(frozen=True, slots=True)
class Bin:
    """Answers of like score: how many, their mean score, and the share of them that is right."""

    low: float
    high: float
    count: int
    score: float
    right: float


@dataclass(frozen=True, slots=True)
class Fit:
    """A fitted temperature, and the bins of answers before it and with it."""

    temperature: float
    before: tuple[Bin, ...]
    # each half of the answers under the temperature that was fitted on the other half, so that it is not measured on
    # what it was fitted to
    after: tuple[Bin, ...]


def fit(task: Served, inferred: Sequence[Inferred]) -> Fit | None:
    """The temperature with the least loss on the answers; None for fewer than 100 of them.

    Args:
        inferred: labelled texts, or questions that have an answer.
    """
    if len(inferred) < FEWEST:
        return None
    each = len(tasks.of(task).answers(inferred[0].reference, decode(task, inferred[0])))
    inferred = inferred[:: max(1, min(len(inferred) // FEWEST, each * len(inferred) // MOST))]
    halves = inferred[::2], inferred[1::2]
    crossed = [
        score(task.with_temperature(_temperature(task, fitted)), held_out)
        for fitted, held_out in (halves, halves[::-1])
    ]
    before = score(task.with_temperature(1.0), inferred)
    return Fit(
        _temperature(task, inferred),
        bins(before.score, before.right),
        bins(np.concatenate([half.score for half in crossed]), np.concatenate([half.right for half in crossed])),
    )


def score(task: Served, inferred: Sequence[Inferred]) -> Scored:
    """The scores that the task gives its answers, and which of them are right."""
    scores, right, losses = [], [], []
    for item in inferred:
        for given, is_right, likelihood in tasks.of(task).answers(item.reference, decode(task, item)):
            scores.append(given)
            right.append(is_right)
            losses.append(-math.log(max(likelihood, 1e-12)))
    return Scored(np.array(scores), np.array(right), sum(losses) / len(losses))


def bins(score: NDArray[np.float64], right: NDArray[np.bool_]) -> tuple[Bin, ...]:
    """The answers in 15 bins of equal width, empty ones left out."""
    index = np.minimum((score * BINS).astype(int), BINS - 1)
    return tuple(
        Bin(i / BINS, (i + 1) / BINS, int(chosen.sum()), float(score[chosen].mean()), float(right[chosen].mean()))
        for i in range(BINS)
        if (chosen := index == i).any()
    )


def expected_error(bins: Sequence[Bin]) -> float:
    """Expected calibration error in percent: how far scores are from the share that is right, over the bins."""
    total = sum(bin.count for bin in bins)
    return 100.0 * sum(bin.count * abs(bin.score - bin.right) for bin in bins) / total


def _temperature(task: Served, inferred: Sequence[Inferred]) -> float:
    return math.exp(
        _minimum(
            lambda log: score(task.with_temperature(math.exp(log)), inferred).loss, math.log(COOLEST), math.log(HOTTEST)
        )
    )


def _minimum(function: Callable[[float], float], low: float, high: float, tolerance: float = 2e-3) -> float:
    """Golden-section search: where a function with one valley has its least value."""
    ratio = (math.sqrt(5.0) - 1.0) / 2.0
    left, right = high - ratio * (high - low), low + ratio * (high - low)
    at_left, at_right = function(left), function(right)
    while high - low > tolerance:
        if at_left <= at_right:
            high, right, at_right = right, left, at_left
            left = high - ratio * (high - low)
            at_left = function(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + ratio * (high - low)
            at_right = function(right)
    return (low + high) / 2.0
