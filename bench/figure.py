"""One quantity, measured in several rounds. Knows nothing of what it is a quantity of."""

from __future__ import annotations

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
        """The middle value."""
        return statistics.median(self.values)

    def over(self, other: Figure) -> float:
        """How many times `other` this is: the median of the rounds' ratios, so that a slow minute touches both sides.

        Where the two have not been measured in the same rounds, the ratio of the medians.
        """
        if len(self.values) == len(other.values):
            return statistics.median(a / b for a, b in zip(self.values, other.values, strict=True))
        return self.median / other.median
