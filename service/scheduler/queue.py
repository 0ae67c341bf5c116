"""The rows that wait for an engine, and whose turn it is.

Owns the order. Knows nothing of threads: whoever uses it holds the lock.

Turns are shared by tokens. A virtual clock goes on by the tokens that run, over the number of clients that wait
(weighted fair queueing, Demers et al. 1989, with tokens for bytes). A job is due when the clock has gone on by the
tokens that are left of it, times the jobs of its client: so a shorter job passes a longer one, a client's only job
passes another's hundredth, and what waits is passed only until the clock comes by: none starves.

Short and long jobs wait apart, so that each kind can be given workers of its own.
"""

from __future__ import annotations

import asyncio
from bisect import insort
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import NamedTuple

from service.engine.batch import Encoded
from service.engine.session import Engine
from service.tasks import RowLogits

LONG_BATCHES = 4
"""A job of more than so many full batches' tokens is a long one."""


@dataclass(frozen=True, slots=True, eq=False)
class Runner:
    """What runs a model's batches.

    Attributes:
        name: the model's.
        engine: runs any batch.
        pad_id: id to pad rows with.
        batch_tokens: most tokens of a batch, padding included; a longer row is a batch by itself.
        low_latency: runs a batch that has the process to itself on all cores; None: `engine` does.
        low_latency_tokens: from how many tokens on it is used.
    """

    name: str
    engine: Engine
    pad_id: int
    batch_tokens: int
    low_latency: Engine | None = None
    low_latency_tokens: int = 0


class Job:
    """The rows of one request on their way.

    Attributes:
        future: resolves when `logits` are complete, those of each row in order.
        waiting: the rows that wait, by their place in the request; `tokens` is their sum.
        missing: rows that have no logits yet.
        due: reading of the virtual clock by which it is to have run.
        admitted, started, ended: when it came, its first batch began, and its last one ended (`time.perf_counter`).
    """

    def __init__(
        self, runner: Runner, rows: Sequence[Encoded], client: Hashable, future: asyncio.Future[None], now: float
    ) -> None:
        self.runner, self.client, self.future = runner, client, future
        self.waiting = dict(enumerate(rows))
        self.tokens = sum(map(len, rows))
        self.long = self.tokens > LONG_BATCHES * runner.batch_tokens
        self.logits: list[RowLogits] = [()] * len(rows)
        self.missing = len(rows)
        self.due = 0.0
        self.admitted, self.started, self.ended = now, 0.0, 0.0


class Waiting(NamedTuple):
    """A row that waits, and its place in its job."""

    job: Job
    place: int
    row: Encoded


class Queue:
    """The jobs with waiting rows. Any job can leave at once.

    Attributes:
        rows, tokens: that wait, by model.
    """

    def __init__(self) -> None:
        self.rows: Counter[str] = Counter()
        self.tokens: Counter[str] = Counter()
        self._jobs: dict[bool, dict[Runner, list[Job]]] = {False: {}, True: {}}  # short and long, in order of `due`
        self._clients: Counter[Hashable] = Counter()
        self._clock = 0.0

    def __len__(self) -> int:
        return self.rows.total()

    def __iter__(self) -> Iterator[Job]:
        return iter([job for kind in self._jobs.values() for jobs in kind.values() for job in jobs])

    def waits(self, *, long: bool) -> bool:
        """Whether a job of that kind waits."""
        return bool(self._jobs[long])

    def add(self, job: Job) -> None:
        """Put a job in its place."""
        self._clients[job.client] += 1
        self._count(job, len(job.waiting), job.tokens)
        self._place(job)

    def drop(self, job: Job) -> None:
        """Take out what still waits of a job."""
        if job.waiting:
            self._displace(job)
            self._count(job, -len(job.waiting), -job.tokens)
            job.waiting.clear()
            self._place(job)

    def first(self, *, long: bool) -> list[Waiting]:
        """Look at the rows of that kind that are due first: a batch's tokens of one model, and at least one row."""
        rows: list[Waiting] = []
        jobs = min(self._jobs[long].values(), key=lambda jobs: jobs[0].due)
        room = jobs[0].runner.batch_tokens
        for job in jobs:
            for place, row in job.waiting.items():
                rows.append(Waiting(job, place, row))
                room -= len(row)
                if room <= 0:
                    return rows
        return rows

    def take(self, rows: Sequence[Waiting]) -> None:
        """Take rows out for a batch; the clock goes on."""
        self._clock += sum(len(waiting.row) for waiting in rows) / len(self._clients)
        jobs = dict.fromkeys(waiting.job for waiting in rows)
        for job in jobs:
            self._displace(job)
        for job, place, row in rows:
            del job.waiting[place]
            job.tokens -= len(row)
            self._count(job, -1, -len(row))
        for job in jobs:
            self._place(job)

    def _place(self, job: Job) -> None:
        if not job.waiting:
            self._clients[job.client] -= 1
            self._clients += Counter()  # drops who has no job left
            return
        job.due = self._clock + job.tokens * self._clients[job.client]
        insort(self._jobs[job.long].setdefault(job.runner, []), job, key=attrgetter("due"))

    def _displace(self, job: Job) -> None:
        jobs = self._jobs[job.long][job.runner]
        jobs.remove(job)
        if not jobs:
            del self._jobs[job.long][job.runner]

    def _count(self, job: Job, rows: int, tokens: int) -> None:
        self.rows[job.runner.name] += rows
        self.tokens[job.runner.name] += tokens
