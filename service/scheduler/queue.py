"""The rows that wait for an engine, and whose turn it is.

Owns the order. Knows nothing of threads: whoever uses it holds the lock.

Turns are shared by tokens (self-clocked fair queueing, Golestani 1994, with tokens for bytes). A virtual clock reads
when what ran last was due. A job's next slice, at most a batch of it, is due at the clock's reading plus its tokens
times the jobs of its client: so a short job passes a long one, a client's only job passes another's hundredth, and what
waits is passed only until the clock comes by: none starves.
"""

from __future__ import annotations

import asyncio
import time
from bisect import insort
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from service.engine.batch import Encoded, RowLogits
from service.engine.session import Engine

LONG_BATCHES = 4
"""A job of more than so many full batches' tokens is a long one."""


@dataclass(frozen=True, slots=True, eq=False)
class Runner:
    """What runs the batches of the model of that name."""

    name: str
    engine: Engine
    pad_id: int
    batch_tokens: int
    """Most tokens of a batch, padding included; a longer row is a batch by itself."""
    low_latency: Engine | None = None
    """Runs a batch that has the process to itself on all cores; None: `engine` does."""
    low_latency_tokens: int = 0
    """From how many tokens on it is used."""


class Job:
    """The rows of one request on their way.

    Attributes:
        future: resolves when `logits` are complete, those of each row in order.
        waiting: the rows that wait, by their place in the request; `tokens` is their sum.
        missing: rows that have no logits yet.
        due: reading of the virtual clock at which its next slice is to run.
        admitted, started, ended: when it came, its first batch began, and its last one ended (`time.perf_counter`).
    """

    def __init__(self, runner: Runner, rows: Sequence[Encoded], client: Hashable, future: asyncio.Future[None]) -> None:
        self.runner, self.client, self.future = runner, client, future
        self.waiting = dict(enumerate(rows))
        self.tokens = sum(map(len, rows))
        self.long = self.tokens > LONG_BATCHES * runner.batch_tokens
        self.logits: list[RowLogits] = [()] * len(rows)
        self.missing = len(rows)
        self.admitted = time.perf_counter()
        self.started = self.ended = self.due = 0.0


class Waiting(NamedTuple):
    """A row that waits, and its place in its job."""

    job: Job
    place: int
    row: Encoded


class Queue:
    """The jobs with waiting rows. Any job can leave at once.

    Attributes:
        jobs: in the order in which they are due.
        rows: number of all that wait.
    """

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        self.rows = 0
        self._clients: Counter[Hashable] = Counter()  # jobs of each
        self._clock = 0.0

    def add(self, job: Job) -> None:
        """Put a job in its place."""
        self._clients[job.client] += 1
        self.rows += len(job.waiting)
        self._place(job)

    def first(self) -> list[Waiting]:
        """Look at the rows that are due first: a batch's tokens of one model, and at least one row."""
        rows: list[Waiting] = []
        runner = self.jobs[0].runner
        room = runner.batch_tokens
        for job in self.jobs:
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
        self.rows -= len(rows)
        for job in dict.fromkeys(waiting.job for waiting in rows):
            self.jobs.remove(job)
            if job.waiting:
                self._place(job)
            else:
                self._clients[job.client] -= 1
                self._clients += Counter()  # forgets who has no job left

    def _place(self, job: Job) -> None:
        job.due = self._clock + min(job.tokens, job.runner.batch_tokens) * self._clients[job.client]
        insort(self.jobs, job, key=lambda job: job.due)
