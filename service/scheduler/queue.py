"""The rows that wait for an engine, and whose turn it is.

Owns the order. Knows nothing of threads: whoever uses it holds the lock.

Turns are shared by tokens (self-clocked fair queueing, Golestani 1994, with tokens for bytes). A virtual clock reads
when what ran last was due. A job's next slice, at most a batch of it, is due at the clock's reading plus its tokens
times the jobs of its client: so a short job passes a long one, a client's only job passes another's hundredth, and what
waits is passed only until the clock comes by: none starves.
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
        due: reading of the virtual clock at which its next slice is to run.
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
        self._jobs: list[Job] = []  # in order of `due`
        self._clients: Counter[Hashable] = Counter()  # jobs of each
        self._clock = 0.0

    def __len__(self) -> int:
        return self.rows.total()

    def __iter__(self) -> Iterator[Job]:
        return iter(self._jobs)

    def add(self, job: Job) -> None:
        """Put a job in its place."""
        self._clients[job.client] += 1
        self._count(job, len(job.waiting), job.tokens)
        self._place(job)

    def first(self) -> list[Waiting]:
        """Look at the rows that are due first: a batch's tokens of one model, and at least one row."""
        rows: list[Waiting] = []
        runner = self._jobs[0].runner
        room = runner.batch_tokens
        for job in self._jobs:
            for place, row in job.waiting.items() if job.runner is runner else ():
                rows.append(Waiting(job, place, row))
                room -= len(row)
                if room <= 0:
                    return rows
        return rows

    def take(self, rows: Sequence[Waiting]) -> None:
        """Take rows out for a batch. The clock goes on, and the next slices of their jobs are due later."""
        self._clock = max(self._clock, *(waiting.job.due for waiting in rows))
        self._remove(rows)

    def drop(self, job: Job) -> None:
        """Take out what still waits of a job."""
        self._remove([Waiting(job, place, row) for place, row in job.waiting.items()])

    def _remove(self, rows: Sequence[Waiting]) -> None:
        for job, place, row in rows:
            del job.waiting[place]
            job.tokens -= len(row)
            self._count(job, -1, -len(row))
        for job in dict.fromkeys(waiting.job for waiting in rows):
            self._jobs.remove(job)
            if job.waiting:
                self._place(job)
            else:
                self._clients[job.client] -= 1
                self._clients += Counter()  # forgets who has no job left

    def _place(self, job: Job) -> None:
        job.due = self._clock + min(job.tokens, job.runner.batch_tokens) * self._clients[job.client]
        insort(self._jobs, job, key=attrgetter("due"))

    def _count(self, job: Job, rows: int, tokens: int) -> None:
        self.rows[job.runner.name] += rows
        self.tokens[job.runner.name] += tokens
