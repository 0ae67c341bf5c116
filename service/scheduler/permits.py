"""Permits: what a request must hold before any work is done for it.

Bounds the requests in flight and their tokens, estimated from a body's length until they are known. One client may hold
at most `SHARE` times what is still free (dynamic thresholds, Choudhury and Hahne 1998): so a flood from one of them
always leaves room for others, and whoever is alone gets four fifths. Long requests have a budget of their own: however
many books are posted, short questions get in. Where a client has a quota, that bounds it further.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

from service.errors import QueueFull
from service.scheduler.quota import Quota

SHARE = 4
LONG_TOKENS = 2048
"""A request of more (estimated) tokens is a long one."""
LONG_BUDGET = 2
"""Tokens of long requests in flight, as a multiple of those of short ones."""
MOST_COUNTED = 1 / 8
"""Share of its budget for which a request counts at most, so that the longest is admitted beside others."""
BYTES_PER_TOKEN = 4
REQUEST_TOKENS = 16
"""Tokens that a request counts for beside its body's."""


@dataclass(slots=True)
class _Budget:
    """What is in flight of a kind, in all and by client, and the most that may be."""

    noun: str
    limit: int
    held: int = 0
    held_by: Counter[Hashable] = field(default_factory=Counter)

    def fits(self, client: Hashable, amount: int, share: float) -> bool:
        """Whether a client may hold so much more. What nothing else is in flight beside always fits, and its share
        keeps no client from its only request."""
        free, own = self.limit - self.held, self.held_by[client]
        if own and own + amount > share * self.limit:
            return False
        return not self.held or (amount <= free and own + amount <= SHARE * free)

    def add(self, client: Hashable, amount: int) -> None:
        """Count into, or out below zero, what is in flight."""
        self.held += amount
        self.held_by[client] += amount
        if not self.held_by[client]:
            del self.held_by[client]


class Permits:
    """The permits of a process."""

    def __init__(self, requests: int, tokens: int, rate: Callable[[], float]) -> None:
        """
        Args:
            requests: most in flight.
            tokens: most of short requests in flight.
            rate: tokens a second that the process runs, 0 while unknown.
        """
        self.requests = _Budget("requests", requests)
        self.short = _Budget("tokens of short requests", tokens)
        self.long = _Budget("tokens of long requests", LONG_BUDGET * tokens)
        self._rate = rate

    def acquire(self, client: Hashable, body_bytes: int, quota: Quota | None = None) -> Permit:
        """Admit a request, to be released in any case.

        Args:
            client: who asks.
            body_bytes: length of its body.
            quota: the client's, where it has one.

        Raises:
            RateLimited: the client sends more requests or tokens a second than its quota allows.
            QueueFull: too much is in flight, or too much of this client's.
        """
        permit = Permit(self, client, quota)
        if not self.requests.fits(client, 1, permit.share):
            raise self.full(self.requests, client, permit.share)
        permit.resize(REQUEST_TOKENS + body_bytes // BYTES_PER_TOKEN)
        self.requests.add(client, 1)
        return permit

    def full(self, budget: _Budget, client: Hashable, share: float) -> QueueFull:
        """Get the refusal of a request that a budget has no room for."""
        rate = self._rate()
        return QueueFull(
            f"{budget.held} {budget.noun} are in flight, {budget.held_by[client]} of this client's; "
            f"the limit is {budget.limit}" + (f", {share:.0%} of it for this client" if share < 1 else ""),
            retry_after=(self.short.held + self.long.held) / rate if rate else 1.0,
        )


class Permit:
    """A request's permit; `client` is who it was given to."""

    def __init__(self, permits: Permits, client: Hashable, quota: Quota | None) -> None:
        self.client = client
        self.share = 1.0 if quota is None else quota.limits.share
        self._permits = permits
        self._quota = quota
        self._budget = permits.short
        self._tokens = 0  # in flight
        self._taken = 0  # of the quota
        self._counted = 0

    def resize(self, tokens: int) -> None:
        """Estimate the request's tokens anew, now that more is known of it.

        Raises:
            RateLimited: they are more than the client's quota has.
            QueueFull: they are more than there is room for.
        """
        self._change(tokens, tokens)

    def count(self, tokens: int) -> None:
        """Count the tokens that are about to run, in place of what was estimated: all of the request's, or a part's
        after another's. Raises what `resize` raises."""
        self._counted += tokens
        self._change(tokens, self._counted)

    def release(self) -> None:
        """Give back what is in flight."""
        if self._tokens:
            self._budget.add(self.client, -self._tokens)
            self._tokens = 0
            self._permits.requests.add(self.client, -1)

    def _change(self, tokens: int, spent: int) -> None:
        """Hold so much, and have spent so much of the quota. Refused, what was held stays, and no tokens are spent."""
        permits, client, quota, admitted = self._permits, self.client, self._quota, self._tokens > 0
        if quota is not None:
            quota.give_back(self._taken)
            self._taken = 0
        budget = permits.long if tokens > LONG_TOKENS else permits.short
        tokens = max(1, min(tokens, int(MOST_COUNTED * budget.limit)))
        more = tokens - self._tokens if budget is self._budget else tokens
        if more > 0 and not budget.fits(client, more, self.share):
            raise permits.full(budget, client, self.share)
        if quota is not None:
            quota.take(spent, requests=0 if admitted else 1)
            self._taken = spent
        self._budget.add(client, -self._tokens)
        budget.add(client, tokens)
        self._budget, self._tokens = budget, tokens
