"""Permits: what a request must hold before any work is done for it.

Bounds the requests in flight and their tokens, estimated from a body's length until they are known. One client may hold
at most `SHARE` times what is still free (dynamic thresholds, Choudhury and Hahne 1998): so a flood from one of them
always leaves room for others, and whoever is alone gets four fifths. Long requests have a budget of their own: however
many books are posted, short questions get in.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable

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


class Permits:
    """The permits of a process."""

    def __init__(self, requests: int, tokens: int, rate: Callable[[], float]) -> None:
        """
        Args:
            requests: most in flight.
            tokens: most of short requests in flight.
            rate: tokens a second that the process runs, 0 while unknown.
        """
        self._limits = {"requests": requests, "tokens": tokens, "long tokens": LONG_BUDGET * tokens}
        self._rate = rate
        self._held: Counter[str] = Counter()
        self._held_by: Counter[tuple[str, Hashable]] = Counter()

    def acquire(self, client: Hashable, body_bytes: int) -> Permit:
        """Admit a request, to be released in any case.

        Args:
            client: who asks.
            body_bytes: length of its body.

        Raises:
            QueueFull: too much is in flight, or too much of this client's.
        """
        permit = Permit(self, client)
        try:
            permit.change("requests", 1)
            permit.resize(REQUEST_TOKENS + body_bytes // BYTES_PER_TOKEN)
        except QueueFull:
            permit.release()
            raise
        return permit

    def limit(self, kind: str) -> int:
        """Get the most of a kind that may be in flight."""
        return self._limits[kind]

    def change(self, client: Hashable, kind: str, amount: int) -> None:
        """Count into, or out below zero, what is in flight of a kind. Raises QueueFull."""
        held, limit, own = self._held[kind], self._limits[kind], self._held_by[kind, client]
        if amount > 0 and held and (held + amount > limit or own + amount > SHARE * (limit - held)):
            wait = self._held["tokens"] + self._held["long tokens"]
            raise QueueFull(
                f"{held} {kind} are in flight, {own} of them this client's; the limit is {limit}",
                retry_after=wait / self._rate() if self._rate() else 1.0,
            )
        self._held[kind] += amount
        self._held_by[kind, client] += amount
        if not self._held_by[kind, client]:
            del self._held_by[kind, client]


class Permit:
    """A request's permit."""

    def __init__(self, permits: Permits, client: Hashable) -> None:
        self.client = client
        self._permits = permits
        self._holds: dict[str, int] = {}

    def change(self, kind: str, amount: int) -> None:
        """Hold so much of a kind, and no other amount of it. Raises QueueFull."""
        self._permits.change(self.client, kind, amount - self._holds.get(kind, 0))
        self._holds[kind] = amount

    def resize(self, tokens: int) -> None:
        """Count the request's tokens anew, now that more is known of it. Raises QueueFull."""
        kind, other = ("long tokens", "tokens") if tokens > LONG_TOKENS else ("tokens", "long tokens")
        self.change(kind, min(tokens, int(MOST_COUNTED * self._permits.limit(kind))))
        self.change(other, 0)

    def release(self) -> None:
        """Give everything back."""
        for kind in self._holds:
            self.change(kind, 0)
