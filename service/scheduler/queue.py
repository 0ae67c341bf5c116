"""The rows that wait for an engine, and whose turn it is.

Owns the order. Knows nothing of threads: whoever uses it holds the lock.

Clients share by tokens: each has a clock that goes on by the tokens that run for it, and whose next row is due first on
its clock is served first (self-clocked fair queueing, Golestani 1994, with tokens for bytes); a new one begins at the
present. Of a client's jobs the one with the least work left is first, but each goes before those that come when as many
tokens as it holds have run for the client. So a short job passes a long one, and none starves.
"""

from __future__ import annotations

import asyncio
import time
from bisect import insort
from collections.abc import Container, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from heapq import merge
from itertools import islice
from operator import attrgetter, itemgetter
from typing import NamedTuple

from service.engine.batch import Encoded, RowLogits
from service.engine.session import Engine

LONG_BATCHES = 4  # a job of more than so many full batches' tokens is a long one
LEAST_TOKENS = 8  # of a row, as far as it is a matter of how many clients are looked at for a batch


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Runner:
    """What runs the batches of the model of that name."""

    name: str
    engine: Engine
    pad_id: int
    batch_tokens: int  # most of a batch, padding included; a longer row is a batch by itself
    low_latency: Engine | None = None  # runs a batch that has the process to itself on all cores, and
    low_latency_tokens: int = 0  # is used from so many tokens on


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class BatchRun:
    """A batch that ran: on which model, from when to when (`time.perf_counter`), and with how much but padding."""

    model: str
    began: float
    ended: float
    rows: int
    tokens: int


class Job:
    """The rows of one request on their way.

    Attributes:
        share: most of the workers that its client may hold at once.
        future: resolves when `logits` are complete, those of each row in order.
        waiting: the rows that wait, by their place in the request; `tokens` is their sum.
        missing: rows that have no logits yet.
        batches: those that its rows ran in.
        due: reading of its client's clock by which it is to have run.
        admitted, started, ended: when it came, its first batch began, and its last one ended (`time.perf_counter`).
    """

    def __init__(
        self,
        runner: Runner,
        rows: Sequence[Encoded],
        client: Hashable,
        future: asyncio.Future[None],
        share: float = 1.0,
    ) -> None:
        self.runner, self.client, self.share, self.future = runner, client, share, future
        self.waiting = dict(enumerate(rows))
        self.tokens = sum(map(len, rows))
        self.long = self.tokens > LONG_BATCHES * runner.batch_tokens
        self.logits: list[RowLogits] = [()] * len(rows)
        self.missing = len(rows)
        self.batches: list[BatchRun] = []
        self.admitted = time.perf_counter()
        self.started = self.ended = 0.0
        self.due = 0


class Waiting(NamedTuple):
    """A row that waits, and its place in its job."""

    job: Job
    place: int
    row: Encoded


@dataclass(slots=True)
class _Client:
    """A client's clock, what it will read when the next row has run, and the jobs, in order of `due`."""

    clock: int
    due: int = 0
    jobs: list[Job] = field(default_factory=list)

    def rows(self) -> Iterator[tuple[int, Waiting]]:
        """Look at its rows, each with when it is due."""
        clock = self.clock
        for job in self.jobs:
            for place, row in job.waiting.items():
                clock += len(row)
                yield clock, Waiting(job, place, row)


class Queue:
    """The jobs with waiting rows. Any job can leave at once.

    Attributes:
        rows: number of all that wait.
    """

    def __init__(self) -> None:
        self.rows = 0
        self._clients: dict[Hashable, _Client] = {}
        self._present = 0  # when what was served last was due

    @property
    def jobs(self) -> list[Job]:
        """All jobs with rows that wait. Any thread may ask, with or without the lock."""
        return [job for client in list(self._clients.values()) for job in client.jobs]

    def add(self, job: Job) -> None:
        """Put a job in its place."""
        client = self._clients.setdefault(job.client, _Client(self._present))
        job.due = client.clock + job.tokens
        self.rows += len(job.waiting)
        insort(client.jobs, job, key=attrgetter("due"))
        client.due = next(client.rows())[0]

    def serves(self, held: Container[Hashable]) -> bool:
        """Whether a row waits of a client that is not held back."""
        return any(client not in held for client in self._clients)

    def first(self, held: Container[Hashable] = ()) -> list[Waiting]:
        """Look at the rows that are due first, of clients that are not held back: a batch's tokens of one model, and at
        least one row."""
        rows: list[Waiting] = []
        able = [each for client, each in self._clients.items() if client not in held]
        clients = sorted(able, key=attrgetter("due"))
        runner = clients[0].jobs[0].runner
        room = runner.batch_tokens
        due = merge(*(client.rows() for client in clients[: max(1, room // LEAST_TOKENS)]), key=itemgetter(0))
        for _, waiting in islice(due, runner.batch_tokens):
            if waiting.job.runner is runner:
                rows.append(waiting)
                room -= len(waiting.row)
                if room <= 0:
                    break
        return rows

    def take(self, rows: Sequence[Waiting]) -> None:
        """Take rows out for a batch; their clients' clocks go on."""
        self._present = max(self._present, self._clients[rows[0].job.client].due)
        for waiting in rows:
            self._clients[waiting.job.client].clock += len(waiting.row)
        self._remove(rows)

    def drop(self, job: Job) -> None:
        """Take out what still waits of a job."""
        self._remove([Waiting(job, place, row) for place, row in job.waiting.items()])

    def _remove(self, rows: Sequence[Waiting]) -> None:
        for job, place, row in rows:
            del job.waiting[place]
            job.tokens -= len(row)
            job.due -= len(row)
        self.rows -= len(rows)
        for job in dict.fromkeys(waiting.job for waiting in rows):
            client = self._clients[job.client]
            client.jobs.remove(job)
            if job.waiting:
                insort(client.jobs, job, key=attrgetter("due"))
            client.due = next(client.rows(), (0,))[0]
            if not client.jobs:
                del self._clients[job.client]
