"""The queue between requests and an engine: rows in, batches out, logits back.

Owns admission, the batches' make-up, deadlines and the worker threads; `turns` owns the order. Knows rows and their
lengths, and nothing of text or tasks.

Work-conserving: there is no timer. A worker that is free takes what waits; a batch is what came while all were busy. A
batch begins with the request whose turn it is, so none is starved; it is filled with the waiting rows nearest to that
one in length, so little is padding. A request of very many rows counts for little in the queue and runs in the
background, on threads that leave the cores to all others: whoever sends a book neither keeps short questions waiting
for its windows, nor out.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence

from service.engine.batch import Batch, Encoded, pad
from service.engine.session import Engine, Outputs
from service.errors import (
    BertieError,
    ConfigurationError,
    DeadlineExceeded,
    Draining,
    InferenceError,
    NotReady,
    QueueFull,
)
from service.metrics import Metrics
from service.scheduler.queue import Job, Priority, Turns, Waiting
from service.scheduler.schedule import Load, Schedule
from service.tasks import RowLogits

logger = logging.getLogger(__name__)

LOOK_AHEAD = 1
"""Full batches' tokens, from the head of the queue, among which a batch looks for lengths like its first row's. Looking
farther lets the odd lengths wait: with all that waits, the slowest twentieth of 32 callers waits 1.55 times the median,
with this 1.3 times, at as many rows a second (docs/lab.md)."""
TURN_BATCHES = 4
"""Full batches' tokens that a request may run before the others' turn. One of more runs in the background."""
BACKGROUND_NICE = 10
"""How much nicer threads in the background are: beside one busy thread of another kind they get a tenth of its time. A
call under way is put off too, in the middle, whatever model it is of; that no order of a queue can do. Measured against
5 and 19 in docs/lab.md."""
COUNTED = 1 / 8
"""Share of a full queue for which a request counts at most, however long, or else a full batch: the others pass it."""
HELD = 8
"""Full queues' tokens that may wait beyond what is counted. Past it, what would add to them is refused."""
REOPEN = 0.5
"""Share of a full queue to which it must empty before it admits again. So most refusals come before any work on the
request, and Retry-After can say when the next one is admitted: refusing row by row would let in whoever asks first."""
PADDING = 0.08
"""A row joins a batch only while at most this share of the batch's tokens is padding."""


class _Lane:
    """Threads that run jobs of one kind, in front or in the background.

    Attributes:
        changed: there is something to do for them.
        threads: all that were started.
        alive: how many of them have not died.
        busy: how many run a batch.
    """

    def __init__(self, lock: threading.Lock) -> None:
        self.changed = threading.Condition(lock)
        self.threads: list[threading.Thread] = []
        self.alive = 0
        self.busy = 0


class Batcher:
    """Feeds one engine from `engine.workers` threads, and as many more in the background as `engine.background` says.
    Made and used on one event loop."""

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
        load: Load | None = None,
    ) -> None:
        """
        Args:
            load: shared by the batchers of the process; by default one of its own.

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
        self._load = load or Load()
        self._turns = Turns(
            turn_tokens=TURN_BATCHES * schedule.batch_tokens,
            most_counted=max(schedule.batch_tokens, int(COUNTED * max_queue_tokens)),
        )
        self._tokens_per_second = 0.0
        self._reopens: int | None = None  # the reading of `Turns.gone` at which a full queue will admit again
        self._draining = False
        self._stopped = False
        self._lock = threading.Lock()
        self._lanes = (_Lane(self._lock), _Lane(self._lock))  # in front, in the background
        self._loop: asyncio.AbstractEventLoop | None = None
        self._metric_rows = metrics.batch_rows.labels(name)
        self._metric_tokens = metrics.batch_tokens.labels(name)
        self._metric_padding = metrics.padding_ratio.labels(name)
        self._metric_lost = metrics.workers_lost.labels(name)
        metrics.queue_rows.labels(name).set_function(lambda: self._turns.rows)
        metrics.queue_tokens.labels(name).set_function(lambda: self._turns.tokens)

    def start(self) -> None:
        """Starts the workers. Call it on the event loop that will submit."""
        self._loop = asyncio.get_running_loop()
        for background, count in ((False, self._engine.workers), (True, self._engine.background)):
            lane, name = self._lanes[background], f"{'background' if background else 'engine'}-{self.name}"
            lane.threads = [
                threading.Thread(target=self._work, args=(background,), name=f"{name}-{i}", daemon=True)
                for i in range(count)
            ]
            lane.alive = count
            for thread in lane.threads:
                thread.start()

    @property
    def ready(self) -> bool:
        """Whether rows are admitted: started, not draining, and no worker has died."""
        started = self._loop is not None
        return started and not self._draining and all(lane.alive == len(lane.threads) for lane in self._lanes)

    def check_open(self) -> None:
        """Refuses what would be refused whatever its length: before the work of tokenising it.

        Raises:
            QueueFull: the queue has been full and has not emptied enough since.
        """
        with self._lock:
            over = self._turns.counted - REOPEN * self._max_queue_tokens
            if self._reopens is not None and over > 0:
                raise self._full(max(over, self._reopens - self._turns.gone))
            self._reopens = None

    def submit(self, rows: Sequence[Encoded], *, deadline: float, priority: Priority = "normal") -> Job:
        """Queues the rows of a request, all or none.

        Args:
            rows: at least one.
            deadline: on `time.perf_counter`'s clock; rows that still wait then are dropped.

        Raises:
            DeadlineExceeded: it is past.
            QueueFull: they do not fit, or others did not and the queue has not emptied enough since. What nothing waits
                before always fits.
            NotReady: draining, stopped, or a worker has died.
        """
        now = time.perf_counter()
        if deadline < now:
            raise _too_late()
        self.check_open()
        with self._lock:
            if not self.ready:
                raise (Draining if self._draining else NotReady)(f"model {self.name!r} takes no requests now")
            assert self._loop is not None
            tokens = sum(map(len, rows))
            self._admit(tokens)
            waiting = dict(enumerate(rows))
            job = Job(self._loop.create_future(), deadline, now, waiting, [()] * len(rows), len(rows), priority)
            many = tokens > TURN_BATCHES * self._schedule.batch_tokens
            job.background = many and priority != "high" and bool(self._lanes[True].threads)
            self._turns.add(job)
            self._load.add(len(rows))
            self._lanes[job.background].changed.notify(len(rows))
        return job

    def _admit(self, tokens: int) -> None:
        """Raises QueueFull unless a request of so many tokens fits."""
        turns, counted = self._turns, self._turns.count(tokens)
        room = max(0.0, self._max_queue_tokens - counted)
        held = tokens - counted
        room_held = max(0, HELD * self._max_queue_tokens - held) if held else math.inf  # what adds nothing may pass
        if not turns or (turns.counted <= room and turns.held <= room_held):
            return
        # What does not fit into a queue that is far from full, or only because long ones wait, keeps nobody else out.
        reopened = REOPEN * self._max_queue_tokens
        if turns.counted > max(room, reopened):
            self._reopens = turns.gone + turns.tokens_until(reopened)
            room = min(room, reopened)
        raise self._full(turns.tokens_until(room, room_held))

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
        with self._lock:
            self._stopped = True
            self._fail_all(list(self._turns), Draining("the service stopped before this request ran"))
            for lane in self._lanes:
                lane.changed.notify_all()
        await asyncio.sleep(0)  # what the workers posted reaches its futures
        return done

    def _idle(self) -> bool:
        with self._lock:  # without it, a batch that is just being taken is neither in the queue nor with a worker
            return not self._turns and not any(lane.busy for lane in self._lanes)

    # ---- the workers' side: everything below runs on their threads, under the lock where it touches the queue ----

    def _work(self, background: bool) -> None:
        lane = self._lanes[background]
        try:
            if background:
                _step_back()
            while (taken := self._next_batch(background))[0]:
                self._run(*taken, lane)
        except BaseException:
            self._metric_lost.inc()
            logger.exception("a worker of model %r died", self.name)
        finally:
            with self._lock:
                # One lost worker turns readiness off. What waits is the others' to finish; when none is left, nobody
                # would ever resolve these futures.
                lane.alive -= 1
                if not lane.alive:
                    theirs = [job for job in self._turns if job.background == background]
                    self._fail_all(theirs, NotReady(f"model {self.name!r} has lost its workers"))

    def _next_batch(self, background: bool) -> tuple[list[Waiting], Engine]:
        """Waits for rows and takes the next batch and what is to run it; an empty batch means stop."""
        lane = self._lanes[background]
        with self._lock:
            while not self._stopped:
                if chosen := self._choose(background):
                    lane.busy += 1
                    return chosen, self._engine if background else self._engine_for(chosen)
                lane.changed.wait()
            return [], self._engine

    def _engine_for(self, chosen: list[Waiting]) -> Engine:
        """All cores for what is alone in the process, if they make it quicker; under load a core for each batch."""
        lone = self._schedule.lone
        if lone is None or self._load.rows > len(chosen):
            return self._engine
        tokens = len(chosen) * max(len(waiting.row) for waiting in chosen)
        return lone if tokens >= self._schedule.lone_tokens else self._engine

    def _choose(self, background: bool) -> list[Waiting]:
        """Takes the rows of the next batch out of the queue, and fails the jobs that it finds past their deadline."""
        now, lane = time.perf_counter(), self._lanes[background]
        if background and self._turns.promote(now):
            self._lanes[False].changed.notify_all()
        rows, late = self._turns.first(LOOK_AHEAD * self._schedule.batch_tokens, now, background=background)
        for job in late:
            self._drop(job)
            self._post(_fail, job, _too_late())
        if not rows:
            return []
        first, *others = rows
        idle = max(1, lane.alive - lane.busy)
        share = math.ceil(self._turns.rows_in(background=background) / idle)  # leave the other free workers theirs
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
        self._turns.take(chosen)
        return chosen

    def _drop(self, job: Job) -> None:
        """Takes out what still waits of a job whose caller has gone, or that has failed: it costs no inference."""
        self._load.add(-self._turns.drop(job))

    def _run(self, waiting: list[Waiting], engine: Engine, lane: _Lane) -> None:
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
                lane.busy -= 1
                front = self._lanes[False]
                self._load.add(-len(waiting))
                if error is None:
                    if lane is front or not front.busy:  # else it tells what is left, not what there is
                        beside = 1 if engine is self._schedule.lone else lane.alive
                        self._note_rate(beside * sum(len(w.row) for w in waiting) / max(ended - started, 1e-6))
                else:
                    for w in waiting:
                        self._drop(w.job)

    def _observe(self, batch: Batch) -> None:
        rows, tokens = batch.shape
        self._metric_rows.observe(rows)
        self._metric_tokens.observe(rows * tokens)
        self._metric_padding.observe(batch.padding_ratio)

    def _note_rate(self, rate: float) -> None:
        """Smooths the tokens a second of all workers together, for Retry-After."""
        self._tokens_per_second += (rate - self._tokens_per_second) * (0.1 if self._tokens_per_second else 1.0)

    def _full(self, tokens: float) -> QueueFull:
        """The refusal of a request that is admitted when so many tokens have run."""
        limit = f"the limit is {self._max_queue_tokens}"
        if self._turns.held:
            limit += f", and {HELD * self._max_queue_tokens} for the rest of long requests, of which {self._turns.held}"
        return QueueFull(
            f"{self._turns.counted} tokens wait for model {self.name!r}; {limit}",
            retry_after=tokens / self._tokens_per_second if self._tokens_per_second else 1.0,
            model=self.name,
        )

    def _fail_all(self, jobs: Sequence[Job], error: BertieError) -> None:
        for job in jobs:
            self._drop(job)
            self._post(_fail, job, error)

    def _post(self, callback: Callable[..., None], *arguments: object) -> None:
        assert self._loop is not None
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(callback, *arguments)

    @staticmethod
    def _deliver(waiting: list[Waiting], outputs: Outputs, error: BertieError | None, ended: float) -> None:
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


def _step_back() -> None:
    """Makes the calling thread nicer than the process, where a thread has a niceness of its own."""
    if sys.platform == "linux":
        nice = os.getpriority(os.PRIO_PROCESS, os.getpid()) + BACKGROUND_NICE
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), nice)


def _fail(job: Job, error: BertieError) -> None:
    if not job.future.done():
        job.future.set_exception(error)
        job.future.exception()  # the caller may be gone: an exception nobody asks for is no news


def _too_late() -> DeadlineExceeded:
    return DeadlineExceeded("the request waited past its deadline")
