"""One quantity, measured in several rounds. Knows nothing of what it is a quantity of."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Figure:
    """One quantity of one model or service.

    Attributes:
        values: what was measured, one a round; one alone where it cannot vary, or was estimated.
        estimated: it was not run but worked out, because it does not fit the machine or the time.
    """

    values: tuple[float, ...]
    estimated: bool = False

    @property
    def median(self) -> float:
        """Get the middle value."""
        return statistics.median(self.values)

    def over(self, other: Figure) -> float:
        """Get how many times `other` this is: the median of `ratios`."""
        return statistics.median(self.ratios(other))

    def ratios(self, other: Figure) -> tuple[float, ...]:
        """Divide round by round, so that a slow minute touches both sides.

        Where the two have not been measured in the same rounds, it is the one ratio of the medians.
        """
        if len(self.values) == len(other.values):
            return tuple(a / b if b else math.nan for a, b in zip(self.values, other.values, strict=True))
        return (self.median / other.median if other.median else math.nan,)
