"""What is asked: arrivals at random moments, of models and lengths in given shares.

Owns the words in which a mix is written on the command line. Knows nothing of what answers.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from bench.errors import BenchError


@dataclass(frozen=True, slots=True)
class Mix:
    """Shares of models and lengths: a row a request.

    Attributes:
        shares: of (model, tokens of the row); they add up to 1.
    """

    shares: Mapping[tuple[str, int], float]

    @classmethod
    def of(cls, text: str) -> Mix:
        """Read `sentiment:16=6,sentiment:64=3,qa:256=1`: model, tokens, weight.

        Raises:
            BenchError: it is not of that form.
        """
        found: dict[tuple[str, int], float] = {}
        for part in text.split(","):
            what, _, weight = part.partition("=")
            model, _, tokens = what.strip().partition(":")
            try:
                found[model, int(tokens)] = float(weight or 1)
            except ValueError:
                raise BenchError(f"{part!r} is not of the form MODEL:TOKENS=WEIGHT") from None
        if min(found.values()) < 0 or not (total := sum(found.values())) or min(n for _, n in found) < 1:
            raise BenchError(f"{text!r}: tokens are at least 1, weights at least 0 and not all of them 0")
        return cls({key: weight / total for key, weight in found.items()})

    @property
    def words(self) -> str:
        """Describe it."""
        return ", ".join(f"{share:.0%} {model} of {tokens} tokens" for (model, tokens), share in self.shares.items())

    def draw(self, chance: random.Random) -> Iterator[tuple[str, int]]:
        """Draw models and lengths without end."""
        keys, weights = zip(*self.shares.items(), strict=True)
        while True:
            yield from chance.choices(keys, weights, k=1024)


def arrivals(rate: Callable[[float], float], most: float, seconds: float, chance: random.Random) -> Iterator[float]:
    """Draw the moments of independent arrivals (a Poisson process) at a rate that changes with time.

    Args:
        rate: requests a second at a moment.
        most: at least the greatest rate (thinning, Lewis and Shedler 1979).
    """
    now = 0.0
    while (now := now - math.log(1 - chance.random()) / most) < seconds:
        if chance.random() * most < rate(now):
            yield now
