"""The worker pool: threads that take batches from the queue and run them, and what looks after them.

Work-conserving: there is no timer. A worker that is free takes what waits; a batch is what came while all were busy.
While short jobs come, long ones hold at most half of the workers, so that a short one finds a core.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from functools import partial

import numpy as np
from prometheus_client import Histogram

from service.engine.batch import Batch, Encoded
from service.engine.session import Engine
from service.errors import BertieError, Draining, InferenceError, NotReady
from service.metrics import Metrics
from service.scheduler import batcher
from service.scheduler.queue import Job, Queue, Runner, Waiting

logger = logging.getLogger(__name__)

SHORT_SECONDS = 1.0
"""For so long after a short job, long ones leave half of the workers free."""
FAILURES = 5
"""Batches of a model that fail one after another before the service is not ready."""
LOSSES = 5
"""Workers lost one after another, no batch having run in between, before the process is not alive."""
BACK_OFF = 0.5
"""Seconds before the first of them is replaced; twice as many before the next."""
LOOK_SECONDS = 0.25
PROBE = Encoded(np.zeros(8, dtype=np.int64), np.zeros(8, dtype=np.int64))
"""The row that tries a model which has failed."""


class _Worker:
    """A thread, the rows that it runs since when, and whether it is given up: dead, or in a call that hangs."""

    def __init__(self, work: Callable[[_Worker], None], number: int) -> None:
        self.rows: Sequence[Waiting] = ()
        self.began = 0.0
        self.lost = False
        threading.Thread(target=work, args=(self,), name=f"engine-{number}", daemon=True).start()


class Scheduler:
    """Runs the rows of all models of a device. Made and used on one event loop.

    Attributes:
        tokens_per_second: what all workers do together, smoothed; 0 before the first batch.
    """

    def __init__(self, workers: int, metrics: Metrics, *, hang_seconds: float) -> None:
        """Start the workers.

        Args:
            workers: batches that run side by side.
            hang_seconds: a call that runs for longer is given up, and its worker replaced.
        """
        self.tokens_per_second = 0.0
        self._metrics = metrics
        self._hang_seconds = hang_seconds
        self._queue = Queue()
        self._changed = threading.Condition()
        self._short_seen = -math.inf
        self._long_turn = False
        self._observed: dict[str, tuple[Histogram, ...]] = {}
        self._failures: dict[Runner, int] = {}
        self._losses = 0
        self._restart = 0.0
        self._stopped = False
        self._loop = asyncio.get_running_loop()
        self._workers = [_Worker(self._work, number) for number in range(workers)]
        self._nurse = self._loop.create_task(self._look_after())

    def watch(self, runner: Runner) -> None:
        """Show in the metrics what waits for a model, and its batches. To be called before its rows are run."""
        m = self._metrics
        of_batches = m.batch_rows, m.batch_tokens, m.padding_ratio
        self._observed[runner.name] = tuple(metric.labels(runner.name) for metric in of_batches)
        self._metrics.queue_rows.labels(runner.name).set_function(lambda: self._queue.rows[runner.name])
        self._metrics.queue_tokens.labels(runner.name).set_function(lambda: self._queue.tokens[runner.name])

    @property
    def ready(self) -> bool:
        """Whether rows are run: not stopped, no worker lost, no model failing again and again."""
        healthy = max(self._failures.values(), default=0) < FAILURES
        return healthy and not self._stopped and not any(worker.lost for worker in self._workers)

    @property
    def alive(self) -> bool:
        """Whether lost workers are still replaced."""
        return self._losses < LOSSES

    async def run(self, runner: Runner, rows: Sequence[Encoded], client: Hashable = None) -> Job:
        """Run the rows (at least one) of a request, and get its job, complete. Cancelled, it leaves the queue at once.

        Raises:
            InferenceError: the engine failed on a row.
            NotReady: the scheduler is stopped, or has lost its workers.
        """
        if self._stopped:
            raise Draining("the service is stopping; ask another")
        job = Job(runner, rows, client, self._loop.create_future(), time.perf_counter())
        with self._changed:
            self._queue.add(job)
            if not job.long:
                self._short_seen = job.admitted
            self._changed.notify(len(rows))
        try:
            await job.future
        finally:
            if job.missing:
                with self._changed:
                    self._queue.drop(job)
        return job

    def stop(self) -> bool:
        """Stop the workers and fail what waits. Returns whether no call is left running."""
        with self._changed:
            self._stopped = True
            self._fail(list(self._queue), Draining("the service stopped before this request ran"))
            self._changed.notify_all()
            self._nurse.cancel()
            return not any(worker.rows for worker in self._workers)

    # ---- on the workers' threads; what touches the queue holds the lock ----

    def _work(self, worker: _Worker) -> None:
        try:
            while taken := self._next(worker):
                self._run(worker, *taken)
        except BaseException:
            logger.exception("a worker died")
        with self._changed:
            if not self._stopped:
                self._lose(worker, InferenceError("the worker died of this batch"))

    def _next(self, worker: _Worker) -> tuple[Sequence[Waiting], Engine] | None:
        """Wait for rows; take a batch of them and what is to run it. None: stop."""
        with self._changed:
            while not (self._stopped or worker.lost):
                now = time.perf_counter()
                if (long := self._kind(now)) is not None:
                    free = sum(not worker.rows for worker in self._workers)
                    rows = batcher.compose(self._queue.first(long=long), math.ceil(len(self._queue) / max(1, free)))
                    self._queue.take(rows)
                    engine = self._engine(rows)
                    worker.rows, worker.began = rows, now
                    for waiting in rows:
                        waiting.job.started = waiting.job.started or now
                    return rows, engine
                held = self._queue.waits(long=True)
                self._changed.wait(max(0.01, self._short_seen + SHORT_SECONDS - now) if held else None)
            return None

    def _kind(self, now: float) -> bool | None:
        """Choose for a free worker: long jobs, short ones, or (None) nothing for now."""
        short, long = self._queue.waits(long=False), self._queue.waits(long=True)
        if long:
            workers, running = len(self._workers), sum(w.rows[0].job.long for w in self._workers if w.rows)
            quiet = not short and now - self._short_seen >= SHORT_SECONDS
            if running < (workers if quiet else max(1, workers // 2)) and (not short or workers > 1 or self._long_turn):
                self._long_turn = False
                return True
        self._long_turn = True  # a single worker takes turns
        return False if short else None

    def _engine(self, rows: Sequence[Waiting]) -> Engine:
        """Choose all cores for what has the process to itself and gains by them; else a core for each batch."""
        runner = rows[0].job.runner
        if runner.low_latency is None or self._queue or any(worker.rows for worker in self._workers):
            return runner.engine
        tokens = len(rows) * max(len(waiting.row) for waiting in rows)
        return runner.low_latency if tokens >= runner.low_latency_tokens else runner.engine

    def _run(self, worker: _Worker, rows: Sequence[Waiting], engine: Engine) -> None:
        runner = rows[0].job.runner
        results = batcher.run(rows, engine, partial(self._observe, runner.name))
        ended = time.perf_counter()
        failed = all(isinstance(result, BertieError) for result in results)
        with self._changed:
            if worker.lost:  # its rows have heard
                return
            seconds, worker.rows, self._losses = ended - worker.began, (), 0
            self._failures[runner] = self._failures.get(runner, 0) + 1 if failed else 0
            if not failed:
                beside = 1 if engine is runner.low_latency else len(self._workers)
                rate = beside * sum(len(waiting.row) for waiting in rows) / max(seconds, 1e-6)
                self.tokens_per_second += (rate - self.tokens_per_second) * (0.1 if self.tokens_per_second else 1.0)
        self._post(batcher.deliver, rows, results, ended)

    def _observe(self, model: str, batch: Batch) -> None:
        rows, tokens = batch.shape
        in_rows, in_tokens, padding = self._observed[model]
        in_rows.observe(rows)
        in_tokens.observe(rows * tokens)
        padding.observe(batch.padding_ratio)

    def _fail(self, jobs: Sequence[Job], error: BertieError) -> None:
        for job in jobs:
            self._queue.drop(job)
            self._post(batcher.fail, job, error)

    def _post(self, callback: Callable[..., None], *arguments: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(callback, *arguments)

    # ---- what looks after the workers ----

    def _lose(self, worker: _Worker, error: BertieError) -> None:
        """Give up a worker: its rows fail now; it is replaced when the back-off is over."""
        if not worker.lost:
            worker.lost = True
            self._restart = time.perf_counter() + BACK_OFF * 2**self._losses
            self._losses += 1
            self._metrics.workers_lost.inc()
            self._fail([waiting.job for waiting in worker.rows], error)
            if worker.rows:  # not ready until a probe has run
                self._failures[worker.rows[0].job.runner] = FAILURES

    async def _look_after(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            with self._changed:
                now = time.perf_counter()
                for number, worker in enumerate(self._workers):
                    if worker.rows and now - worker.began > self._hang_seconds:
                        self._lose(worker, InferenceError("the engine did not return"))
                    if worker.lost and now >= self._restart and self.alive:
                        logger.warning("replacing a lost worker")
                        self._workers[number] = _Worker(self._work, number)
                if not self.alive:
                    self._fail(list(self._queue), NotReady("the service has lost its workers"))
                failing = [runner for runner, failures in self._failures.items() if failures >= FAILURES]
            for runner in failing if self.alive else ():  # without traffic nobody else finds out that it works again
                with contextlib.suppress(BertieError, TimeoutError):
                    async with asyncio.timeout(1.0):
                        await self.run(runner, [PROBE])
