"""The simulation beside the real service: the same loads, on the same cores, the load generator among them.

Owns the loads and the comparison. Knows nothing of unit costs but that there are some.
"""

from __future__ import annotations

import asyncio
import datetime
import itertools
import math
import os
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import uvloop

from bench import client, machine, serving
from bench.capacity import measure
from bench.capacity.clients import Point, Seen, closed, opened
from bench.capacity.costs import Costs
from bench.capacity.quiet import Quiet
from bench.capacity.traffic import arrivals
from bench.client import Answer, Connection
from bench.errors import BenchError
from bench.graphs.inprocess import Opened
from bench.report.table import Table
from service.repository import bundle as bundles

WORDS = (4, 8, 12, 16, 24, 40)
"""Of the texts: short ones and longer ones in one queue."""
CONNECTIONS = (1, 4, 8, 32)
PEAK = 32
"""Connections of the load that is taken for the most that it does."""
SHARES = (0.5, 0.8, 1.5)
"""Of that, sent at random moments, whether or not there are answers. Over 1 some must be refused."""
WITHIN = 0.15


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


def check(
    costs: Costs, models_dir: Path, model: str, *, seconds: float, rounds: int, quiet: Quiet
) -> list[Pair]:  # fmt: skip
    """Measure and simulate each load.

    Raises:
        BenchError: the costs lack the model, or the service does not start.
    """
    if model not in costs.models:
        raise BenchError(f"the unit costs are of {', '.join(costs.models)}, not of {model}")
    texts = measure.texts(400, WORDS, random.Random(1))
    bundle = bundles.load(models_dir / model)
    rows = [(model, len(row)) for row in Opened(models_dir / model).sentence_rows(texts)]
    pairs, peak = [], 0.0
    with serving.bertie(models_dir, (model,)) as (server, url):
        requests = [measure.request(url, bundle, text) for text in texts]
        uvloop.run(client.closed(url, itertools.cycle(requests), connections=PEAK, seconds=2.0))
        for connections in CONNECTIONS:
            measured = Point.middle(
                [
                    quiet.run(server, lambda n=connections: _measured_closed(url, requests, n, seconds))  # type: ignore[misc]
                    for _ in range(rounds)
                ]
            )
            peak = measured.rate if connections == PEAK else peak
            pairs.append(Pair(f"{connections} clients", measured, closed(costs, rows, connections, seconds)))
        for share in SHARES:
            plans = [_poisson(share * peak, seconds, seed) for seed in range(rounds)]
            points = [quiet.run(server, lambda plan=plan: _measured_opened(url, requests, plan)) for plan in plans]  # type: ignore[misc]
            simulated = [opened(costs, rows, plan) for plan in plans]
            pairs.append(Pair(f"{share:.0%} of the peak", Point.middle(points), Point.middle(simulated)))
    return pairs


def _poisson(rate: float, seconds: float, seed: int) -> list[float]:
    return list(arrivals(lambda _: rate, rate, seconds, random.Random(seed)))


def table(pairs: Sequence[Pair], *, seconds: float, rounds: int, quiet: Quiet) -> Table:
    """Show each load's figures, the simulated after the measured, and what is farther apart than it should be."""
    lines = []
    for pair in pairs:
        a, b = pair.measured, pair.simulated
        lines.append((
            pair.load, f"{a.rate:.0f} {b.rate:.0f}", f"{a.p50 * 1e3:.1f} {b.p50 * 1e3:.1f}",
            f"{a.p99 * 1e3:.1f} {b.p99 * 1e3:.1f}", f"{a.refused:.0%} {b.refused:.0%}", ", ".join(pair.off) or "-",
        ))  # fmt: skip
    note = (
        f"Measured, then simulated. {_described()}; {rounds} rounds of {seconds:g} s, medians; the load generator "
        f"shares the cores, in the simulation too. Other programs took at most {quiet.worst:.0%} of the cores."
    )
    columns = ("load", "rows/s", "p50 ms", "p99 ms", "refused", f"off by more than {WITHIN:.0%}")
    return Table("check", "The simulation beside the service", columns, tuple(lines), note)


def _described() -> str:
    found = machine.describe(())
    return f"{datetime.date.today()}, {found['processor']}, {os.cpu_count()} cores, load {found['load_before']:.1f}"


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
