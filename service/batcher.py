"""The queue between requests and an engine: rows in, batches out, logits back.

Owns admission, the order of rows, the batches' make-up, deadlines and the worker threads. Knows rows and their lengths,
and nothing of text or tasks.

Work-conserving: there is no timer. A worker that is free takes what waits; a batch is what came while all were busy. A
batch begins with the request whose turn it is, so none is starved; it is filled with the waiting rows nearest to that
one in length, so little is padding. Turns go by age, but a request of very many rows lets the others pass after a few
batches: whoever sends a book does not keep short questions waiting for all of its windows.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

from service.batch import Batch, Encoded, pad
from service.engine import Engine, Outputs
from service.errors import (
    BertieError,
    ConfigurationError,
    DeadlineExceeded,
    InferenceError,
    NotReady,
    QueueFull,
)
from service.metrics import Metrics
from service.schedule import Schedule
from service.tasks import RowLogits

logger = logging.getLogger(__name__)

LOOK_AHEAD = 2
"""Full batches' tokens, from the head of the queue, among which a batch looks for lengths like its first row's. Looking
farther lets the odd lengths wait: of 32 callers the slowest twentieth half as long again as the median, where with two
batches it is a quarter, for 3 % fewer rows a second (docs/lab.md)."""
LATE = 256
"""Requests at the head of the queue that are looked at for a deadline that has passed, before each batch."""
TURN_BATCHES = 4
"""Full batches' tokens that a request may run before the others' turn."""
REOPEN = 0.5
"""Share of a full queue to which it must empty before it admits again. So most refusals come before any work on the
request, and Retry-After can say when the next one is admitted: refusing row by row would let in whoever asks first."""
PADDING = 0.08
"""A row joins a batch only while at most this share of the batch's tokens is padding."""


@dataclass(slots=True, eq=False)
class Job:
    """The rows of one request on their way through the queue.

    Attributes:
        future: resolves to the logits of each row, in order.
        waiting: the rows that wait, by their place in the request.
        missing: rows that have no logits yet.
        turn_tokens: tokens of it that ran in its turn.
        queue_seconds: from admission to the start of the first batch with a row of it.
        inference_seconds: from there to the end of the last one.
    """

    future: asyncio.Future[list[RowLogits]]
    deadline: float
    admitted: float
    waiting: dict[int, Encoded]
    logits: list[RowLogits]
    missing: int
    queue_seconds: float = 0.0
    inference_seconds: float = 0.0
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
class _Waiting:
    job: Job
    index: int
    row: Encoded


class Batcher:
    """Feeds one engine from `engine.workers` threads. Made and used on one event loop."""

    def __init__(
        self,
        name: str,
        engine: Engine,
        *,
        pad_id: int,
        max_length: int,
        schedule: Schedule,
        max_queue_tokens: int,
        metrics: Metrics,
    ) -> None:
        """
        Raises:
            ConfigurationError: the budget of a batch is less than the longest row.
        """
        if schedule.batch_tokens < max_length:
            raise ConfigurationError(
                f"BERTIE_MAX_BATCH_TOKENS={schedule.batch_tokens} is below the {max_length} tokens of model {name!r}'s "
                f"longest row"
            )
        self.name = name
        self._engine = engine
        self._pad_id = pad_id
        self._schedule = schedule
        self._max_queue_tokens = max_queue_tokens
        # Those with waiting rows, in the order of their turns. Any row can leave at once: what is here is alive.
        self._queue: OrderedDict[Job, None] = OrderedDict()
        self._rows = 0
        self._tokens = 0
        self._busy = 0
        self._tokens_per_second = 0.0
        self._full = False
        self._draining = False
        self._stopped = False
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._threads: list[threading.Thread] = []
        self._alive = 0
        self._metric_rows = metrics.batch_rows.labels(name)
        self._metric_tokens = metrics.batch_tokens.labels(name)
        self._metric_padding = metrics.padding_ratio.labels(name)
        metrics.queue_rows.labels(name).set_function(lambda: self._rows)
        metrics.queue_tokens.labels(name).set_function(lambda: self._tokens)

    def start(self) -> None:
        """Starts the workers. Call it on the event loop that will submit."""
        self._loop = asyncio.get_running_loop()
        self._threads = [
            threading.Thread(target=self._work, name=f"engine-{self.name}-{i}", daemon=True)
            for i in range(self._engine.workers)
        ]
        self._alive = len(self._threads)
        for thread in self._threads:
            thread.start()

    @property
    def ready(self) -> bool:
        """Whether rows are admitted: started, not draining, and no worker has died."""
        return bool(self._threads) and not self._draining and self._alive == len(self._threads)

    def check_open(self) -> None:
        """Refuses what would be refused whatever its length: before the work of tokenising it.

        Raises:
            QueueFull: the queue has been full and has not emptied enough since.
        """
        with self._lock:
            if self._full and self._tokens > REOPEN * self._max_queue_tokens:
                raise self._refusal(REOPEN * self._max_queue_tokens)
            self._full = False

    def submit(self, rows: Sequence[Encoded], *, deadline: float) -> Job:
        """Queues the rows of a request, all or none.

        Args:
            rows: at least one.
            deadline: on `time.perf_counter`'s clock; rows that still wait then are dropped.

        Raises:
            QueueFull: they do not fit, or others did not and the queue has not emptied enough since. A request larger
                than the whole queue is admitted when nothing waits.
            NotReady: draining, stopped, or a worker has died.
        """
        self.check_open()
        tokens = sum(map(len, rows))
        with self._changed:
            if not self.ready:
                raise NotReady(f"model {self.name!r} takes no requests now")
            assert self._loop is not None
            if self._tokens and self._tokens + tokens > self._max_queue_tokens:
                # A huge request that does not fit into a queue that is far from full keeps nobody else out.
                reopened = REOPEN * self._max_queue_tokens
                self._full = self._tokens > reopened
                room = max(0.0, self._max_queue_tokens - tokens)
                raise self._refusal(min(room, reopened) if self._full else room)
            job = Job(
                self._loop.create_future(),
                deadline,
                time.perf_counter(),
                dict(enumerate(rows)),
                [()] * len(rows),
                len(rows),
            )
            self._queue[job] = None
            self._rows += len(rows)
            self._tokens += tokens
            self._changed.notify(len(rows))
        return job

    async def result(self, job: Job) -> list[RowLogits]:
        """The logits of each row, in order. When the caller is cancelled, rows that still wait cost nothing.

        Raises:
            DeadlineExceeded: the deadline passed first.
            InferenceError: the engine failed on a batch with a row of the job.
            NotReady: the last worker died.
        """
        try:
            async with asyncio.timeout(max(0.0, job.deadline - time.perf_counter())):
                return await job.future
        except TimeoutError:
            raise _too_late() from None
        finally:
            if job.missing:
                with self._lock:
                    self._drop(job)

    async def drain(self, seconds: float) -> bool:
        """Admits no more, waits up to `seconds` for what was admitted, and stops the workers.

        Returns whether everything admitted was answered.
        """
        self._draining = True
        until = time.perf_counter() + seconds
        while not (done := self._idle()) and time.perf_counter() < until:
            await asyncio.sleep(0.01)
        with self._changed:
            self._stopped = True
            self._fail_waiting(NotReady("the service stopped before this request ran"))
            self._changed.notify_all()
        await asyncio.sleep(0)  # what the workers posted reaches its futures
        return done

    def _idle(self) -> bool:
        with self._lock:  # without it, a batch that is just being taken is neither in the queue nor with a worker
            return not self._queue and not self._busy

    # ---- the workers' side: everything below runs on their threads, under the lock where it touches the queue ----

    def _work(self) -> None:
        try:
            while (taken := self._next_batch())[0]:
                self._run(*taken)
        except BaseException:
            logger.exception("a worker of model %r died", self.name)
        finally:
            with self._lock:
                # One lost worker turns readiness off. What waits is the others' to finish; when none is left, nobody
                # would ever resolve these futures.
                self._alive -= 1
                if not self._alive:
                    self._fail_waiting(NotReady(f"model {self.name!r} has lost its workers"))

    def _next_batch(self) -> tuple[list[_Waiting], Engine]:
        """Waits for rows and takes the next batch and what is to run it; an empty batch means stop."""
        with self._changed:
            while not self._stopped:
                self._drop_late(time.perf_counter())
                if self._queue:
                    chosen = self._choose()
                    alone = not self._busy and not self._queue
                    self._busy += 1
                    return chosen, self._engine_for(chosen, alone=alone)
                self._changed.wait()
            return [], self._engine

    def _engine_for(self, chosen: list[_Waiting], *, alone: bool) -> Engine:
        """All cores for what is alone, if they make it quicker; under load a core for each batch."""
        lone = self._schedule.lone
        if not alone or lone is None:
            return self._engine
        tokens = len(chosen) * max(len(waiting.row) for waiting in chosen)
        return lone if tokens >= self._schedule.lone_tokens else self._engine

    def _choose(self) -> list[_Waiting]:
        first, *others = self._in_turn(LOOK_AHEAD * self._schedule.batch_tokens)
        idle = max(1, self._alive - self._busy)
        share = math.ceil(self._rows / idle)  # leave the other free workers theirs
        others.sort(key=lambda w: abs(len(w.row) - len(first.row)))
        chosen, longest, total = [first], len(first.row), len(first.row)
        for waiting in others:
            if len(chosen) >= share:
                break
            tokens = len(waiting.row)
            padded = max(longest, tokens) * (len(chosen) + 1)
            if padded > self._schedule.batch_tokens or total + tokens < (1 - PADDING) * padded:
                break
            chosen.append(waiting)
            longest, total = max(longest, tokens), total + tokens
        for waiting in chosen:
            del waiting.job.waiting[waiting.index]
            if not waiting.job.waiting:
                del self._queue[waiting.job]
        self._rows -= len(chosen)
        self._tokens -= total
        self._pass_on(first.job, sum(len(waiting.row) for waiting in chosen if waiting.job is first.job))
        return chosen

    def _in_turn(self, tokens: int) -> Iterator[_Waiting]:
        """The rows whose turn it is, of so many tokens in all, and at least one."""
        for job in self._queue:
            for index, row in job.waiting.items():
                yield _Waiting(job, index, row)
                tokens -= len(row)
                if tokens <= 0:
                    return

    def _pass_on(self, job: Job, tokens: int) -> None:
        """Ends the turn of a job that has run its share of tokens and has more to run."""
        job.turn_tokens += tokens
        if job.waiting and job.turn_tokens >= TURN_BATCHES * self._schedule.batch_tokens:
            job.turn_tokens = 0
            self._queue.move_to_end(job)

    def _drop(self, job: Job) -> None:
        """Takes out what still waits of a job whose caller has gone, or that has failed: it costs no inference."""
        if job.waiting:
            del self._queue[job]
            self._rows -= len(job.waiting)
            self._tokens -= sum(map(len, job.waiting.values()))
            job.waiting.clear()

    def _drop_late(self, now: float) -> None:
        """Fails the jobs past their deadline among those that the next batch looks at."""
        while late := [job for job in islice(self._queue, LATE) if job.deadline < now]:
            for job in late:
                self._drop(job)
                self._post(_fail, job, _too_late())

    def _run(self, waiting: list[_Waiting], engine: Engine) -> None:
        """Runs one batch, outside the lock, and posts its rows back in one hop to the loop."""
        started = time.perf_counter()
        outputs: Outputs = ()
        error: BertieError | None = InferenceError("the worker died of this batch")
        try:
            for w in waiting:
                w.job.start(started)
            batch = pad([w.row for w in waiting], self._pad_id)
            self._observe(batch)
            outputs = engine.run(batch)
            if any(len(output) != len(waiting) for output in outputs):
                raise ValueError(f"{[len(output) for output in outputs]} rows came back of {len(waiting)}")
            error = None
        except Exception as cause:
            logger.exception("a batch of %d rows failed on model %r", len(waiting), self.name)
            error = InferenceError("the engine failed on this batch")
            error.__cause__ = cause
        finally:  # whatever happened, be it this worker's death: its rows hear of it, and nobody waits for it
            ended = time.perf_counter()
            self._post(self._deliver, waiting, outputs, error, ended)
            with self._lock:
                self._busy -= 1
                if error is None:
                    self._note_rate(sum(len(w.row) for w in waiting), ended - started)
                else:
                    for w in waiting:
                        self._drop(w.job)

    def _observe(self, batch: Batch) -> None:
        rows, tokens = batch.shape
        self._metric_rows.observe(rows)
        self._metric_tokens.observe(rows * tokens)
        self._metric_padding.observe(batch.padding_ratio)

    def _note_rate(self, tokens: int, seconds: float) -> None:
        """Smooths the tokens a second of all workers together, for Retry-After."""
        rate = tokens / max(seconds, 1e-6) * self._alive
        self._tokens_per_second += (rate - self._tokens_per_second) * (0.1 if self._tokens_per_second else 1.0)

    def _refusal(self, room: float) -> QueueFull:
        """The refusal of a request that is admitted when `room` tokens wait."""
        seconds = (self._tokens - room) / self._tokens_per_second if self._tokens_per_second else 1.0
        return QueueFull(
            f"{self._tokens} tokens wait for model {self.name!r}; the limit is {self._max_queue_tokens}",
            retry_after=seconds,
        )

    def _fail_waiting(self, error: BertieError) -> None:
        for job in list(self._queue):
            self._drop(job)
            self._post(_fail, job, error)

    def _post(self, callback: Callable[..., None], *arguments: object) -> None:
        assert self._loop is not None
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(callback, *arguments)

    @staticmethod
    def _deliver(waiting: list[_Waiting], outputs: Outputs, error: BertieError | None, ended: float) -> None:
        """On the loop: hands each row its logits, and each complete job its result."""
        for position, w in enumerate(waiting):
            job = w.job
            if error is not None:
                _fail(job, error)
                continue
            job.logits[w.index] = tuple(output[position] for output in outputs)
            job.missing -= 1
            job.finish(ended)
            if job.missing == 0 and not job.future.done():
                job.future.set_result(job.logits)


def _fail(job: Job, error: BertieError) -> None:
    if not job.future.done():
        job.future.set_exception(error)
        job.future.exception()  # the caller may be gone: an exception nobody asks for is no news


def _too_late() -> DeadlineExceeded:
    return DeadlineExceeded("the request waited past its deadline")
