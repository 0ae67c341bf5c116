"""Background jobs: rows whose answers no client waits for. They run while a core is free and no client's row waits.

Owns their queue, which is bounded, and their worker, which is one more than those of clients: a client's row never
waits for a background batch, nor for one that hangs or kills its worker. At worst it shares a core with a small one.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Sequence
from weakref import WeakSet

from service.errors import BertieError, Draining, InferenceError, NotReady, QueueFull
from service.metrics import Metrics
from service.scheduler import batcher
from service.scheduler.queue import BatchRun, Job, Queue, Runner, Waiting
from service.scheduler.worker import Worker

logger = logging.getLogger(__name__)

BATCHES = 16  # full batches' tokens that may wait; what comes then is refused, so that what waits is never stale
PARTS = 4  # of a full batch is a background one: what a client's row, which may come the next moment, runs beside


class Background:
    """The background jobs of a device. Who calls its methods holds the lock.

    Attributes:
        calls: of engines that are under way, those that were given up too.
    """

    def __init__(
        self, lock: threading.RLock, spare: Callable[[], bool], post: Callable[..., None], metrics: Metrics,
        hang_seconds: float,
    ) -> None:  # fmt: skip
        """
        Args:
            spare: whether a core is free and no client's row waits.
            post: calls a function on the jobs' event loop.
        """
        self.calls = 0
        self._changed = threading.Condition(lock)
        self._spare, self._post = spare, post
        self._metrics = metrics
        self._hang_seconds = hang_seconds
        self._queue = Queue()
        self._worker: Worker | None = None  # not before there is a job
        self._barred: WeakSet[Runner] = WeakSet()  # they hung, or killed the worker: each may do it once
        self._stopped = False

    def add(self, job: Job) -> None:
        """Queue a job.

        Raises:
            QueueFull: too much waits.
            NotReady: its runner took a worker down.
        """
        if job.runner in self._barred:
            raise NotReady(f"model {job.runner.name!r} hung or killed its worker: it runs in the background no more")
        tokens = sum(other.tokens for other in self._queue.jobs)
        if tokens and tokens + job.tokens > BATCHES * job.runner.batch_tokens:
            raise QueueFull(f"{tokens} tokens wait in the background", retry_after=1.0)
        self._queue.add(job)
        self.wake()

    def drop(self, job: Job) -> None:
        """Take out what still waits of a job."""
        self._queue.drop(job)

    def wake(self) -> None:
        """Have what waits looked at, now that a core may be free, or the worker lost."""
        if self._queue.rows and not self._stopped:
            if self._worker is None or self._worker.lost:
                with contextlib.suppress(RuntimeError):  # no thread to be had: the next time tries again
                    self._worker = Worker(self._work, "background")
            self._changed.notify()

    def look(self, now: float) -> None:
        """Give up a call that hangs."""
        if (worker := self._worker) and worker.rows and now - worker.began > self._hang_seconds:
            self._lose(worker, "the engine did not return")
        self.wake()

    def forget(self, runner: Runner) -> None:
        """Drop what is known of a runner that is freed, and fail what waits for it."""
        self._barred.discard(runner)
        self._fail(runner, NotReady("this version is no longer loaded"))

    def stop(self) -> None:
        """Stop the worker and fail what waits."""
        self._stopped = True
        for job in self._queue.jobs:
            self._post(batcher.fail, job, Draining("the service stopped before this ran"))
        self._changed.notify()

    # ---- on the worker's thread ----

    def _work(self, worker: Worker) -> None:
        try:
            while rows := self._take(worker):
                self._run(worker, rows)
                del rows
        except BaseException:
            logger.exception("the background worker died")
            with self._changed:
                self._lose(worker, "the worker died of this batch")
                self.calls -= bool(worker.rows)
                worker.rows = ()

    def _take(self, worker: Worker) -> Sequence[Waiting]:
        """Wait until there is a core for the rows that are due first, and get them; none: stop."""
        with self._changed:
            while not (self._stopped or worker.lost):
                if self._queue.rows and self._spare():
                    due = self._queue.first()
                    rows = batcher.compose(due, len(due), due[0].job.runner.batch_tokens // PARTS)
                    self._queue.take(rows)
                    worker.rows, worker.began = rows, time.perf_counter()
                    self.calls += 1
                    for waiting in rows:
                        waiting.job.started = waiting.job.started or worker.began
                    return rows
                self._changed.wait()
            return ()

    def _run(self, worker: Worker, rows: Sequence[Waiting]) -> None:
        runner = rows[0].job.runner
        results = batcher.run(rows, runner.engine, None)
        tokens = sum(len(waiting.row) for waiting in rows)
        ran = BatchRun(runner.name, worker.began, time.perf_counter(), len(rows), tokens)
        with self._changed:
            worker.rows = ()
            self.calls -= 1
            if worker.lost:  # its rows have heard
                return
        self._post(batcher.deliver, rows, results, ran)

    def _lose(self, worker: Worker, why: str) -> None:
        """Give up the worker: its rows fail now, and all that waits for the same runner, which gets no other."""
        if not worker.lost:
            worker.lost = True
            self._metrics.workers_lost.inc()
            for runner in {waiting.job.runner for waiting in worker.rows}:
                self._barred.add(runner)
                self._fail(runner, InferenceError(why))
            for waiting in worker.rows:
                self._post(batcher.fail, waiting.job, InferenceError(why))
            self.wake()

    def _fail(self, runner: Runner, error: BertieError) -> None:
        """Fail the jobs that wait for a runner."""
        for job in self._queue.jobs:
            if job.runner is runner:
                self._queue.drop(job)
                self._post(batcher.fail, job, error)
