"""Many replicas, simulated: arrivals, a balancer, an autoscaler, a node that is lost.

Owns what is between the clients and a replica. Knows nothing of what a replica does with a request.
"""

from __future__ import annotations

import random
import statistics
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from bench.capacity.autoscaler import Autoscaler, Policy
from bench.capacity.costs import Costs
from bench.capacity.replica import Clock, Replica, Request
from bench.capacity.traffic import Mix, arrivals
from bench.load import percentile

CLIENTS = 200
"""Addresses or keys that requests come from: no one of them is a flood."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """What happens.

    Attributes:
        mix: of the requests, a row each.
        rate: requests a second, usually; `times` as many from `crowd_at` on, for `crowd_seconds`.
        seconds: how long it lasts.
        replicas: at the start.
        policy: of the autoscaler; None: their number stays.
        start_seconds: from a decision to a replica that is ready: a node may have to come, the image, the models.
        loss_at: when a node is lost, with `loss_replicas` of them; `notice_seconds` later the balancer stops sending
            there, and others are started for them.
        nearest: whether a request goes to the one with fewest in flight of two drawn at random (power of two choices,
            Mitzenmacher 2001); else to one drawn at random, as kube-proxy does.
        seed: of chance.
    """

    mix: Mix
    rate: float
    seconds: float
    replicas: int
    policy: Policy | None = None
    start_seconds: float = 30.0
    times: float = 1.0
    crowd_at: float = 0.0
    crowd_seconds: float = 0.0
    loss_at: float = 0.0
    loss_replicas: int = 0
    notice_seconds: float = 5.0
    nearest: bool = False
    seed: int = 0

    def rate_at(self, now: float) -> float:
        """Get the requests a second at a moment."""
        crowd = self.crowd_at <= now < self.crowd_at + self.crowd_seconds
        return self.rate * (self.times if crowd else 1.0)


@dataclass(slots=True)
class Outcome:
    """What became of it.

    Attributes:
        statuses: how many requests were answered with 200 and 429, or lost (0).
        seconds: of each 200, in order of its sending, with the moment of sending.
        replicas: (moment, how many there are).
        replica_seconds: paid for; `busy_seconds`: of cores, used.
    """

    statuses: Counter[int] = field(default_factory=Counter)
    seconds: list[tuple[float, float]] = field(default_factory=list)
    replicas: list[tuple[float, int]] = field(default_factory=list)
    replica_seconds: float = 0.0
    busy_seconds: float = 0.0

    def latency(self, q: float, since: float = 0.0, until: float = float("inf")) -> float:
        """Get a percentile of the seconds of those sent in a stretch of time; nan of none."""
        return percentile([seconds for sent, seconds in self.seconds if since <= sent < until], q)

    def share(self, status: int) -> float:
        """Get the share of requests with a status."""
        return self.statuses[status] / (self.statuses.total() or 1)


class _Fleet:
    def __init__(self, costs: Costs, scenario: Scenario) -> None:
        self.clock, self.outcome = Clock(), Outcome()
        self._costs, self._scenario = costs, scenario
        self._chance = random.Random(scenario.seed)
        self._replicas = [self._new() for _ in range(scenario.replicas)]
        self._starting = 0
        self._sent_to = self._replicas  # as far as the balancer knows
        self._drawn = scenario.mix.draw(self._chance)
        self._autoscaler = Autoscaler(scenario.policy) if scenario.policy else None
        self._busy = 0.0

    def _new(self) -> Replica:
        return Replica(self.clock, self._costs)

    def run(self) -> Outcome:
        scenario = self._scenario
        most = scenario.rate * max(1.0, scenario.times)
        moments = arrivals(scenario.rate_at, most, scenario.seconds, random.Random(scenario.seed + 1))

        def arrive() -> None:
            self._send()
            if (following := next(moments, None)) is not None:
                self.clock.at(following, arrive)

        if (first := next(moments, None)) is not None:
            self.clock.at(first, arrive)
        if scenario.loss_replicas:
            self.clock.at(scenario.loss_at, self._lose)
        if self._autoscaler:
            self._each(self._autoscaler.policy.every, self._scale)
        self._count()
        self.clock.run(scenario.seconds)
        self._count()
        self.clock.run(scenario.seconds + 60)  # what is in flight is answered
        self.outcome.busy_seconds = sum(each.cores.busy_seconds for each in self._replicas)
        self.outcome.seconds.sort()
        return self.outcome

    def _each(self, seconds: float, then: Callable[[], object]) -> None:
        def again() -> None:
            then()
            if self.clock.now + seconds <= self._scenario.seconds:
                self.clock.at(self.clock.now + seconds, again)

        self.clock.at(seconds, again)

    def _send(self) -> None:
        model, tokens = next(self._drawn)
        request = Request(model, (tokens,), self._done, self._chance.randrange(CLIENTS), self.clock.now)
        if not self._sent_to:
            return self._done(request)
        chosen = self._chance.choice(self._sent_to)
        if self._scenario.nearest:
            chosen = min(chosen, self._chance.choice(self._sent_to), key=lambda each: each.in_flight)
        if chosen.lost:
            return self._done(request)
        chosen.take(request)

    def _done(self, request: Request) -> None:
        self.outcome.statuses[request.status] += 1
        if request.status == 200:
            self.outcome.seconds.append((request.sent, self.clock.now - request.sent))

    def _lose(self) -> None:
        lost = self._replicas[: self._scenario.loss_replicas]
        for each in lost:
            each.lose()
        self.clock.at(self.clock.now + self._scenario.notice_seconds, lambda: self._replace(len(lost)))

    def _replace(self, number: int) -> None:
        self._know()
        self._start(number)
        self._count()

    def _start(self, number: int) -> None:
        self._starting += number
        for _ in range(number):
            self.clock.at(self.clock.now + self._scenario.start_seconds, self._started)

    def _started(self) -> None:
        if self._starting:  # else it was not wanted any more
            self._starting -= 1
            self._replicas.append(self._new())
            self._know()

    def _know(self) -> None:
        self._sent_to = [each for each in self._replicas if each.ready]

    def _count(self) -> None:
        """Count what was paid for since the last change, and note how many there are now."""
        now = self.clock.now
        if self.outcome.replicas:
            since, number = self.outcome.replicas[-1]
            self.outcome.replica_seconds += number * (now - since)
        self.outcome.replicas.append((now, len(self._sent_to) + self._starting))

    def _scale(self) -> None:
        assert self._autoscaler
        policy, ready = self._autoscaler.policy, [each for each in self._replicas if each.ready]
        busy = sum(each.cores.busy_seconds for each in self._replicas)
        used, self._busy = busy - self._busy, busy
        utilization = used / (policy.every * self._costs.cores * max(1, len(ready)))
        waits = [each.wait_seconds for each in ready]
        number = len(ready) + self._starting
        wait = statistics.fmean(waits) if waits else 0.0
        wanted = self._autoscaler.decide(self.clock.now, number, len(ready), wait, utilization)
        if wanted > number:
            self._start(wanted - number)
        elif wanted < number:
            fewer = number - wanted
            unborn = min(fewer, self._starting)
            self._starting -= unborn
            for each in ready[len(ready) - (fewer - unborn) :]:
                each.ready = False  # it finishes what it has
        if wanted != number:
            self._know()
            self._count()


def simulate(costs: Costs, scenario: Scenario) -> Outcome:
    """Let a scenario happen."""
    return _Fleet(costs, scenario).run()
