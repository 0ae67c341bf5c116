"""A shadow: a version that runs what the stable one answered, later and at low priority, so that the answers can be
compared. Whatever becomes of it, no client waits for it, and none hears of it.

Owns what waits to be run. Requests are run one after the other, so that both versions are timed under like conditions:
a row of another request in a batch would cost one of them more than the other. Texts are held until they have run.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Any, TypeAlias, TypeVar

from service.errors import Draining, QueueFull
from service.metrics import Metrics
from service.rollout.comparison import Comparison
from service.serving import Answered, Model
from service.tasks import Difference

logger = logging.getLogger(__name__)
T = TypeVar("T")

MOST_WAITING = 64
"""Requests that wait to be run; what comes then is dropped."""
MOST_CHARACTERS = 1 << 20
"""Of the texts that wait."""
TIMED_FIRST, TIMED_EVERY = 100, 4
"""Requests that the stable version runs once more, at the same low priority, for its time: the first ones, and then one
in so many. What it took for the client says nothing: that was in other batches, and perhaps on all cores."""

Told: TypeAlias = Callable[[Sequence[Any], Sequence[Difference]], None]
"""Is told of the shadow's answers to a request, and how they differ from the stable version's."""


class Shadow:
    """A pair of versions of a model, and what waits to be compared. Made and used on the event loop.

    Attributes:
        percent: of the requests that the stable version answered, those that are run.
    """

    def __init__(
        self,
        stable: Model,
        shadow: Model,
        percent: float,
        metrics: Metrics,
        threads: Executor,
        check_open: Callable[[], None] = lambda: None,
        ended: Callable[[Comparison], None] = lambda comparison: None,
        draw: Callable[[], float] = random.random,
    ) -> None:
        """
        Args:
            threads: where texts are encoded and logits decoded.
            check_open: raises Draining once the service stops: what waits is dropped then.
            ended: called after each request that was compared, or failed.
            draw: gives a number by chance in [0, 1).
        """
        self.percent = percent
        self.comparison = Comparison(stable.name, stable.version, shadow.version)
        self._names = stable.name, shadow.version
        self._stable, self._shadow = stable, shadow
        self._metrics, self._threads = metrics, threads
        self._check_open, self._ended, self._draw = check_open, ended, draw
        self._waiting: deque[tuple[Answered, Told]] = deque()
        self._characters = 0
        self._stable_first = False
        self._came = asyncio.Event()
        self._show()
        self._worker = asyncio.get_running_loop().create_task(self._work())

    def of(self, stable: Model, shadow: Model) -> bool:
        """Whether it is this pair that is compared."""
        return self._stable is stable and self._shadow is shadow

    def offer(self, answered: Answered, told: Told = lambda answers, differences: None) -> None:
        """Take a request that was answered, where it is one of `percent` in a hundred and there is room."""
        if answered.model is not self._stable or 100 * self._draw() >= self.percent:
            return
        characters = sum(example.characters for example in answered.examples)
        if len(self._waiting) >= MOST_WAITING or self._characters + characters > MOST_CHARACTERS:
            self._drop()
            return
        self._waiting.append((answered, told))
        self._characters += characters
        self._came.set()

    def close(self) -> None:
        """Drop what waits and let go of both versions: what is told of them vanishes."""
        self._worker.cancel()
        self._waiting.clear()
        self._metrics.end_shadow(self._names[0])

    async def _work(self) -> None:
        while True:
            await self._came.wait()
            self._came.clear()
            while self._waiting:
                answered, told = self._waiting.popleft()
                self._characters -= sum(example.characters for example in answered.examples)
                await self._contain(answered, told)
                del answered, told  # texts and versions are held no longer than they are needed

    async def _contain(self, answered: Answered, told: Told) -> None:
        """Compare a request's answers, and count how it ended."""
        try:
            self._check_open()
            await self._compare(answered, told)
            self._ended(self.comparison)
        except (QueueFull, Draining):
            self._drop()
        except Exception as error:  # the formatter of the log leaves its message out: it may quote a text
            self.comparison.failed += 1
            self._outcome("failed")
            self._ended(self.comparison)
            logger.debug("a shadow request failed on model %r", self.comparison.model, exc_info=error)

    async def _compare(self, answered: Answered, told: Told) -> None:
        done = self.comparison.compared
        timed = done < TIMED_FIRST or done % TIMED_EVERY == 0
        if timed:  # the second one finds the caches warm: so they alternate
            self._stable_first = not self._stable_first
        if timed and self._stable_first:
            _, stable_seconds = await self._run(self._stable, answered)
        answers, seconds = await self._run(self._shadow, answered)
        if timed and not self._stable_first:
            _, stable_seconds = await self._run(self._stable, answered)
        compare = answered.task.compare if answered.fit is None else answered.fit(answered.task).compare
        pairs = list(zip(answered.found.answers, answers, strict=True))
        differences = await self._in_thread(lambda: [compare(first, second) for first, second in pairs])
        self.comparison.add(differences)
        if timed:
            self.comparison.time(stable_seconds, seconds)
        self._outcome("compared")
        self._observe(differences)
        told(answers, differences)

    async def _run(self, model: Model, answered: Answered) -> tuple[list[Any], float]:
        """Run a request on a version, as it was run for the client.

        Returns:
            The answers, and the seconds that encoding, the engine and decoding took.
        """
        task = model.tasks[answered.model.tasks.index(answered.task)]
        fitted, examples = answered.fit(task) if answered.fit else task, answered.examples
        encoded, to_encode = await self._in_thread(lambda: _timed(lambda: fitted.encode(examples)))
        rows = [row for own in encoded for row in own]
        job = await model.scheduler.run(model.runner, rows, model.name, background=True)
        logits = iter(job.logits)
        work = [(example, own, [next(logits) for _ in own]) for example, own in zip(examples, encoded, strict=True)]
        answers, to_decode = await self._in_thread(lambda: _timed(lambda: [fitted.decode(*item) for item in work]))
        return answers, to_encode + sum(ran.ended - ran.began for ran in job.batches) + to_decode

    def _observe(self, differences: Sequence[Difference]) -> None:
        model, metrics = self.comparison.model, self._metrics
        for difference in differences:
            for pair in difference.flips:
                metrics.shadow_flips.labels(model, *self.comparison.counted(pair)).inc()
            if difference.distance is not None:
                metrics.shadow_distance.labels(model).observe(difference.distance)
            if difference.overlap is not None:
                metrics.shadow_overlap.labels(model).observe(difference.overlap)

    def _show(self) -> None:
        comparison, names = self.comparison, self._names
        self._metrics.shadow_agreement.labels(*names).set_function(lambda: comparison.agreement.value)
        self._metrics.shadow_p95_ratio.labels(*names).set_function(lambda: comparison.p95_ratio or float("nan"))

    def _drop(self) -> None:
        self.comparison.dropped += 1
        self._outcome("dropped")

    def _outcome(self, outcome: str) -> None:
        self._metrics.shadow_requests.labels(*self._names, outcome).inc()

    async def _in_thread(self, function: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function)


def _timed(function: Callable[[], T]) -> tuple[T, float]:
    began = time.perf_counter()
    result = function()
    return result, time.perf_counter() - began
