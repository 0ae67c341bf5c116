"""Permits: what a request must hold before any work is done for it.

Bounds the requests in flight and their tokens, estimated from a body's length until they are known. One client may hold
at most `SHARE` times what is still free (dynamic thresholds, Choudhury and Hahne 1998): so a flood from one of them
always leaves room for others, and whoever is alone gets four fifths. Long requests have a budget of their own: however
many books are posted, short questions get in.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

from service.errors import QueueFull

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

    def fits(self, client: Hashable, amount: int) -> bool:
        """Whether a client may hold so much more. What nothing else is in flight beside always fits."""
        free = self.limit - self.held
        return not self.held or (amount <= free and self.held_by[client] + amount <= SHARE * free)

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

    def acquire(self, client: Hashable, body_bytes: int) -> Permit:
        """Admit a request, to be released in any case.

        Args:
            client: who asks.
            body_bytes: length of its body.

        Raises:
            QueueFull: too much is in flight, or too much of this client's.
        """
        if not self.requests.fits(client, 1):
            raise self.full(self.requests, client)
        permit = Permit(self, client)
        permit.resize(REQUEST_TOKENS + body_bytes // BYTES_PER_TOKEN)
        self.requests.add(client, 1)
        return permit

    def full(self, budget: _Budget, client: Hashable) -> QueueFull:
        """Get the refusal of a request that a budget has no room for."""
        rate = self._rate()
        return QueueFull(
            f"{budget.held} {budget.noun} are in flight, {budget.held_by[client]} of this client's; "
            f"the limit is {budget.limit}",
            retry_after=(self.short.held + self.long.held) / rate if rate else 1.0,
        )


class Permit:
    """A request's permit; `client` is who it was given to."""

    def __init__(self, permits: Permits, client: Hashable) -> None:
        self.client = client
        self._permits = permits
        self._budget = permits.short
        self._tokens = 0

    def resize(self, tokens: int) -> None:
        """Count the request's tokens anew, now that more is known of it. Raises QueueFull."""
        permits, client = self._permits, self.client
        budget = permits.long if tokens > LONG_TOKENS else permits.short
        tokens = max(1, min(tokens, int(MOST_COUNTED * budget.limit)))
        more = tokens - self._tokens if budget is self._budget else tokens
        if more > 0 and not budget.fits(client, more):
            raise permits.full(budget, client)
        self._budget.add(client, -self._tokens)
        budget.add(client, tokens)
        self._budget, self._tokens = budget, tokens

    def release(self) -> None:
        """Give everything back."""
        if self._tokens:
            self._budget.add(self.client, -self._tokens)
            self._tokens = 0
            self._permits.requests.add(self.client, -1)
