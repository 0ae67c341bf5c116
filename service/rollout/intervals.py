"""How sure numbers are: intervals, a test, and a sketch of a distribution in bounded memory.

Pure arithmetic: knows neither what is counted nor where. Intervals are at 95 %.
"""

from __future__ import annotations

import math
from collections import Counter

Z = 1.959963984540054
"""Quantile of the normal distribution that leaves 2.5 % above it."""
ACCURACY = 0.01
"""Relative error of a sketch's quantiles."""
LEAST, MOST = 1e-6, 1e6
"""Values between which a sketch tells quantiles apart: those below count as 0, those above as the most."""
_GROWTH = math.log((1 + ACCURACY) / (1 - ACCURACY))


def wilson(hits: int, of: int) -> tuple[float, float]:
    """Get the interval of a proportion (Wilson 1927), without continuity correction; (0, 1) of nothing."""
    if not of:
        return 0.0, 1.0
    share, square = hits / of, Z * Z / of
    centre = share + square / 2
    half = Z * math.sqrt(share * (1 - share) / of + square / of / 4)
    low, high = (centre - half) / (1 + square), (centre + half) / (1 + square)
    return low if hits else 0.0, high if hits < of else 1.0


def mcnemar(first_only: int, second_only: int) -> float:
    """Get the two-sided mid-p value of McNemar's test: how likely counts as unequal are where both are right as often.

    After Fagerland, Lydersen and Laake 2013 (BMC Med Res Methodol 13:91).

    Args:
        first_only: pairs in which only the first is right.
        second_only: likewise the second.
    """
    n, k = first_only + second_only, min(first_only, second_only)
    if not n:
        return 1.0
    term = math.exp(math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) - n * math.log(2))
    tail = -term / 2  # half of the observed one: mid-p
    for i in range(k, -1, -1):
        tail += term
        term *= i / (n - i + 1)
        if term < 1e-18 * tail:
            break
    return min(1.0, 2 * tail)


class Mean:
    """A mean and its variance, updated value by value (Welford 1962)."""

    def __init__(self) -> None:
        self.count = 0
        self.value = 0.0
        self._squares = 0.0

    def add(self, value: float) -> None:
        """Take a value in."""
        self.count += 1
        before = value - self.value
        self.value += before / self.count
        self._squares += before * (value - self.value)

    @property
    def interval(self) -> tuple[float, float] | None:
        """The interval of the mean, by normal approximation; None of fewer than two values."""
        if self.count < 2:
            return None
        half = Z * math.sqrt(self._squares / (self.count - 1) / self.count)
        return self.value - half, self.value + half


class Sketch:
    """Quantiles of values from 0 on, each within `ACCURACY` of its size: counts in buckets whose width grows with the
    value (DDSketch, Masson et al. 2019, arXiv 1908.10693). At most 1,400 buckets, however many values."""

    def __init__(self) -> None:
        self.count = 0
        self.most = 0.0
        self._buckets: Counter[int] = Counter()

    def add(self, value: float) -> None:
        """Take a value in."""
        self.count += 1
        self.most = max(self.most, value)
        bounded = min(value, MOST)
        self._buckets[math.ceil(math.log(bounded / LEAST) / _GROWTH) if bounded > LEAST else 0] += 1

    def quantile(self, share: float) -> float:
        """Get the value that this share of the values does not exceed; 0 of none."""
        return self._ranked(max(1, math.ceil(share * self.count)))

    def interval(self, share: float) -> tuple[float, float] | None:
        """Get the interval of a quantile, by the ranks that it lies between whatever the distribution (binomial, by
        normal approximation); None where there are too few values to tell."""
        half = Z * math.sqrt(self.count * share * (1 - share))
        low, high = math.floor(self.count * share - half), math.ceil(self.count * share + half) + 1
        return (self._ranked(low), self._ranked(high)) if low >= 1 and high <= self.count else None

    def _ranked(self, rank: int) -> float:
        """The value of a rank from 1 on, the smallest first."""
        for bucket in sorted(self._buckets):
            rank -= self._buckets[bucket]
            if rank <= 0:
                middle = LEAST * math.exp((bucket - 0.5) * _GROWTH) if bucket else 0.0
                return min(middle, self.most)
        return 0.0


def ratio(first: Sketch, second: Sketch, share: float) -> tuple[float, tuple[float, float] | None]:
    """Get the second's quantile over the first's, with its interval.

    The logarithms' standard errors are read off the quantiles' intervals and added as those of independent samples; of
    the same requests' values, which rise and fall together, that is the wider one. None where one is not known.
    """
    below, above = first.quantile(share), second.quantile(share)
    if not below:
        return 0.0, None
    found, widths = above / below, []
    for interval in (first.interval(share), second.interval(share)):
        if interval is None or interval[0] <= 0:
            return found, None
        widths.append(math.log(interval[1] / interval[0]) / 2)
    return found, (found * math.exp(-math.hypot(*widths)), found * math.exp(math.hypot(*widths)))
