"""The jobs that wait for an engine, and whose turn it is.

Owns their order and the counts of what waits. Knows nothing of engines and threads: who uses it holds the lock.

Turns go by age, but a job of very many rows lets the others pass when it has run its share. A higher priority goes
first; yet every few batches one begins with the job that has waited longest of the lower ones: none is starved. Jobs in
the background have turns of their own, until half of their time is over.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, get_args

from service.engine.batch import Encoded
from service.tasks import RowLogits

Priority: TypeAlias = Literal["high", "normal", "low"]
PRIORITIES: tuple[Priority, ...] = get_args(Priority)
LOWER_EVERY = 4
"""Of so many batches one begins with a job that is not of the highest priority waiting."""


@dataclass(slots=True, eq=False)
class Job:
    """The rows of one request on their way through the queue.

    Attributes:
        future: resolves to the logits of each row, in order.
        waiting: the rows that wait, by their place in the request.
        missing: rows that have no logits yet.
        tokens: of the rows that wait.
        turn_tokens: tokens of it that ran in its turn.
        background: whether it waits among those in the background.
        queue_seconds: from admission to the start of the first batch with a row of it.
        inference_seconds: from there to the end of the last one.
    """

    future: asyncio.Future[list[RowLogits]]
    deadline: float
    admitted: float
    waiting: dict[int, Encoded]
    logits: list[RowLogits]
    missing: int
    priority: Priority = "normal"
    background: bool = False
    queue_seconds: float = 0.0
    inference_seconds: float = 0.0
    tokens: int = 0
    turn_tokens: int = 0
    _started: float = field(default=0.0)

    def start(self, now: float) -> None:
        """Notes that a batch with a row of this job begins."""
        if not self._started:
            self._started = now
            self.queue_seconds = now - self.admitted

    def finish(self, now: float) -> None:
        """Notes that a batch with a row of this job has ended; word of several batches comes in any order."""
        self.inference_seconds = max(self.inference_seconds, now - self._started)


@dataclass(frozen=True, slots=True, eq=False)
class Waiting:
    """A row that waits, and its place in its job."""

    job: Job
    index: int
    row: Encoded


class Turns:
    """The jobs with waiting rows. Any row can leave at once: what is here is alive.

    Attributes:
        tokens: that wait.
        counted: of those tokens, what others may have to wait for: of each job at most `most_counted`.
        gone: tokens that have waited and do no more.
    """

    def __init__(self, *, turn_tokens: int, most_counted: int) -> None:
        """
        Args:
            turn_tokens: that a job may run before the others' turn.
        """
        self.tokens = 0
        self.counted = 0
        self.gone = 0
        self._turn_tokens = turn_tokens
        self._most_counted = most_counted
        self._queues: dict[tuple[bool, Priority], OrderedDict[Job, None]] = {
            (background, priority): OrderedDict() for background in (False, True) for priority in PRIORITIES
        }
        self._rows = [0, 0]  # in front and in the background
        self._batches = 0

    def __bool__(self) -> bool:
        return self.rows > 0

    def __iter__(self) -> Iterator[Job]:
        for queue in self._queues.values():
            yield from queue

    @property
    def rows(self) -> int:
        """Rows that wait."""
        return sum(self._rows)

    def rows_in(self, *, background: bool) -> int:
        """Rows that wait in the background, or in front of it."""
        return self._rows[background]

    @property
    def held(self) -> int:
        """Tokens that wait and are not counted, because others pass them."""
        return self.tokens - self.counted

    def count(self, tokens: int) -> int:
        """How many of a job's waiting tokens are counted."""
        return min(tokens, self._most_counted)

    def add(self, job: Job) -> None:
        """Puts a job at the end of those of its priority."""
        self._queue_of(job)[job] = None
        self._change(job, len(job.waiting), sum(map(len, job.waiting.values())))

    def drop(self, job: Job) -> int:
        """Takes out what still waits of a job. Returns how many rows that was."""
        rows = len(job.waiting)
        if rows:
            del self._queue_of(job)[job]
            self._change(job, -rows, -job.tokens)
            job.waiting.clear()
        return rows

    def promote(self, now: float) -> bool:
        """Brings to the front the jobs of which half the time is over; whether there were any."""
        queues = [self._queues[True, priority] for priority in PRIORITIES]
        late = [job for queue in queues for job in queue if now > (job.admitted + job.deadline) / 2]
        for job in late:
            del self._queue_of(job)[job]
            self._rows[True] -= len(job.waiting)
            job.background = False
            self._queue_of(job)[job] = None
            self._rows[False] += len(job.waiting)
        return bool(late)

    def first(self, tokens: int, now: float, *, background: bool = False) -> tuple[list[Waiting], list[Job]]:
        """The rows whose turn it is, in the background or in front of it, of so many tokens in all and at least one.

        Returns also the jobs met that are past their deadline, of which no row is among those.
        """
        rows: list[Waiting] = []
        late: list[Job] = []
        for job in self._in_turn(background):
            if job.deadline < now:
                late.append(job)
                continue
            for index, row in job.waiting.items():
                rows.append(Waiting(job, index, row))
                tokens -= len(row)
                if tokens <= 0:
                    return rows, late
        return rows, late

    def take(self, rows: Sequence[Waiting]) -> None:
        """Takes rows out for a batch, in the turn of the first one's job, which ends when it has run its share."""
        turn = rows[0].job
        for waiting in rows:
            job = waiting.job
            del job.waiting[waiting.index]
            self._change(job, -1, -len(waiting.row))
            if job is turn:
                job.turn_tokens += len(waiting.row)
            if not job.waiting:
                del self._queue_of(job)[job]
        self._batches += 1
        if turn.waiting and turn.turn_tokens >= self._turn_tokens:
            turn.turn_tokens = 0
            self._queue_of(turn).move_to_end(turn)

    def tokens_until(self, counted: float, held: float = float("inf")) -> int:
        """Tokens that run, turn by turn, until so few are counted and held back."""
        left = deque(job.tokens for job in self)
        ran, still_counted, still_held = 0, self.counted, self.held
        while left and (still_counted > counted or still_held > held):
            tokens = left.popleft()
            rest = max(0, tokens - self._turn_tokens)
            fewer = self.count(tokens) - self.count(rest)
            ran += tokens - rest
            still_counted -= fewer
            still_held -= tokens - rest - fewer
            if rest:
                left.append(rest)
        return ran

    def _queue_of(self, job: Job) -> OrderedDict[Job, None]:
        return self._queues[job.background, job.priority]

    def _in_turn(self, background: bool) -> Iterator[Job]:
        queues = [queue for priority in PRIORITIES if (queue := self._queues[background, priority])]
        lower = [next(iter(queue)) for queue in queues[1:]] if self._batches % LOWER_EVERY == LOWER_EVERY - 1 else []
        begin = min(lower, key=lambda job: job.admitted, default=None)
        if begin is not None:
            yield begin
        for queue in queues:
            yield from (job for job in queue if job is not begin)

    def _change(self, job: Job, rows: int, tokens: int) -> None:
        """Counts rows of a job in, or out below zero."""
        self.counted += self.count(job.tokens + tokens) - self.count(job.tokens)
        job.tokens += tokens
        self._rows[job.background] += rows
        self.tokens += tokens
        self.gone += max(0, -tokens)
