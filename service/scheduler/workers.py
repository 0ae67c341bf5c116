"""The worker pool: threads that take batches from the queue and run them, and what looks after them.

Work-conserving: there is no timer. A worker that is free takes what waits; a batch is what came while all were busy.
While short jobs come, long ones hold at most half of the workers, so that a short one finds a core; and a client that
has a share holds no more of them than that, so that others' jobs need not wait for a batch of its own to end.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Container, Hashable, Sequence
from weakref import WeakKeyDictionary

import numpy as np

from service.engine.batch import Encoded
from service.engine.session import Engine
from service.errors import BertieError, Draining, InferenceError, NotReady
from service.metrics import Metrics
from service.scheduler import batcher
from service.scheduler.background import Background
from service.scheduler.queue import BatchRun, Job, Queue, Runner, Waiting
from service.scheduler.worker import Worker

logger = logging.getLogger(__name__)

SHORT_SECONDS = 1.0  # for so long after a short job, long ones leave half of the workers free
FAILURES = 5  # batches of a model that fail one after another before the service is not ready
LOSSES = 5  # times that workers are lost, no batch having run in between, before the process is not alive
BACK_OFF = 0.5  # seconds before the first of them is replaced; twice as many before the next
LOOK_SECONDS = 0.25
PROBE = Encoded(np.zeros(3, dtype=np.int64), np.zeros(3, dtype=np.int64))
"""The row that tries a model which has failed: no model's longest row is shorter."""


class Scheduler:
    """Runs the rows of all models of a device. Made and used on one event loop."""

    def __init__(self, workers: int, metrics: Metrics, *, hang_seconds: float) -> None:
        """Start the workers. A call that runs for longer than `hang_seconds` is given up, and its worker replaced."""
        self.tokens_per_second = 0.0  # of all workers together, smoothed; 0 before the first batch
        self._metrics = metrics
        self._hang_seconds = hang_seconds
        self._short, self._long = Queue(), Queue()
        lock = threading.RLock()
        self._changed = threading.Condition(lock)
        self._short_seen = -math.inf
        self._long_turn = self._stopped = False
        self._shares = False  # a client that has a share of the workers has come
        # Of those that ran for a client, until they are forgotten: what a shadow does is no matter of readiness.
        self._failures: WeakKeyDictionary[Runner, int] = WeakKeyDictionary()
        self._calls = 0  # under way, those that were given up too
        self._losses, self._restart = 0, 0.0  # when the workers that are lost are to be replaced
        self._loop = asyncio.get_running_loop()
        self._background = Background(lock, self._spare, self._post, metrics, hang_seconds)
        self._workers = [Worker(self._work, str(number)) for number in range(workers)]
        self._nurse = self._loop.create_task(self._look_after())

    def watch(self, model: str) -> None:
        """Show in the metrics what waits for a model, whichever of its versions is to run it."""
        rows, tokens = self._metrics.queue_rows, self._metrics.queue_tokens
        rows.labels(model).set_function(lambda: sum(len(job.waiting) for job in self._jobs(model)))
        tokens.labels(model).set_function(lambda: sum(job.tokens for job in self._jobs(model)))

    def forget(self, runner: Runner) -> None:
        """Drop what is known of a runner that is to run no more: its failures, which then count no longer, and what
        waits in the background for it."""
        with self._changed:
            self._failures.pop(runner, None)
            self._background.forget(runner)

    @property
    def wait_seconds(self) -> float:
        """How long the rows that wait take to run, estimated by the measured rate; NaN while there is none."""
        tokens = sum(job.tokens for job in self._jobs())
        return tokens / (self.tokens_per_second or math.nan) if tokens else 0.0

    @property
    def ready(self) -> bool:
        """Whether rows are run: not stopped, no worker lost, no model failing again and again."""
        with self._changed:
            healthy = max(self._failures.values(), default=0) < FAILURES
        return healthy and not self._stopped and not any(worker.lost for worker in self._workers)

    @property
    def alive(self) -> bool:
        """Whether lost workers are still replaced."""
        return self._losses < LOSSES

    async def run(
        self,
        runner: Runner,
        rows: Sequence[Encoded],
        client: Hashable = None,
        *,
        share: float = 1.0,
        background: bool = False,
    ) -> Job:
        """Run the rows (at least one) of a request, and get its job, complete. Cancelled, it leaves the queue at once.

        Args:
            client: who asks; clients share the workers by tokens.
            share: most of the workers that this client may hold at once; it may hold one in any case.
            background: run them only where a core is free and no client's row waits. How they fare is seen neither in
                the metrics of what waits and runs nor in `ready` and `alive`.

        Raises:
            InferenceError: the engine failed on a row.
            NotReady: the scheduler is stopped, or has lost its workers.
            QueueFull: too much waits in the background.
        """
        if self._stopped:
            raise Draining("the service is stopping; ask another")
        job = Job(runner, rows, client, self._loop.create_future(), share)
        queue = self._background if background else self._long if job.long else self._short
        with self._changed:
            self._shares |= share < 1
            queue.add(job)
            if not background:
                self._failures.setdefault(runner, 0)
                self._changed.notify(len(rows))
        try:
            await job.future
        finally:
            if job.missing:
                with self._changed:
                    queue.drop(job)
        return job

    def stop(self) -> bool:
        """Stop the workers and fail what waits. Returns whether no call is left running."""
        with self._changed:
            self._stopped = True
            self._fail(self._jobs(), Draining, "the service stopped before this request ran")
            self._changed.notify_all()
            self._background.stop()
            self._nurse.cancel()
            return not (self._calls or self._background.calls)

    # ---- on the workers' threads; what touches the queue holds the lock ----

    def _work(self, worker: Worker) -> None:
        try:
            while (engine := self._take(worker)) is not None:
                self._run(worker, engine)
                del engine  # else a model that is freed meanwhile lives on until the next batch
        except BaseException:
            logger.exception("a worker died")
            with self._changed:
                self._lose(worker, "the worker died of this batch")
                self._calls -= bool(worker.rows)
                worker.rows = ()

    def _take(self, worker: Worker) -> Engine | None:
        """Wait for rows, and give the worker a batch of them. Returns what is to run it; None: stop."""
        with self._changed:
            while not (self._stopped or worker.lost):
                now = time.perf_counter()
                held = self._held_back()
                if (queue := self._choose(now, held)) is not None:
                    free = sum(not each.rows for each in self._workers)
                    due = queue.first(held)
                    rows = batcher.compose(due, math.ceil(queue.rows / free), due[0].job.runner.batch_tokens)
                    queue.take(rows)
                    engine = self._engine(rows)
                    worker.rows, worker.began = rows, now
                    worker.all_cores = engine is due[0].job.runner.low_latency
                    self._calls += 1
                    for waiting in rows:
                        waiting.job.started = waiting.job.started or now
                    return engine
                self._changed.wait(max(0.01, self._short_seen + SHORT_SECONDS - now) if self._long.rows else None)
            return None

    def _held_back(self) -> Container[Hashable]:
        """Find the clients that hold as many workers as their share allows."""
        if not self._shares:
            return ()
        running = [waiting.job for worker in self._workers for waiting in worker.rows]
        shares = {job.client: job.share for job in running if job.share < 1}
        workers = Counter(
            client for worker in self._workers for client in {waiting.job.client for waiting in worker.rows}
        )
        most = len(self._workers)
        return {client for client, share in shares.items() if workers[client] >= max(1, int(share * most))}

    def _choose(self, now: float, held: Container[Hashable]) -> Queue | None:
        """Choose whom a free worker serves: long jobs or short ones, in turn where both wait; None: nobody for now."""
        short, long = self._short.serves(held), self._long.serves(held)
        if short:
            self._short_seen = now
        if long and (self._long_turn or not short):
            running = sum(worker.rows[0].job.long for worker in self._workers if worker.rows)
            quiet = now - self._short_seen >= SHORT_SECONDS
            if running < (len(self._workers) if quiet else max(1, len(self._workers) // 2)):
                self._long_turn = False
                return self._long
        self._long_turn = True
        return self._short if short else None

    def _spare(self) -> bool:
        """Whether a core is free and no client's row waits."""
        running = [worker for worker in self._workers if worker.rows]
        waits = self._short.rows or self._long.rows
        return not waits and len(running) < len(self._workers) and not any(worker.all_cores for worker in running)

    def _engine(self, rows: Sequence[Waiting]) -> Engine:
        """Choose all cores for what has the process to itself and gains by them; else a core for each batch."""
        runner = rows[0].job.runner
        alone = not (self._short.rows or self._long.rows) and not any(worker.rows for worker in self._workers)
        gains = len(rows) * max(len(waiting.row) for waiting in rows) >= runner.low_latency_tokens
        return runner.low_latency if runner.low_latency and alone and gains else runner.engine

    def _run(self, worker: Worker, engine: Engine) -> None:
        rows, runner = worker.rows, worker.rows[0].job.runner
        results = batcher.run(rows, engine, self._metrics)
        tokens = sum(len(waiting.row) for waiting in rows)
        ran = BatchRun(runner.name, worker.began, time.perf_counter(), len(rows), tokens)
        failed = all(isinstance(result, BertieError) for result in results)
        with self._changed:
            worker.rows = ()
            self._calls -= 1
            self._background.wake()
            if worker.lost:  # its rows have heard
                return
            self._losses = 0
            self._count(runner, self._failures.get(runner, 0) + 1 if failed else 0)
            if not failed:
                beside = 1 if worker.all_cores else len(self._workers)
                rate = beside * tokens / max(ran.ended - ran.began, 1e-6)
                self.tokens_per_second += (rate - self.tokens_per_second) * (0.1 if self.tokens_per_second else 1.0)
        self._post(batcher.deliver, rows, results, ran)

    def _fail(self, jobs: Sequence[Job], kind: type[BertieError], why: str) -> None:
        for job in jobs:
            self._post(batcher.fail, job, kind(why))

    def _count(self, runner: Runner, failures: int) -> None:
        if runner in self._failures:  # else it is forgotten, and what it still ran is no news
            self._failures[runner] = failures

    def _jobs(self, model: str | None = None) -> list[Job]:
        """Get the jobs with rows that wait, of one model or of all."""
        return [job for job in [*self._short.jobs, *self._long.jobs] if model in (None, job.runner.name)]

    def _post(self, callback: Callable[..., None], *arguments: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(callback, *arguments)

    def _lose(self, worker: Worker, why: str) -> None:
        """Give up a worker: its rows fail now; it is replaced when the back-off is over."""
        if not worker.lost:
            worker.lost = True
            self._metrics.workers_lost.inc()
            if (now := time.perf_counter()) >= self._restart:  # else it went with another, and counts as one with it
                self._restart = now + BACK_OFF * 2**self._losses
                self._losses += 1
            self._fail([waiting.job for waiting in worker.rows], InferenceError, why)
            if worker.rows:  # not ready until a probe has run
                self._count(worker.rows[0].job.runner, FAILURES)

    async def _look_after(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            with contextlib.suppress(RuntimeError), self._changed:  # no thread to be had: the next look tries again
                self._replace_lost(time.perf_counter())
                self._background.look(time.perf_counter())
            if self.alive and not all(worker.lost for worker in self._workers):
                await self._probe()

    async def _probe(self) -> None:
        """Run a row of each model that fails: without traffic nobody else finds out that it works again."""
        for runner in list(self._failures):
            if self._failures.get(runner, 0) >= FAILURES:
                with contextlib.suppress(BertieError, TimeoutError):
                    await asyncio.wait_for(self.run(runner, [PROBE]), 4 * LOOK_SECONDS)

    def _replace_lost(self, now: float) -> None:
        for number, worker in enumerate(self._workers):
            if worker.rows and now - worker.began > self._hang_seconds:
                self._lose(worker, "the engine did not return")
            if worker.lost and now >= self._restart and self.alive:
                logger.warning("replacing a lost worker")
                self._workers[number] = Worker(self._work, str(number))
        if not self.alive:
            self._fail(self._jobs(), NotReady, "the service has lost its workers")
