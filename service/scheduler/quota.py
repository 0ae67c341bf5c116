"""What a client may use: requests and tokens a second, and a share of what is in flight.

Owns rates, as token buckets (ITU-T I.371's generic cell rate algorithm with a level): a bucket fills at its rate up to
its burst, and what is taken from it must be there. What is larger than the burst passes when the bucket is full and
leaves a debt, so that the rate holds in the long run and nothing is shut out for ever. Who is refused has taken
nothing: so a wait that is told is true, however often a client asks meanwhile. Knows nothing of keys.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from service.errors import RateLimited

_EPSILON = 1e-6
"""Of a request or token: what arithmetic on clocks loses."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The most that a client may use; None where there is no limit.

    Attributes:
        requests_burst, tokens_burst: how many may come at once; a second's worth, and at least 1, by default.
        share: most of each budget of what is in flight, above 0, at most 1.
    """

    requests_per_second: float | None = None
    requests_burst: float | None = None
    tokens_per_second: float | None = None
    tokens_burst: float | None = None
    share: float = 1.0

    @property
    def unlimited(self) -> bool:
        """Whether there are none."""
        return self.requests_per_second is None and self.tokens_per_second is None and self.share == 1

    def of_each(self, processes: int) -> Limits:
        """Get the part of one of several processes; of what is in flight each has a budget of its own."""

        def part(whole: float | None) -> float | None:
            return None if whole is None else whole / max(1, processes)

        return Limits(
            part(self.requests_per_second),
            part(self.requests_burst),
            part(self.tokens_per_second),
            part(self.tokens_burst),
            self.share,
        )


class Bucket:
    """A token bucket, full at first.

    Attributes:
        level: what may be taken, as of the last look, `looked_at`; below 0 it is a debt.
    """

    __slots__ = ("burst", "level", "looked_at", "rate")

    def __init__(self, rate: float, burst: float | None) -> None:
        self.rate = rate
        self.burst = self.level = max(1.0, rate) if burst is None else burst
        self.looked_at = 0.0

    def wait(self, amount: float, now: float) -> float:
        """Get the seconds until so much may be taken; 0: now."""
        self.level = min(self.burst, self.level + self.rate * (now - self.looked_at))
        self.looked_at = now
        lacking = min(amount, self.burst) - self.level
        if lacking > _EPSILON:
            return lacking / self.rate
        self.level += max(0.0, lacking)  # what is given back can be taken again
        return 0.0


class Quota:
    """What is left of a client's limits.

    Attributes:
        name: of the client, for messages.
        limits: these limits.
    """

    def __init__(
        self, name: str, limits: Limits, before: Quota | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """
        Args:
            before: whose use of the same limits counts on, where they have changed.
        """
        self.name = name
        self.limits = limits
        self._clock = clock
        self._requests = _bucket(limits.requests_per_second, limits.requests_burst)
        self._tokens = _bucket(limits.tokens_per_second, limits.tokens_burst)
        if before is not None:
            _go_on(self._requests, before._requests)
            _go_on(self._tokens, before._tokens)

    def take(self, tokens: int, requests: int = 1) -> None:
        """Take so much of both rates, or nothing.

        Args:
            requests: 0 for a request that was taken before.

        Raises:
            RateLimited: there is not so much; it says when there is for such a request.
        """
        if self._requests is None and self._tokens is None:
            return
        now = self._clock()
        request_wait = self._requests.wait(1, now) if self._requests is not None else 0.0
        token_wait = self._tokens.wait(tokens, now) if self._tokens is not None else 0.0
        if token_wait or (requests and request_wait):
            if token_wait >= request_wait:
                rate = f"{self.limits.tokens_per_second:g} tokens a second, and this request counts {tokens}"
            else:
                rate = f"{self.limits.requests_per_second:g} requests a second"
            wait = max(token_wait, request_wait)
            raise RateLimited(f"{self.name} may send {rate}: try again in {wait:.3g} seconds", retry_after=wait)
        if self._requests is not None:
            self._requests.level -= requests
        self.give_back(-tokens)

    def give_back(self, tokens: int) -> None:
        """Give back the tokens that were taken for a request that is refused, or whose tokens are counted anew."""
        if self._tokens is not None:
            self._tokens.level += tokens


def _bucket(rate: float | None, burst: float | None) -> Bucket | None:
    return None if rate is None else Bucket(rate, burst)


def _go_on(bucket: Bucket | None, before: Bucket | None) -> None:
    if bucket is not None and before is not None:
        bucket.level, bucket.looked_at = min(bucket.burst, before.level), before.looked_at
