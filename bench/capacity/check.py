"""The simulation beside the real service: the same loads, on the same cores, the load generator among them.

Owns the loads and the comparison. Knows nothing of unit costs but that there are some.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import uvloop

from bench import client, serving
from bench.capacity import measure
from bench.capacity.costs import Costs
from bench.capacity.replica import Clock, Loop, Replica, Request
from bench.capacity.traffic import arrivals
from bench.client import Answer, Connection
from bench.errors import BenchError
from bench.graphs.inprocess import Opened
from bench.load import percentile

WORDS = (4, 8, 12, 16, 24, 40)
"""Of the texts: short ones and longer ones in one queue."""
CONNECTIONS = (1, 4, 8, 32)
PEAK = 32
"""Connections of the load that is taken for the most that it does."""
SHARES = (0.5, 0.8, 1.5)
"""Of that, sent at random moments, whether or not there are answers. Over 1 some must be refused."""
WITHIN = 0.15
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


@dataclass(frozen=True, slots=True)
class Pair:
    """One load, measured and simulated."""

    load: str
    measured: Point
    simulated: Point

    def ratio(self, name: str) -> float:
        """Get the simulated over the measured."""
        measured: float = getattr(self.measured, name)
        simulated: float = getattr(self.simulated, name)
        return simulated / measured if measured else math.nan

    @property
    def off(self) -> list[str]:
        """What differs by more than `WITHIN`; shares of refusals by that much of all."""
        found = [name for name in ("rate", "p50", "p99") if abs(self.ratio(name) - 1) > WITHIN]
        return found + ["refused"] * (abs(self.simulated.refused - self.measured.refused) > WITHIN)


def check(costs: Costs, models_dir: Path, model: str, *, seconds: float, rounds: int) -> list[Pair]:
    """Measure and simulate each load.

    Raises:
        BenchError: the costs are of another number of cores, or lack the model; or the service does not start.
    """
    if model not in costs.models:
        raise BenchError(f"the unit costs are of {', '.join(costs.models)}, not of {model}")
    texts = measure.texts(400, WORDS, random.Random(1))
    lengths = [len(row) for row in Opened(models_dir / model).sentence_rows(texts)]
    pairs, peak = [], 0.0
    with serving.bertie(models_dir, (model,)) as (_, url):
        requests = [measure.classify(url, text) for text in texts]
        uvloop.run(client.closed(url, itertools.cycle(requests), connections=PEAK, seconds=2.0))
        for connections in CONNECTIONS:
            points = [_measured_closed(url, requests, connections, seconds) for _ in range(rounds)]
            measured = Point.middle(points)
            peak = measured.rate if connections == PEAK else peak
            pairs.append(Pair(f"{connections} clients", measured, closed(costs, model, lengths, connections, seconds)))
        for share in SHARES:
            points, simulated = [], []
            for i in range(rounds):
                rate = share * peak
                moments = list(arrivals(lambda _, rate=rate: rate, rate, seconds, random.Random(i)))  # type: ignore[misc]
                points.append(_measured_opened(url, requests, moments))
                simulated.append(opened(costs, model, lengths, moments))
            pairs.append(Pair(f"{share:.0%} of the peak", Point.middle(points), Point.middle(simulated)))
    return pairs


def table(pairs: Sequence[Pair]) -> str:
    """Show each load's figures, the measured before the simulated, and what is farther apart than it should be."""
    head = (
        "| load | rows/s | | p50 ms | | p99 ms | | refused | | off by more than 15 % |\n"
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |"
    )
    lines = []
    for pair in pairs:
        a, b = pair.measured, pair.simulated
        figures = (
            f"{a.rate:.0f} | {b.rate:.0f}", f"{a.p50 * 1e3:.1f} | {b.p50 * 1e3:.1f}",
            f"{a.p99 * 1e3:.1f} | {b.p99 * 1e3:.1f}", f"{a.refused:.0%} | {b.refused:.0%}",
        )  # fmt: skip
        lines.append(f"| {pair.load} | {' | '.join(figures)} | {', '.join(pair.off)} |")
    return "\n".join((head, *lines))


# ---- measured --------------------------------------------------------------------------------------------------------


def _measured_closed(url: str, requests: Sequence[bytes], connections: int, seconds: float) -> Point:
    began = time.perf_counter()
    feed = itertools.cycle(requests)
    answers = uvloop.run(client.closed(url, feed, connections=connections, seconds=seconds))
    return Point.of(_seen(answers), time.perf_counter() - began)


def _measured_opened(url: str, requests: Sequence[bytes], moments: Sequence[float]) -> Point:
    began = time.perf_counter()
    answers = uvloop.run(_send(url, requests, moments))
    return Point.of(_seen(answers), time.perf_counter() - began)


async def _send(url: str, requests: Sequence[bytes], moments: Sequence[float]) -> list[Answer]:
    """Send a request at each moment, on a connection that is free, and wait for all answers."""
    idle: list[Connection] = []
    answers: list[Answer] = []

    async def one(data: bytes) -> None:
        connection = idle.pop() if idle else Connection(url)
        answers.append(await connection.send(data))
        idle.append(connection)

    began = time.perf_counter()
    async with asyncio.TaskGroup() as tasks:
        for moment, data in zip(moments, itertools.cycle(requests), strict=False):
            await asyncio.sleep(max(0.0, began + moment - time.perf_counter()))
            tasks.create_task(one(data))
    for connection in idle:
        connection.close()
    return answers


def _seen(answers: Sequence[Answer]) -> list[Seen]:
    return [(answer.status, answer.seconds) for answer in answers]


# ---- simulated -------------------------------------------------------------------------------------------------------


class _Clients:
    """A load generator on the replica's own cores: half of its work for a request comes before the sending."""

    def __init__(self, costs: Costs, model: str, lengths: Sequence[int]) -> None:
        self.clock = Clock()
        self.seen: list[Seen] = []
        self._half = costs.client / 2
        self._model = model
        self._lengths = itertools.cycle(lengths)
        self._replica = Replica(self.clock, costs)
        self._loop = Loop(self._replica.cores)

    def ask(self, then: Callable[[], object] = lambda: None) -> None:
        """Send the next request; call `then` when it is answered."""
        request = Request(self._model, (next(self._lengths),), lambda request: self._read(request, then))
        self._loop.do(lambda: self._half, lambda: self._send(request))

    def _send(self, request: Request) -> None:
        request.sent = self.clock.now
        self._replica.take(request)

    def _read(self, request: Request, then: Callable[[], object]) -> None:
        def read() -> None:
            self.seen.append((request.status, self.clock.now - request.sent))
            then()

        self._loop.do(lambda: self._half, read)


def closed(costs: Costs, model: str, lengths: Sequence[int], connections: int, seconds: float) -> Point:
    """Simulate so many clients that each ask again when they are answered."""
    clients = _Clients(costs, model, lengths)

    def again() -> None:
        if clients.clock.now < seconds:
            clients.ask(again)

    for _ in range(connections):
        clients.ask(again)
    clients.clock.run()
    return Point.of(clients.seen, clients.clock.now)


def opened(costs: Costs, model: str, lengths: Sequence[int], moments: Sequence[float]) -> Point:
    """Simulate requests at given moments, whether or not there are answers."""
    clients = _Clients(costs, model, lengths)
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
