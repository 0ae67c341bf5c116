"""From unit costs to machines and money, and what a crowd or a lost node does to them.

Owns the tables of docs/capacity.md. Prices are what it is told: none is measured here.
"""

from __future__ import annotations

import itertools
import math
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from bench.capacity.autoscaler import Policy
from bench.capacity.clients import closed
from bench.capacity.costs import Costs
from bench.capacity.fleet import Outcome, Scenario, simulate
from bench.capacity.traffic import Mix
from bench.load import percentile
from bench.report.table import Table

MONTH = 730.0
"""Hours of a month."""
CONNECTIONS = 64
"""That ask a replica without pause, for its peak."""
LENGTHS = (16, 64, 128, 256)
"""Tokens of the rows whose costs are shown."""
SLICE = 3
"""Replicas of a large fleet that are simulated."""
SLOW = 1.0
"""Seconds of a 95th percentile from which on a crowd is felt."""


@dataclass(frozen=True, slots=True)
class Prices:
    """What a machine costs. Assumptions, to be replaced by those of one's own provider.

    Attributes:
        core_hour: US dollars for a virtual core and its share of memory for an hour.
        machine_cores, machine_memory: cores and bytes of a machine; `spare` of its cores are Kubernetes' own.
    """

    core_hour: float = 0.04
    machine_cores: int = 16
    machine_memory: int = 64 * 2**30
    spare: int = 1


@dataclass(frozen=True, slots=True)
class Size:
    """A fleet for a rate.

    Attributes:
        rate: rows a second; a row a request.
        replicas, machines: how many.
        month: US dollars a month; `million`: for a million rows at that rate, all day.
    """

    rate: float
    replicas: int
    machines: int
    month: float
    million: float


def peak(costs: Costs, mix: Mix) -> float:
    """Get the most rows a second of a replica, simulated: what its cores, or its one event loop, can do."""
    rows = list(itertools.islice(mix.draw(random.Random(0)), 2000))
    return closed(replace(costs, client=0.0), rows, CONNECTIONS, 10.0).rate


def size(costs: Costs, peak: float, rate: float, prices: Prices, *, use: float) -> Size:
    """Size a fleet so that each replica is used to so large a share of its peak, with one machine to lose."""
    replicas = max(2, math.ceil(rate / (use * peak)))
    by_cores = (prices.machine_cores - prices.spare) // costs.cores
    fit = max(1, min(by_cores, int(0.9 * prices.machine_memory // costs.memory)))
    machines = math.ceil(replicas / fit) + 1
    hour = machines * prices.machine_cores * prices.core_hour
    return Size(rate, replicas, machines, hour * MONTH, hour / (rate * 3600) * 1e6)


def units(costs: Costs) -> Table:
    """Show what a row takes, by model and length."""
    lines = []
    for name, model in costs.models.items():
        for length in LENGTHS:
            rows = max(1, model.batch_tokens // length)
            seconds = model.batch.seconds(rows, length) / rows / costs.speed(costs.cores)
            alone = model.wide.seconds(1, length)
            lines.append((f"{name}, {length} tokens", f"{seconds * 1e3:.2f}", f"{alone * 1e3:.1f}"))
    busy = costs.speed(costs.cores)
    note = (
        f"{costs.machine.get('processor', '')}, {costs.cores} cores, load {costs.machine.get('load_before', 0):.1f} "
        f"before. The event loop: {costs.loop_seconds(32) / busy * 1e3:.2f} ms of a core for a request of 32 tokens, "
        f"{costs.refusal / busy * 1e3:.2f} for one that is refused. A core beside busy ones goes at {costs.busy:.0%} "
        f"of its speed. Memory of a replica: {costs.memory / 1e6:.0f} MB."
    )
    columns = ("", "ms of a core a row, in full batches", "ms to run a row alone, on all cores")
    return Table("units", "What a row takes", columns, tuple(lines), note)


def sizes(costs: Costs, mix: Mix, peak: float, rates: Sequence[float], prices: Prices, *, use: float) -> Table:
    """Show the fleets for some rates."""
    lines = []
    for rate in rates:
        each = size(costs, peak, rate, prices, use=use)
        figures = (each.rate, each.replicas, each.machines, each.month)
        lines.append((*(f"{figure:,.0f}" for figure in figures), f"{each.million:.3f}"))
    note = (
        f"A replica has {costs.cores} cores and does {peak:,.0f} rows/s at most, {use:.0%} of which is the usual load. "
        f"A machine has {prices.machine_cores} virtual cores, {prices.spare} of them Kubernetes' own; one more than "
        f"needed, to lose. Assumed: US$ {prices.core_hour:g} a core's hour, {MONTH:g} hours a month. Rows: {mix.words}."
    )
    columns = ("rows/s", "replicas", "machines", "US$ a month", "US$ a million rows")
    return Table("sizes", "Machines and money", columns, tuple(lines), note)


def scenarios(mix: Mix, peak: float, *, use: float, times: float, seconds: float) -> dict[str, Scenario]:
    """Make what a fleet should live through.

    Replicas know nothing of one another, so a slice of a large fleet does as the whole does: `SLICE` of them, of which
    one is lost with its node; and one alone, which a crowd of so many `times` the load comes to for two thirds of
    `seconds`. What an autoscaler does to the usual load takes longer to see.
    """
    calm = Scenario(mix, SLICE * use * peak, seconds / 4, SLICE)
    crowd = Scenario(
        mix, use * peak, seconds, 1, times=times, crowd_at=seconds / 6, crowd_seconds=seconds * 2 / 3
    )  # fmt: skip
    # Of a large fleet: there the chart's four replicas are less than the share that may be added, and two too few.
    policy = Policy(least=1, most=math.ceil(1.5 * times), up_pods=0)
    long = replace(calm, seconds=2 * seconds, policy=policy)
    return {
        "usual load": calm,
        "usual load, to the one with fewer in flight": replace(calm, nearest=True),
        "usual load, autoscaled": long,
        "usual load, autoscaled by the wait alone": replace(long, policy=replace(policy, utilization=0.0)),
        "a node lost": replace(calm, loss_at=calm.seconds / 3, loss_replicas=1),
        f"{times:g} × the load": crowd,
        f"{times:g} × the load, autoscaled": replace(crowd, policy=policy),
    }


def outcomes(costs: Costs, chosen: dict[str, Scenario], prices: Prices) -> Table:
    """Simulate scenarios and show what became of them."""
    lines = []
    for name, scenario in chosen.items():
        found = simulate(costs, scenario)
        cores = found.replica_seconds * costs.cores
        most = max(number for _, number in found.replicas)
        lines.append((
            name, f"{scenario.seconds:.0f}", str(scenario.replicas), f"{scenario.rate:,.0f}",
            f"{found.latency(50) * 1e3:,.0f}", f"{found.latency(99) * 1e3:,.0f}", f"{found.share(429):.2%}",
            f"{found.share(0):.2%}", str(most),
            _seconds(felt(found, scenario)), f"{found.busy_seconds / cores:.0%}",
            f"{cores * prices.core_hour / scenario.seconds:.2f}",
        ))  # fmt: skip
    any_of_them = next(iter(chosen.values()))
    note = (
        f"Simulated. A replica is ready {any_of_them.start_seconds:g} s after it was asked for; a lost node is noticed "
        f"after {any_of_them.notice_seconds:g} s. US$: the replicas' cores alone."
    )
    columns = (
        "", "s", "replicas", "rows/s", "p50 ms", "p99 ms", "429", "lost", "replicas at most",
        f"s with p95 over {SLOW:g} s", "cores used", "US$ an hour",
    )  # fmt: skip
    return Table("scenarios", "A crowd, and a lost node", columns, tuple(lines), note)


def felt(found: Outcome, scenario: Scenario) -> float:
    """Get the seconds from a crowd's coming until no second's 95th percentile is over `SLOW` any more; inf: never.

    Of no crowd there is none: nan.
    """
    if not scenario.crowd_seconds:
        return math.nan
    seconds: dict[int, list[float]] = defaultdict(list)
    for sent, taken in found.seconds:
        seconds[int(sent)].append(taken)
    end = scenario.crowd_at + scenario.crowd_seconds
    slow = [
        second for second, each in seconds.items() if percentile(each, 95) > SLOW and scenario.crowd_at <= second < end
    ]
    last = max(slow, default=scenario.crowd_at - 1) + 1.0
    return math.inf if last >= end - 1 else last - scenario.crowd_at


def _seconds(value: float) -> str:
    return "" if math.isnan(value) else "as long as it lasts" if math.isinf(value) else f"{value:.0f}"
