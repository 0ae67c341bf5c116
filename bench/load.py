"""What a load generator found in one run: counts and percentiles.

Owns the arithmetic of percentiles. Knows nothing of how the load was made.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Load:
    """One run against one server.

    Attributes:
        seconds: how long it lasted.
        answered: requests with a 2xx answer.
        errors: requests with another answer, or none.
        p50, p95, p99: seconds from a request's sending to its answer; not a number where nothing was answered.
    """

    seconds: float
    answered: int
    errors: int
    p50: float
    p95: float
    p99: float

    @classmethod
    def of(cls, latencies: Sequence[float], *, errors: int, seconds: float) -> Load:
        """Make one from the seconds of each answered request."""
        return cls(seconds, len(latencies), errors, *(percentile(latencies, q) for q in (50, 95, 99)))


def percentile(values: Sequence[float], q: float) -> float:
    """Find the smallest of `values` that at least `q` percent of them do not exceed (nearest rank); nan of none."""
    if not values:
        return math.nan
    return sorted(values)[max(0, math.ceil(q / 100 * len(values)) - 1)]
