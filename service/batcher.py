"""The queue between requests and an engine: rows in, batches out, logits back.

Owns admission, the order of rows, the batches' make-up, deadlines and the worker threads. Knows rows and their lengths,
and nothing of text or tasks.

Work-conserving: there is no timer. A worker that is free takes what waits; a batch is what came while all were busy. A
batch always begins with the row that waited longest, so none is starved; it is filled with the waiting rows nearest to
that one in length, so little is padding.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
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
from service.tasks import RowLogits

logger = logging.getLogger(__name__)

LOOK_AHEAD = 256
"""Waiting rows among which a batch looks for lengths like its first row's."""
PADDING = 0.08
"""A row joins a batch only while at most this share of the batch's tokens is padding."""


@dataclass(slots=True, eq=False)
class Job:
    """The rows of one request on their way through the queue.

    Attributes:
        future: resolves to the logits of each row, in order.
        tickets: the rows' places in the queue.
        missing: rows that have no logits yet.
        queue_seconds: from admission to the start of the first batch with a row of it.
        inference_seconds: from there to the end of the last one.
    """

    future: asyncio.Future[list[RowLogits]]
    deadline: float
    admitted: float
    tickets: range
    logits: list[RowLogits]
    missing: int
    queue_seconds: float = 0.0
    inference_seconds: float = 0.0
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

    @property
    def ticket(self) -> int:
        return self.job.tickets[self.index]


class Batcher:
    """Feeds one engine from `engine.workers` threads. Made and used on one event loop."""

    def __init__(
        self,
        name: str,
        engine: Engine,
        *,
        pad_id: int,
        max_length: int,
        max_batch_tokens: int,
        max_queue_tokens: int,
        metrics: Metrics,
    ) -> None:
        """
        Raises:
            ConfigurationError: the budget of a batch is less than the longest row.
        """
        if max_batch_tokens < max_length:
            raise ConfigurationError(
                f"BERTIE_MAX_BATCH_TOKENS={max_batch_tokens} is below the {max_length} tokens of model {name!r}'s "
                f"longest row"
            )
        self.name = name
        self._engine = engine
        self._pad_id = pad_id
        self._max_batch_tokens = max_batch_tokens
        self._max_queue_tokens = max_queue_tokens
        # By ticket, oldest first. Any row can leave at once, wherever it stands: what is here is alive.
        self._queue: OrderedDict[int, _Waiting] = OrderedDict()
        self._next_ticket = 0
        self._tokens = 0
        self._busy = 0
        self._tokens_per_second = 0.0
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
        metrics.queue_rows.labels(name).set_function(lambda: len(self._queue))
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

    def submit(self, rows: Sequence[Encoded], *, deadline: float) -> Job:
        """Queues the rows of a request, all or none.

        Args:
            rows: at least one.
            deadline: on `time.perf_counter`'s clock; rows that still wait then are dropped.

        Raises:
            QueueFull: they do not fit. A request larger than the whole queue is admitted when nothing waits.
            NotReady: draining, stopped, or a worker has died.
        """
        tokens = sum(map(len, rows))
        with self._changed:
            if not self.ready:
                raise NotReady(f"model {self.name!r} takes no requests now")
            assert self._loop is not None
            if self._tokens and self._tokens + tokens > self._max_queue_tokens:
                raise QueueFull(
                    f"{self._tokens} tokens wait for model {self.name!r}; the limit is {self._max_queue_tokens}",
                    retry_after=self._seconds_to_drain(),
                )
            tickets = range(self._next_ticket, self._next_ticket + len(rows))
            job = Job(self._loop.create_future(), deadline, time.perf_counter(), tickets, [()] * len(rows), len(rows))
            self._queue.update((tickets[i], _Waiting(job, i, row)) for i, row in enumerate(rows))
            self._next_ticket += len(rows)
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
            while waiting := self._next_batch():
                self._run(waiting)
        except BaseException:
            logger.exception("a worker of model %r died", self.name)
        finally:
            with self._lock:
                # One lost worker turns readiness off. What waits is the others' to finish; when none is left, nobody
                # would ever resolve these futures.
                self._alive -= 1
                if not self._alive:
                    self._fail_waiting(NotReady(f"model {self.name!r} has lost its workers"))

    def _next_batch(self) -> list[_Waiting]:
        """Waits for rows and takes the next batch; an empty one means stop."""
        with self._changed:
            while not self._stopped:
                self._drop_late(time.perf_counter())
                if self._queue:
                    chosen = self._choose()
                    self._busy += 1
                    return chosen
                self._changed.wait()
            return []

    def _choose(self) -> list[_Waiting]:
        first, *others = islice(self._queue.values(), LOOK_AHEAD)
        idle = max(1, self._alive - self._busy)
        share = math.ceil(len(self._queue) / idle)  # leave the other free workers theirs
        others.sort(key=lambda w: abs(len(w.row) - len(first.row)))
        chosen, longest, total = [first], len(first.row), len(first.row)
        for waiting in others:
            if len(chosen) >= share:
                break
            tokens = len(waiting.row)
            padded = max(longest, tokens) * (len(chosen) + 1)
            if padded > self._max_batch_tokens or total + tokens < (1 - PADDING) * padded:
                break
            chosen.append(waiting)
            longest, total = max(longest, tokens), total + tokens
        for waiting in chosen:
            del self._queue[waiting.ticket]
        self._tokens -= total
        return chosen

    def _drop(self, job: Job) -> None:
        """Takes out what still waits of a job whose caller has gone, or that has failed: it costs no inference."""
        for ticket in job.tickets:
            waiting = self._queue.pop(ticket, None)
            if waiting is not None:
                self._tokens -= len(waiting.row)

    def _drop_late(self, now: float) -> None:
        """Fails the jobs past their deadline among the rows that the next batch looks at."""
        while late := {w.job for w in islice(self._queue.values(), LOOK_AHEAD) if w.job.deadline < now}:
            for job in late:
                self._drop(job)
                self._post(_fail, job, _too_late())

    def _run(self, waiting: list[_Waiting]) -> None:
        """Runs one batch, outside the lock, and posts its rows back in one hop to the loop."""
        started = time.perf_counter()
        outputs: Outputs = ()
        error: BertieError | None = InferenceError("the worker died of this batch")
        try:
            for w in waiting:
                w.job.start(started)
            batch = pad([w.row for w in waiting], self._pad_id)
            self._observe(batch)
            outputs = self._engine.run(batch)
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

    def _seconds_to_drain(self) -> float:
        return self._tokens / self._tokens_per_second if self._tokens_per_second else 1.0

    def _fail_waiting(self, error: BertieError) -> None:
        for job in {w.job for w in self._queue.values()}:
            self._post(_fail, job, error)
        self._queue.clear()
        self._tokens = 0

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
