"""The path of a request on one screen: encode, queue, run, decode.

Owns the loaded models and the threads that tokenise. Knows nothing of HTTP.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from prometheus_client import Histogram

from service.engine.batch import Encoded
from service.engine.tokenizer import Tokenizer
from service.errors import (
    DeadlineExceeded,
    Draining,
    InvalidInput,
    QueueFull,
    TooLarge,
    UnknownModel,
)
from service.metrics import Metrics
from service.repository.bundle import Bundle, Provider
from service.scheduler.batcher import Batcher
from service.scheduler.queue import Priority
from service.scheduler.schedule import Schedule
from service.settings import Settings, cpu_quota
from service.tasks import (
    ClassificationTask,
    MultipleChoiceExample,
    MultipleChoiceTask,
    SpanExample,
    SpanTask,
    Task,
    ZeroShotExample,
    ZeroShotTask,
)
from service.tasks.spec import ServedTask, build

P = TypeVar("P")

TAKES = {
    ClassificationTask: "a text, or two",
    MultipleChoiceTask: "a question, one context and options",
    SpanTask: "a question and a context",
}
"""What a model wants of a request, to be told to who sends another's fields."""
INLINE_CHARACTERS = 4096
"""Texts shorter than this in sum are tokenised on the event loop: a hop to a thread and back costs more."""
INLINE_ROWS = 4
"""Likewise, answers of at most so many rows are decoded there."""


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds of a request in each phase."""

    tokenize: float
    queue: float
    inference: float
    decode: float


@dataclass(frozen=True, slots=True)
class Predictions(Generic[P]):
    """The answers to a request's examples, in order, and what they took.

    Attributes:
        rows: model rows that they made.
    """

    answers: list[P]
    timings: Timings
    rows: int


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """A bundle that is being served.

    Attributes:
        task: what its graph does.
        zero_shot: the same graph as a zero-shot classifier, where its labels allow.
        schedule: how its batches are cut.
        phases: the metric of each phase of its requests.
        loaded: when, Unix time.
    """

    bundle: Bundle
    provider: Provider
    precision: str
    task: ServedTask
    zero_shot: ZeroShotTask | None
    schedule: Schedule
    batcher: Batcher
    phases: Mapping[str, Histogram]
    loaded: float

    @property
    def name(self) -> str:
        """The name in requests."""
        return self.bundle.name


class Predictor:
    """All loaded models. Made on the event loop that will serve."""

    def __init__(self, models: Sequence[Model], settings: Settings, metrics: Metrics) -> None:
        self.models = {model.name: model for model in models}
        self._settings = settings
        self._metrics = metrics
        self._threads = ThreadPoolExecutor(cpu_quota(), thread_name_prefix="tokenize")
        self._stopped = False
        self._running = 0

    @property
    def ready(self) -> bool:
        """Whether every model takes requests."""
        return not self._stopped and all(model.batcher.ready for model in self.models.values())

    def stop(self) -> None:
        """Admits no more from this moment. Sets a flag and nothing else, so that a signal handler may call it."""
        self._stopped = True

    def model(
        self,
        name: str | None,
        *,
        task: type,
        labels: Sequence[str] = (),
        without: Sequence[str] = (),
        preferred: Sequence[str] = (),
    ) -> Model:
        """The model called `name`, or the first of that task (with all of `labels` and none of `without`, and if one
        has them, all of `preferred`) when no name is given.

        Raises:
            UnknownModel: there is none.
            InvalidInput: the model of that name does another task.
        """
        if name is not None:
            if name not in self.models:
                raise UnknownModel(f"there is no model {name!r}; there are {', '.join(self.models)}", field="model")
            model = self.models[name]
            if not _fits(model, task, labels, without):
                takes = next(takes for kind, takes in TAKES.items() if isinstance(model.task, kind))
                raise InvalidInput(f"model {name!r} cannot answer these fields: it takes {takes}", field="model")
            return model
        for wanted in ((*labels, *preferred), labels):
            for model in self.models.values():
                if _fits(model, task, wanted, without):
                    return model
        raise UnknownModel("no loaded model can answer these fields", field="model")

    def check_open(self, *tasks: type) -> None:
        """Refuses a request for one of these tasks that would be refused whatever it holds.

        Raises:
            QueueFull: no model of these tasks takes any; of the one that will first.
        """
        full: list[QueueFull] = []
        for model in self.models.values():
            if isinstance(model.task, tasks):
                try:
                    model.batcher.check_open()
                    return
                except QueueFull as error:
                    full.append(error)
        if full:
            raise min(full, key=lambda error: error.retry_after)

    async def predict(
        self,
        model: Model,
        task: Task[Any, Any, P],
        examples: Sequence[Any],
        *,
        began: float | None = None,
        priority: Priority = "normal",
    ) -> Predictions[P]:
        """Encodes the examples, queues their rows, and decodes each example's logits together.

        Args:
            began: when the request came, from which its deadline counts, on `time.perf_counter`'s clock; now if None.

        Raises:
            BertieError: what `Task.encode`, `Batcher.submit` and `Batcher.result` raise; `TooLarge` for too many rows,
                `DeadlineExceeded` for an answer that is ready too late.
        """
        if self._stopped:
            raise Draining("the service is stopping; ask another")
        self._running += 1
        try:
            deadline = (time.perf_counter() if began is None else began) + self._settings.timeout_seconds
            return await self._predict(model, task, examples, deadline, priority)
        finally:
            self._running -= 1

    async def _predict(
        self, model: Model, task: Task[Any, Any, P], examples: Sequence[Any], deadline: float, priority: Priority
    ) -> Predictions[P]:
        began = time.perf_counter()
        self._limit_rows(sum(map(_least_rows, examples)))
        model.batcher.check_open()
        small = sum(map(_characters, examples)) < INLINE_CHARACTERS
        encoded = task.encode(examples) if small else await self._in_thread(task.encode, examples)
        rows: list[Encoded] = [row for example_rows in encoded for row in example_rows]
        self._limit_rows(len(rows))
        queued = time.perf_counter()
        job = model.batcher.submit(rows, deadline=deadline, priority=priority)
        logits = iter(await model.batcher.result(job))
        inferred = time.perf_counter()
        work = [(example, rows, [next(logits) for _ in rows]) for example, rows in zip(examples, encoded, strict=True)]

        def decode() -> list[P]:
            return [task.decode(*item) for item in work]

        answers = decode() if len(rows) <= INLINE_ROWS else await self._in_thread(decode)
        ended = time.perf_counter()
        timings = Timings(queued - began, job.queue_seconds, job.inference_seconds, ended - inferred)
        for phase, metric in model.phases.items():
            metric.observe(getattr(timings, phase))
        if ended > deadline:  # the caller has been promised a 504, and may have asked another by now
            raise DeadlineExceeded("the answer was ready past the request's deadline")
        return Predictions(answers, timings, len(rows))

    def _limit_rows(self, rows: int) -> None:
        if rows > self._settings.max_request_rows:
            raise TooLarge(f"the request makes {rows} model rows; the limit is {self._settings.max_request_rows}")

    async def drain(self, seconds: float | None = None) -> bool:
        """Admits no more and finishes what was admitted. Returns whether all of it was answered.

        Args:
            seconds: how long to wait for it; the settings' `drain_seconds` when not given.
        """
        self.stop()
        seconds = self._settings.drain_seconds if seconds is None else seconds
        until = time.perf_counter() + seconds
        # Not the queues alone: what is being tokenised was admitted too, and what is being decoded needs the threads.
        while (busy := self._running > 0) and time.perf_counter() < until:
            await asyncio.sleep(0.01)
        await asyncio.gather(*(model.batcher.drain(0) for model in self.models.values()))
        if not busy:
            self._threads.shutdown(wait=False)
        return not busy

    async def _in_thread(self, function: Any, *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)


def make_task(bundle: Bundle, tokenizer: Tokenizer) -> ServedTask:
    """The task that a bundle's manifest describes."""
    return build(bundle.manifest, tokenizer)


def _fits(model: Model, task: type, labels: Sequence[str], without: Sequence[str]) -> bool:
    known = set(model.bundle.manifest.labels)
    return isinstance(model.task, task) and known.issuperset(labels) and known.isdisjoint(without)


def _characters(example: Any) -> int:
    """Characters of an example's texts, roughly: what tokenising it costs."""
    match example:
        case SpanExample():
            return len(example.question) + sum(map(len, example.documents))
        case MultipleChoiceExample():
            options = example.options
            return len(example.context) + len(example.question) * len(options) + sum(map(len, options))
        case ZeroShotExample():
            labels = example.candidate_labels
            return len(example.text) + len(example.hypothesis_template) * len(labels) + sum(map(len, labels))
        case _:
            return len(example.text) + len(example.text_pair or "")


def _least_rows(example: Any) -> int:
    """The rows that an example is known to make before it is encoded; of a text's windows, one."""
    match example:
        case MultipleChoiceExample():
            return len(example.options)
        case ZeroShotExample():
            return len(example.candidate_labels)
        case _:
            return 1
