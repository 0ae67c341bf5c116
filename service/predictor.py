"""A request's way past HTTP on one screen: choose a model, encode, queue, run, decode.

Owns the loaded models and the threads that tokenise. Knows nothing of HTTP.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Container, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from service.cache import Cache, key_of
from service.engine.batch import Encoded, RowLogits
from service.engine.processor import cpu_quota
from service.engine.session import Provider
from service.errors import Draining, InvalidInput, QueueFull, TooLarge
from service.metrics import Metrics
from service.scheduler.permits import Permit, Permits
from service.scheduler.queue import BatchRun, Job
from service.scheduler.workers import Scheduler
from service.serving import NOBODY, Model, Models, Predictions, Sender, Serving
from service.settings import Settings
from service.tasks import AnyTask

T = TypeVar("T")

INLINE_CHARACTERS = 4096
"""Texts shorter than this in sum are tokenised on the event loop: a hop to a thread and back costs more."""
INLINE_ROWS = 4
"""Likewise, answers of at most so many rows are decoded there."""


@dataclass(frozen=True, slots=True)
class Ran:
    """The logits of a request's rows, in order, and what they took; see `Job`."""

    logits: Sequence[RowLogits]
    admitted: float
    started: float
    ended: float
    batches: Sequence[BatchRun]


class Predictor:
    """All loaded models. Made on the event loop that will serve.

    Attributes:
        serving: what answers, by name. It is replaced and never changed: who has got it has one that stays as it is.
        permits: of the requests in flight.
    """

    def __init__(
        self, models: Sequence[Model], schedulers: Mapping[Provider, Scheduler], settings: Settings, metrics: Metrics
    ) -> None:
        self.serving: Mapping[str, Serving] = {model.name: Serving(model) for model in models}
        self.schedulers = schedulers
        self.permits = Permits(settings.max_requests, settings.max_queue_tokens, self._rate)
        self._settings = settings
        self._metrics = metrics
        self._cache = Cache(settings.cache_mb * 1_000_000, metrics) if settings.cache_mb else None
        self._threads = ThreadPoolExecutor(cpu_quota(), thread_name_prefix="tokenize")
        self._stopped = False
        self._running = 0
        # A device has its own queue, and whoever adds replicas wants to know of the longest.
        metrics.queue_wait.set_function(lambda: max(each.wait_seconds for each in self.schedulers.values()))

    @property
    def models(self) -> dict[str, Model]:
        """The stable versions, by name."""
        return {name: serving.stable for name, serving in self.serving.items()}

    @property
    def ready(self) -> bool:
        """Whether requests are answered."""
        return not self._stopped and all(scheduler.ready for scheduler in self.schedulers.values())

    @property
    def alive(self) -> bool:
        """Whether the process can still come to be ready by itself."""
        return all(scheduler.alive for scheduler in self.schedulers.values())

    def stop(self) -> None:
        """Admit no more from this moment. Sets a flag and nothing else, so that a signal handler may call it."""
        self._stopped = True

    def check_open(self) -> None:
        """Raise Draining once it is stopped."""
        if self._stopped:
            raise Draining("the service is stopping; ask another")

    def models_for(self, allowed: Container[str] | None) -> Models:
        """Get the models of these names, None: all, as they stand now."""
        return Models(self.serving, allowed)

    def choose(
        self, name: str | None, example: Any, sender: Sender = NOBODY, version: str | None = None
    ) -> tuple[Model, AnyTask]:
        """Choose among all models, as `Models.choose` does."""
        return self.models_for(None).choose(name, example, sender, version)

    async def predict(
        self,
        model: Model,
        task: AnyTask,
        examples: Sequence[Any],
        permit: Permit | None = None,
    ) -> Predictions:
        """Encode the examples, run their rows, and decode each example's logits together.

        Args:
            permit: of the request; it is counted anew when its tokens are known, and says who asks.

        Raises:
            BertieError: what `Task.encode` and `Scheduler.run` raise; `TooLarge` for too many rows, `QueueFull` where
                the request is so much longer than its body that the permit does not cover it.
        """
        self.check_open()
        self._running += 1
        outcome = "failed"
        try:
            began = time.perf_counter()
            self._limit_rows(sum(example.least_rows for example in examples))
            small = sum(example.characters for example in examples) < INLINE_CHARACTERS
            encoded = task.encode(examples) if small else await self._in_thread(lambda: task.encode(examples))
            rows = [row for example_rows in encoded for row in example_rows]
            self._limit_rows(len(rows))
            tokens = sum(map(len, rows))
            if permit is not None:
                permit.count(tokens)
            encoded_at = time.perf_counter()
            ran = await self._run(model, rows, permit)
            logits = iter(ran.logits)
            work = [(e, rows, [next(logits) for _ in rows]) for e, rows in zip(examples, encoded, strict=True)]

            def decode() -> list[Any]:
                return [task.decode(*item) for item in work]

            decode_from = time.perf_counter()
            answers = decode() if len(rows) <= INLINE_ROWS else await self._in_thread(decode)
            times = {
                "tokenize": (began, encoded_at),
                "queue": (ran.admitted, ran.started),
                "inference": (ran.started, ran.ended),
                "decode": (decode_from, time.perf_counter()),
            }
            seconds = {phase: end - start for phase, (start, end) in times.items()}
            self._observe(model, task, answers, seconds)
            model.duration.observe(times["decode"][1] - began)
            outcome = "answered"
            if model.drift is not None and task is model.tasks[0]:  # of what it does besides there was no dev set
                model.drift.observe(task, encoded, answers)
            return Predictions(answers, times, seconds, len(rows), tokens, ran.batches)
        except (InvalidInput, TooLarge, QueueFull, asyncio.CancelledError):
            outcome = "refused"  # by no fault of the model
            raise
        finally:
            self._running -= 1
            if outcome != "refused":
                model.outcomes[outcome].inc()

    async def drain(self, seconds: float) -> bool:
        """Admit no more and finish what was admitted, then stop the workers.

        Args:
            seconds: how long to wait for it.

        Returns:
            Whether all of it was answered and no call is left running.
        """
        self.stop()
        until = time.perf_counter() + seconds
        # Not the queues only: what is being tokenised was admitted too, and what is being decoded needs the threads.
        while (busy := self._running > 0) and time.perf_counter() < until:
            await asyncio.sleep(0.01)
        idle = [scheduler.stop() for scheduler in self.schedulers.values()]
        await asyncio.sleep(0)  # what the workers posted reaches its futures
        if not busy:
            self._threads.shutdown(wait=False)
        return not busy and all(idle)

    async def _run(self, model: Model, rows: Sequence[Encoded], permit: Permit | None) -> Job | Ran:
        """Run the rows of a request, but for those whose logits are kept."""
        client, share = (permit.client, permit.share) if permit is not None else (None, 1.0)
        if self._cache is None or not model.batch_invariant:
            return await model.scheduler.run(model.runner, rows, client, share=share)
        kept = self._cache.of(model, model.name)
        keys = [key_of(row) for row in rows]
        logits = {i: found for i, key in enumerate(keys) if (found := kept.find(key)) is not None}
        missing = [i for i in range(len(rows)) if i not in logits]
        if not missing:
            now = time.perf_counter()
            return Ran(list(logits.values()), now, now, now, ())
        job = await model.scheduler.run(model.runner, [rows[i] for i in missing], client, share=share)
        for i, found in zip(missing, job.logits, strict=True):
            widths = model.tasks[0].widths(len(rows[i]))
            # A copy of the row's own, so that neither its batch nor the batch's padding is kept.
            logits[i] = tuple(output[:width].copy() for output, width in zip(found, widths, strict=True))
            kept.keep(keys[i], logits[i])
        return Ran([logits[i] for i in range(len(rows))], job.admitted, job.started, job.ended, job.batches)

    def _limit_rows(self, rows: int) -> None:
        if rows > self._settings.max_request_rows:
            raise TooLarge(f"the request makes {rows} model rows; the limit is {self._settings.max_request_rows}")

    def _observe(self, model: Model, task: AnyTask, answers: Sequence[Any], seconds: Mapping[str, float]) -> None:
        for phase, metric in model.phases.items():
            metric.observe(seconds[phase])
        for answer in answers:
            task.observe(self._metrics, model.name, answer)

    def _rate(self) -> float:
        return sum(scheduler.tokens_per_second for scheduler in self.schedulers.values())

    async def _in_thread(self, function: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function)
