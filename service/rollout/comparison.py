"""The answers of two versions to the same requests, compared: what is counted, and what it says.

Pure: knows neither where the answers come from nor who asks. It holds no text: counts, and sketches of numbers.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from service.rollout.intervals import Mean, Sketch, mcnemar, ratio, wilson
from service.tasks import Difference

MOST_FLIPS = 100
"""Pairs of labels that are counted pair by pair: each is a time series of the metrics."""
OTHER = ("other", "other")
"""What the pairs beyond these are counted as."""
NO_ANSWER = "no_answer"


class Shape(BaseModel):
    """Base of what is told."""

    model_config = ConfigDict(frozen=True)


class Share(Shape):
    """A share of what was counted, with its 95 % interval (Wilson)."""

    value: float
    low: float
    high: float
    count: int
    of: int

    @classmethod
    def made(cls, count: int, of: int) -> Share:
        """Make it of the counts."""
        low, high = wilson(count, of)
        return cls(value=count / of if of else 0.0, low=low, high=high, count=count, of=of)


class Average(Shape):
    """A mean, with its 95 % interval (normal approximation; null of fewer than two values)."""

    mean: float
    low: float | None
    high: float | None


class Distance(Average):
    """The mean and the tail of the scores' distance; quantiles to 1 %. What distance it is, is the task's matter."""

    p50: float
    p95: float
    p99: float
    max: float


class Flip(Shape):
    """How often the first label became the second; its share is of all compared answers."""

    model_config = ConfigDict(frozen=True, populate_by_name=True)
    before: str = Field(serialization_alias="from")
    after: str = Field(serialization_alias="to")
    share: Share


class Seconds(Shape):
    """Quantiles of a version's seconds for a request, to 1 %."""

    p50: float
    p95: float
    p99: float


class Latency(Shape):
    """Both versions' seconds for the same requests, run in the background under like conditions."""

    requests: int
    stable: Seconds
    shadow: Seconds
    p95_ratio: float = Field(description="The shadow's p95 over the stable version's.")
    low: float | None = Field(description="Of its 95 % interval; null where there are too few requests to tell.")
    high: float | None


class McNemar(Shape):
    """Which of both was right, where clients sent the right answer: McNemar's test."""

    both: int
    stable_only: int
    shadow_only: int
    neither: int
    p_value: float = Field(description="Two-sided mid-p: small where one is right more often than by chance.")


class Decision(Shape):
    """What the plan's rule did."""

    action: Literal["promote", "end"]
    done: bool = Field(description="Whether it could be done; else `why` says why not.")
    why: str
    at: float = Field(description="When, Unix time.")


class Snapshot(Shape):
    """How a shadow's answers compare with the stable version's."""

    model: str
    stable: str = Field(description="The version that answers.")
    shadow: str | None = Field(description="The version that is compared with it; null where there is only a canary.")
    since: float = Field(description="When the comparison began, Unix time.")
    compared: int = Field(description="Requests whose answers were compared.")
    dropped: int = Field(description="Requests that would have been, but there was no room for them.")
    failed: int = Field(description="Requests that the shadow failed on.")
    agreement: Share = Field(description="Of the compared answers (a request may have many), those that are the same.")
    flips: tuple[Flip, ...] = Field(description="Labels that became others, the most frequent first.")
    distance: Distance | None = Field(description="Of the scores; null where they are no measure.")
    exact: Share | None = Field(description="Answers that are the same stretch of text; of question answering.")
    overlap: Average | None = Field(description="Share of the answers that is in both; of spans and sets of labels.")
    no_answer_flips: Share | None = Field(description="Answers that became none, and the reverse.")
    latency: Latency | None = Field(description="Null before the first request that both were timed on.")
    feedback: McNemar | None = Field(description="Null before the first right answer that a client sent.")
    accuracy: dict[str, Share] = Field(description="By version, where clients sent the right answers.")
    decision: Decision | None = Field(description="What the plan's rule did; null while it did nothing.")


class Comparison:
    """What has been counted of a pair of versions. Used on the event loop.

    Attributes:
        flips: pairs of labels, at most `MOST_FLIPS` and `OTHER`.
        decision: what the plan's rule did, once it has.
    """

    def __init__(self, model: str, stable: str, shadow: str | None) -> None:
        self.model, self.stable, self.shadow = model, stable, shadow
        self.since = time.time()
        self.compared = self.dropped = self.failed = 0
        self.flips: Counter[tuple[str, str]] = Counter()
        self.decision: Decision | None = None
        self._answers = self._agreeing = self._spans = self._exact = 0
        self._distance, self._distances = Mean(), Sketch()
        self._overlap = Mean()
        self._stable_seconds, self._shadow_seconds = Sketch(), Sketch()
        self._right: Counter[tuple[bool, bool]] = Counter()

    def add(self, differences: Sequence[Difference]) -> None:
        """Take in a request whose answers were compared."""
        self.compared += 1
        for difference in differences:
            self._answers += 1
            self._agreeing += difference.agree
            for pair in difference.flips:
                self.flips[self.counted(pair)] += 1
            if difference.distance is not None:
                self._distance.add(difference.distance)
                self._distances.add(difference.distance)
            if difference.overlap is not None:
                self._overlap.add(difference.overlap)
            if difference.exact is not None:
                self._spans += 1
                self._exact += difference.exact

    def time(self, stable: float, shadow: float) -> None:
        """Take in what both versions took for a request, seconds."""
        self._stable_seconds.add(stable)
        self._shadow_seconds.add(shadow)

    def judge(self, stable: bool, shadow: bool) -> None:
        """Take in whether each was right."""
        self._right[stable, shadow] += 1

    def counted(self, pair: tuple[str, str]) -> tuple[str, str]:
        """Get what a pair of labels is counted as."""
        return pair if pair in self.flips or len(self.flips) < MOST_FLIPS else OTHER

    @property
    def agreement(self) -> Share:
        """Share of the answers that are the same."""
        return Share.made(self._agreeing, self._answers)

    @property
    def p95_ratio(self) -> float | None:
        """The shadow's p95 over the stable version's; None before there is one."""
        return ratio(self._stable_seconds, self._shadow_seconds, 0.95)[0] if self._stable_seconds.count else None

    def snapshot(self, accuracy: dict[str, Share] | None = None) -> Snapshot:
        """Say what has been counted so far.

        Args:
            accuracy: by version, where it is known.
        """
        spans = self._spans
        crossed = sum(count for pair, count in self.flips.items() if NO_ANSWER in pair)
        return Snapshot(
            model=self.model,
            stable=self.stable,
            shadow=self.shadow,
            since=self.since,
            compared=self.compared,
            dropped=self.dropped,
            failed=self.failed,
            agreement=self.agreement,
            flips=tuple(
                Flip(before=before, after=after, share=Share.made(count, self._answers))
                for (before, after), count in self.flips.most_common()
            ),
            distance=self._distance_told() if self._distance.count else None,
            exact=Share.made(self._exact, spans) if spans else None,
            overlap=Average(**_told(self._overlap, 1.0)) if self._overlap.count else None,
            no_answer_flips=Share.made(crossed, spans) if spans else None,
            latency=self._latency() if self._stable_seconds.count else None,
            feedback=self._feedback() if self._right else None,
            accuracy=accuracy or {},
            decision=self.decision,
        )

    def _distance_told(self) -> Distance:
        return Distance(**_told(self._distance), **_quantiles(self._distances), max=self._distances.most)

    def _latency(self) -> Latency:
        stable, shadow = self._stable_seconds, self._shadow_seconds
        value, interval = ratio(stable, shadow, 0.95)
        low, high = interval or (None, None)
        told = [Seconds(**_quantiles(sketch)) for sketch in (stable, shadow)]
        return Latency(requests=stable.count, stable=told[0], shadow=told[1], p95_ratio=value, low=low, high=high)

    def _feedback(self) -> McNemar:
        right = self._right
        stable_only, shadow_only = right[True, False], right[False, True]
        return McNemar(
            both=right[True, True],
            stable_only=stable_only,
            shadow_only=shadow_only,
            neither=right[False, False],
            p_value=mcnemar(stable_only, shadow_only),
        )


def _told(mean: Mean, most: float = math.inf) -> dict[str, Any]:
    """A mean of values from 0 to `most`, between which its interval is kept."""
    low, high = mean.interval or (None, None)
    bounded = {} if low is None or high is None else {"low": max(0.0, low), "high": min(most, high)}
    return {"mean": mean.value, "low": None, "high": None} | bounded


def _quantiles(sketch: Sketch) -> dict[str, float]:
    return {f"p{percent}": sketch.quantile(percent / 100) for percent in (50, 95, 99)}
