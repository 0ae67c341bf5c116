"""Scores below chance, and the order of the labels that would explain them.

Owns the statistics. A model whose labels stand in the wrong order has learnt its task: what it answers, set against
what is right, shows which label is which.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

IMPROBABLE = 0.05
"""What is less probable than this is not taken for a guess."""
GAIN, CORRELATION_GAIN = 0.1, 0.3
"""Share of the answers, and mean correlation, by which another order of the labels is better if it is the right one."""
DEVIATIONS = 3.0
"""And standard deviations of that difference, so that a few answers prove nothing."""
PICKED = 2
"""Answers that a label may gain by the choice of the best order alone."""
MOST = 500
"""Labels whose order is looked for. It takes the square of their number in memory."""


def below(hits: int, total: int, share: float) -> bool:
    """Whether it is improbable that so few of `total` guesses hit, each with probability `share`."""
    if not total or hits >= total * share:
        return False
    logs = (
        math.lgamma(total + 1) - math.lgamma(i + 1) - math.lgamma(total - i + 1)
        + i * math.log(share) + (total - i) * math.log1p(-share)
        for i in range(hits + 1)
    )  # fmt: skip
    return math.fsum(map(math.exp, logs)) < IMPROBABLE


def order(fits: NDArray[np.int64]) -> list[int]:
    """Which label each one is best taken for, one to one: from the best fit down, then exchanged while that helps.

    Args:
        fits: how well label i, as it is predicted, fits label j, as it is right, shape [labels, labels].
    """
    count = len(fits)
    weights = fits * (count + 1) + np.eye(count, dtype=np.int64)  # what says nothing leaves a label where it is
    chosen = np.zeros(count, dtype=np.int64)
    left = weights.copy()
    lowest = left.min() - 1
    for _ in range(count):
        predicted, right = divmod(int(left.argmax()), count)
        chosen[predicted] = right
        left[predicted, :] = left[:, right] = lowest
    while True:
        crossed = weights[:, chosen]
        now = crossed.diagonal()
        gain = crossed + crossed.T - now[:, None] - now[None, :]
        one, other = divmod(int(gain.argmax()), count)
        if gain[one, other] <= 0:
            found: list[int] = chosen.tolist()
            return found
        chosen[[one, other]] = chosen[[other, one]]


def one_label(labels: Sequence[str], answers: Sequence[tuple[str, str]]) -> str:
    """Return what speaks against the order of labels that exclude one another; empty where nothing does.

    Args:
        answers: the label that was predicted and the right one, of each text.
    """
    total, right = len(answers), sum(predicted == label for predicted, label in answers)
    share = 1.0 / len(labels)
    worse = below(right, total, share)
    chosen = list(range(len(labels)))
    better, fitting = False, 0
    if len(labels) <= MOST:
        index = {label: i for i, label in enumerate(labels)}
        hits = np.zeros((len(labels), len(labels)), dtype=np.int64)
        for predicted, label in answers:
            hits[index[predicted], index[label]] += 1
        chosen = order(hits)
        fitting = int(sum(hits[i, j] for i, j in enumerate(chosen)))
        moved = [(i, j) for i, j in enumerate(chosen) if i != j]
        differing = int(sum(hits[i, i] + hits[i, j] for i, j in moved))
        better = fitting - right > max(GAIN * total, DEVIATIONS * math.sqrt(differing) + PICKED * len(moved))
    if not worse and not better:
        return ""
    told = f"accuracy is {100.0 * right / total:.2f}" + (f", and chance is {100.0 * share:.2f}" if worse else "")
    if better or below(total - fitting, total, 1.0 - share):
        return f"{told}; {_other(labels, chosen)} accuracy is {100.0 * fitting / total:.2f}"
    return f"{told}; no other order of the labels fits: are they those of this data?"


def several_labels(labels: Sequence[str], scores: NDArray[np.float64], holds: NDArray[np.float64]) -> str:
    """Return what speaks against the order of labels that do not exclude one another; empty where nothing does.

    Args:
        scores: the probability of each label, shape [texts, labels].
        holds: 1 where it holds, else 0, of the same shape.
    """
    if len(labels) > MOST:
        return ""
    correlations = _normal(scores).T @ _normal(holds)
    known = int(((scores.std(axis=0) > 0) & (holds.std(axis=0) > 0)).sum())
    if not known:
        return ""
    chosen = order(np.rint(correlations * 1e6).astype(np.int64))
    own = float(correlations.trace()) / known
    best = float(sum(correlations[i, j] for i, j in enumerate(chosen))) / known
    if best - own <= max(CORRELATION_GAIN, DEVIATIONS * math.sqrt(2.0 / (len(scores) * known))):
        return ""
    told = f"the labels' scores and the labels that hold have a mean correlation of {own:.2f}"
    return f"{told}; {_other(labels, chosen)} it is {best:.2f}"


def _normal(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Columns of mean 0 and length 1; of one value throughout, of zeros."""
    centred = values - values.mean(axis=0)
    lengths = np.sqrt((centred**2).sum(axis=0))
    normal: NDArray[np.float64] = centred / np.where(lengths > 0, lengths, 1.0)
    return normal


def _other(labels: Sequence[str], chosen: Sequence[int]) -> str:
    return f"with --labels {','.join(labels[i] for i in chosen)}"
