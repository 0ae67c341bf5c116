"""One simulated replica and a load generator that shares its cores, as on the machine of a measurement.

Owns how clients ask, and what they saw, summed up: of real ones too.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from bench.capacity.costs import Costs
from bench.capacity.replica import Clock, Loop, Replica, Request
from bench.load import percentile

Row = tuple[str, int]
"""A request's model and the tokens of its row."""
Seen = tuple[int, float]
"""An answer's status, and the seconds that it took."""


@dataclass(frozen=True, slots=True)
class Point:
    """What came of one load: requests answered a second, seconds, and the share refused."""

    rate: float
    p50: float
    p99: float
    refused: float

    @classmethod
    def of(cls, seen: Sequence[Seen], seconds: float) -> Point:
        """Sum up answers that took so long in all."""
        good = [taken for status, taken in seen if status == 200]
        refused = sum(status == 429 for status, _ in seen) / (len(seen) or 1)
        return cls(len(good) / seconds, percentile(good, 50), percentile(good, 99), refused)

    @classmethod
    def middle(cls, points: Sequence[Point]) -> Point:
        """Get the medians of several runs."""
        names = ("rate", "p50", "p99", "refused")
        return cls(*(statistics.median(getattr(point, name) for point in points) for name in names))


class _Clients:
    """A load generator on the replica's own cores: half of its work for a request comes before the sending."""

    def __init__(self, costs: Costs, rows: Sequence[Row]) -> None:
        self.clock = Clock()
        self.seen: list[Seen] = []
        self._half = costs.client / 2
        self._rows = itertools.cycle(rows)
        self._replica = Replica(self.clock, costs)
        self._loop = Loop(self._replica.cores, costs.client_wake)

    def ask(self, then: Callable[[], object] = lambda: None) -> None:
        """Send the next request; call `then` when it is answered."""
        model, tokens = next(self._rows)
        request = Request(model, (tokens,), lambda request: self._read(request, then))
        self._loop.do(lambda: self._half, lambda: self._send(request))

    def _send(self, request: Request) -> None:
        request.sent = self.clock.now
        self._replica.take(request)

    def _read(self, request: Request, then: Callable[[], object]) -> None:
        def read() -> None:
            self.seen.append((request.status, self.clock.now - request.sent))
            then()

        self._loop.do(lambda: self._half, read)


def closed(costs: Costs, rows: Sequence[Row], connections: int, seconds: float) -> Point:
    """Simulate so many clients that each ask again when they are answered."""
    clients = _Clients(costs, rows)

    def again() -> None:
        if clients.clock.now < seconds:
            clients.ask(again)

    for _ in range(connections):
        clients.ask(again)
    clients.clock.run()
    return Point.of(clients.seen, clients.clock.now)


def opened(costs: Costs, rows: Sequence[Row], moments: Sequence[float]) -> Point:
    """Simulate requests at given moments, whether or not there are answers."""
    clients = _Clients(costs, rows)
    left: Iterator[float] = iter(moments)

    def ask() -> None:
        clients.ask()
        follow()

    def follow() -> None:
        if (moment := next(left, None)) is not None:
            clients.clock.at(moment, ask)

    follow()
    clients.clock.run()
    return Point.of(clients.seen, clients.clock.now)
