"""One replica, simulated: cores that threads share, an event loop, workers; and the service's own queue and permits.

The order of rows, what a batch holds, and who is refused are not modelled: they are `service.scheduler`'s own code.
Owns what takes time. Knows nothing of other replicas, of HTTP, or of requests of more than four full batches.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from bench.capacity.costs import Costs
from service.engine.batch import Encoded
from service.errors import QueueFull
from service.scheduler import batcher
from service.scheduler.permits import BYTES_PER_TOKEN, Permit, Permits
from service.scheduler.queue import Job, Queue, Runner, Waiting
from service.settings import Settings

BEFORE = 0.6
"""Share of the event loop's work for a request that comes before its rows wait: reading and encoding."""
Then = Callable[[], object]


class Clock:
    """The time, and what happens when.

    Attributes:
        now: seconds since the start.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Then]] = []
        self._count = itertools.count()

    def at(self, time: float, then: Then) -> None:
        """Call `then` at a time."""
        heapq.heappush(self._events, (time, next(self._count), then))

    def run(self, until: float = math.inf) -> None:
        """Let time pass until then, or as long as something happens."""
        while self._events and self._events[0][0] <= until:
            self.now, _, then = heapq.heappop(self._events)
            then()
        if not math.isinf(until):
            self.now = until


@dataclass(slots=True, eq=False)
class _Thread:
    left: float
    width: float
    then: Then


class Cores:
    """Cores that threads share evenly. `busy_seconds` is the sum of what all of them worked."""

    def __init__(self, clock: Clock, costs: Costs) -> None:
        self.busy_seconds = 0.0
        self._clock, self._costs = clock, costs
        self._threads: list[_Thread] = []
        self._since, self._speed, self._plan = 0.0, 1.0, 0

    def run(self, seconds: float, then: Then, width: float = 1.0) -> None:
        """Work for so long, on `width` cores at once, as measured alone; then call `then`."""
        self._advance()
        self._threads.append(_Thread(seconds, width, then))
        self._replan()

    def _advance(self) -> None:
        passed, self._since = self._clock.now - self._since, self._clock.now
        if self._threads and passed:
            for thread in self._threads:
                thread.left -= passed * self._speed
            self.busy_seconds += passed * min(self._costs.cores, self._demand())

    def _demand(self) -> float:
        return sum(thread.width for thread in self._threads)

    def _replan(self) -> None:
        self._plan += 1
        if self._threads:
            self._speed = self._costs.speed(self._demand())
            plan = self._plan
            soonest = min(thread.left for thread in self._threads) / self._speed
            self._clock.at(self._clock.now + max(0.0, soonest), lambda: self._finish(plan))

    def _finish(self, plan: int) -> None:
        if plan != self._plan:
            return
        self._advance()
        done = [thread for thread in self._threads if thread.left <= 1e-9]
        self._threads = [thread for thread in self._threads if thread.left > 1e-9]
        self._replan()
        for thread in done:
            thread.then()


class Loop:
    """A thread that does one thing after another, and takes `wake` seconds more for what finds it idle."""

    def __init__(self, cores: Cores, wake: float) -> None:
        self._cores, self._wake = cores, wake
        self._waiting: deque[tuple[Callable[[], float], Then]] = deque()
        self._busy = False

    def do(self, work: Callable[[], float], then: Then) -> None:
        """Do something in its turn: `work` is called when it begins and says how many seconds it takes."""
        self._waiting.append((work, then))
        if not self._busy:
            self._next(self._wake)

    def _next(self, more: float = 0.0) -> None:
        self._busy = bool(self._waiting)
        if self._busy:
            work, then = self._waiting.popleft()
            self._cores.run(work() + more, lambda: self._done(then))

    def _done(self, then: Then) -> None:
        then()
        self._next()


@dataclass(slots=True, eq=False)
class Request:
    """One request.

    Attributes:
        model, rows: the model, and the tokens of each row.
        client: who asks.
        sent: when.
        done: called with the status (200, 429, 0 for a lost one) when it is answered.
        status: 0 until then.
    """

    model: str
    rows: tuple[int, ...]
    done: Callable[[Request], object]
    client: int = 0
    sent: float = 0.0
    status: int = 0
    permit: Permit | None = None

    @property
    def tokens(self) -> int:
        """Of all rows."""
        return sum(self.rows)


class _Future:
    """What a job completes here; the service's own is asyncio's."""

    def done(self) -> bool:
        return True


@dataclass(eq=False)
class Replica:
    """A service, with as many cores as that which was measured.

    Attributes:
        ready: whether it takes requests; `lost`: whether its node is gone.
        wait_seconds: what it would show as `bertie_queue_wait_seconds`.
    """

    clock: Clock
    costs: Costs
    cores: Cores = field(init=False)
    ready: bool = True
    lost: bool = False

    def __post_init__(self) -> None:
        self.cores = Cores(self.clock, self.costs)
        self._loop = Loop(self.cores, self.costs.wake)
        self._queue = Queue()
        self._requests: dict[Job, Request] = {}
        self._running: dict[int, Sequence[Waiting]] = {}
        self._numbers = itertools.count()
        self._rate = 0.0
        settings = Settings.model_construct()
        self._permits = Permits(settings.max_requests, settings.max_queue_tokens, lambda: self._rate)
        self._runners = {
            name: Runner(name, cast(Any, None), 0, model.batch_tokens) for name, model in self.costs.models.items()
        }

    @property
    def wait_seconds(self) -> float:
        """As `Scheduler.wait_seconds`."""
        tokens = sum(job.tokens for job in self._queue.jobs)
        return tokens / (self._rate or math.nan) if tokens else 0.0

    @property
    def in_flight(self) -> int:
        """Requests that are admitted and not answered."""
        return self._permits.requests.held

    def take(self, request: Request) -> None:
        """Take a request; it is answered, or refused, when it has its turn."""
        self._loop.do(lambda: self._admit(request), lambda: self._enqueue(request))

    def lose(self) -> None:
        """Go away, as a node does: what is in flight is never answered."""
        self.lost, self.ready = True, False
        for request in list(self._requests.values()):
            self._answer(request, 0)
        self._requests.clear()

    def _admit(self, request: Request) -> float:
        try:
            request.permit = self._permits.acquire(request.client, BYTES_PER_TOKEN * request.tokens)
        except QueueFull:
            return self.costs.refusal
        return BEFORE * self.costs.loop_seconds(request.tokens)

    def _enqueue(self, request: Request) -> None:
        if request.permit is None:
            return self._answer(request, 429)
        request.permit.resize(request.tokens)  # the body's length was an estimate
        rows = cast("Sequence[Encoded]", [range(length) for length in request.rows])  # what is asked of them is len()
        job = Job(self._runners[request.model], rows, request.client, cast(Any, _Future()))
        self._requests[job] = request
        self._queue.add(job)
        self._work()

    def _work(self) -> None:
        while self._queue.rows and (free := self.costs.cores - len(self._running)) and not self.lost:
            due = self._queue.first()
            rows = batcher.compose(due, math.ceil(self._queue.rows / free), due[0].job.runner.batch_tokens)
            self._queue.take(rows)
            self._run(rows)

    def _run(self, rows: Sequence[Waiting]) -> None:
        costs, model = self.costs, self.costs.models[rows[0].job.runner.name]
        length = max(len(waiting.row) for waiting in rows)
        alone = not self._queue.rows and not self._running
        number, began = next(self._numbers), self.clock.now
        self._running[number] = rows
        if alone and 0 < model.low_latency_tokens <= len(rows) * length:
            # Measured on all cores at once: their speed is in it already.
            seconds = model.wide.seconds(len(rows), length) * costs.speed(costs.cores)
            self.cores.run(seconds, lambda: self._ran(number, began, 1), costs.cores)
        else:
            seconds = model.batch.seconds(len(rows), length)
            self.cores.run(seconds, lambda: self._ran(number, began, costs.cores))

    def _ran(self, number: int, began: float, beside: int) -> None:
        rows = self._running.pop(number)
        rate = beside * sum(len(waiting.row) for waiting in rows) / max(self.clock.now - began, 1e-6)
        self._rate += (rate - self._rate) * (0.1 if self._rate else 1.0)  # as `Scheduler._run`
        for job in dict.fromkeys(waiting.job for waiting in rows):
            job.missing -= sum(waiting.job is job for waiting in rows)
            if not job.missing and (request := self._requests.pop(job, None)) is not None:
                self._decode(request)
        self._work()

    def _decode(self, request: Request) -> None:
        seconds = (1 - BEFORE) * self.costs.loop_seconds(request.tokens)
        self._loop.do(lambda: seconds, lambda: self._answer(request, 200))

    def _answer(self, request: Request, status: int) -> None:
        if request.permit is not None:
            request.permit.release()
        request.status = 0 if self.lost else status
        request.done(request)
