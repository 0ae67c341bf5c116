"""What answers: the versions of models that are loaded, which of them answers whom, and what comes of a request.

Owns the choice of a model and a version. Knows nothing of how rows run, nor of HTTP.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import Counter, Histogram

from service.drift import Drift
from service.engine.session import Provider
from service.engine.tokenizer import Tokenizer
from service.errors import Forbidden, InvalidInput, UnknownModel
from service.repository.bundle import Bundle
from service.repository.manifest import Graph
from service.scheduler.queue import BatchRun, Runner
from service.scheduler.workers import Scheduler
from service.tasks import AnyTask


@dataclass(frozen=True, slots=True)
class Predictions:
    """The answers to a request's examples, in order, and what they took.

    Attributes:
        times: when each phase (tokenize, queue, inference, decode) began and ended, on `time.perf_counter`'s clock.
        seconds: the time that each took.
        rows: model rows that they made.
        tokens: of these rows.
        batches: those that the rows ran in.
    """

    answers: list[Any]
    times: Mapping[str, tuple[float, float]]
    seconds: Mapping[str, float]
    rows: int
    tokens: int
    batches: Sequence[BatchRun]


@dataclass(frozen=True, slots=True)
class Sender:
    """What of a request decides which version answers it.

    Attributes:
        headers: by name in small letters.
        draw: a number by chance in [0, 1), one for all of the request.
    """

    headers: Mapping[str, str]
    draw: float


NOBODY = Sender({}, 1.0)
"""Sends what the stable versions answer."""


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Model:
    """One version of a model, loaded. What it holds is freed when the last request that it answers lets go of it.

    Attributes:
        graph: the graph that is served.
        tasks: what it does, its own task first.
        phases: the metric of each phase of its requests.
        outcomes: the metric of how they end, `answered` or `failed`, by this version.
        duration: the metric of how long this version takes.
        drift: of what its own task is asked and answers; None where its dev set is not known.
        loaded: when, Unix time.
    """

    bundle: Bundle
    graph: Graph
    provider: Provider
    tokenizer: Tokenizer
    tasks: tuple[AnyTask, ...]
    runner: Runner
    scheduler: Scheduler
    phases: Mapping[str, Histogram]
    outcomes: Mapping[str, Counter]
    duration: Histogram
    drift: Drift | None
    loaded: float

    @property
    def name(self) -> str:
        """The name in requests."""
        return self.bundle.name

    @property
    def version(self) -> str:
        """The name of the version."""
        return self.bundle.version

    @property
    def takes(self) -> str:
        """What requests for it hold, for messages."""
        return ", or ".join(task.takes for task in self.tasks)

    @property
    def batch_invariant(self) -> bool:
        """Whether a row's logits are the same to the bit whatever else is in its batch."""
        return self.provider == "cpu" and self.graph.precision == "int8"

    @property
    def summary(self) -> dict[str, str]:
        """What the log says of it."""
        runner = self.runner
        said = {"model": self.name, "provider": self.provider, "precision": self.graph.precision}
        said |= {"version": self.version, "batch_tokens": str(runner.batch_tokens)}
        return said | ({"low_latency_tokens": str(runner.low_latency_tokens)} if runner.low_latency else {})


@dataclass(frozen=True, slots=True, eq=False)
class Answered:
    """A request, or the part of it that one model answered.

    Attributes:
        task: the model's own that was done, and `fit`, what made of it the one that was asked for.
        places: of the examples in the request.
        found: the answers to `examples`, in order.
    """

    request_id: str
    model: Model
    task: AnyTask
    fit: Callable[[AnyTask], AnyTask] | None
    examples: Sequence[Any]
    places: Sequence[int]
    found: Predictions


@dataclass(frozen=True, slots=True, eq=False)
class Serving:
    """What answers under a model's name.

    Attributes:
        stable: answers all requests but those of `canary`.
        canary: answers the requests that `takes` chooses.
        others: the other versions that are loaded, for requests that name one.
        observe: is told of each request that was answered.
    """

    stable: Model
    canary: Model | None = None
    takes: Callable[[Sender], bool] = lambda sender: False
    others: Mapping[str, Model] = field(default_factory=dict)
    observe: Callable[[Answered], None] | None = None

    def version(self, name: str | None, sender: Sender) -> Model | None:
        """Get the version of that name, None where it is not loaded; without a name, the one that is to answer."""
        if name is not None:
            return next((each for each in self.loaded if each.version == name), None)
        return self.canary if self.canary is not None and self.takes(sender) else self.stable

    @property
    def loaded(self) -> list[Model]:
        """All versions that are loaded."""
        return [self.stable, *([self.canary] if self.canary else []), *self.others.values()]


@dataclass(frozen=True, slots=True, eq=False)
class Models:
    """The models that a request may use.

    Attributes:
        every: what answers, by name.
        allowed: names of those that it may use; None: all.
    """

    every: Mapping[str, Serving]
    allowed: Container[str] | None = None

    @property
    def serving(self) -> Mapping[str, Serving]:
        """What answers, by the names that it may use."""
        if self.allowed is None:
            return self.every
        return {name: serving for name, serving in self.every.items() if name in self.allowed}

    @property
    def stable(self) -> list[Model]:
        """The stable versions of them."""
        return [serving.stable for serving in self.serving.values()]

    def named(self, name: str, field: str = "model") -> Serving:
        """Get what answers under a name.

        Raises:
            UnknownModel: nothing does.
            Forbidden: it is for others.
        """
        if name not in self.every:
            known = ", ".join(self.serving)
            raise UnknownModel(f"there is no model {name!r:.200}; there are {known}", field=field)
        if self.allowed is not None and name not in self.allowed:
            raise Forbidden(f"this API key may not use model {name!r:.200}", field=field)
        return self.every[name]

    def choose(
        self, name: str | None, example: Any, sender: Sender = NOBODY, version: str | None = None
    ) -> tuple[Model, AnyTask]:
        """Choose the model called `name`, or where no name is given the one that suits the example best; of its
        versions the one that is asked for, or that answers this sender; and its task.

        Raises:
            UnknownModel: there is none.
            Forbidden: the model of that name is for others.
            InvalidInput: the model of that name takes other inputs.
        """
        named = name is not None
        best, found = 0, None
        for serving in self.serving.values() if name is None else (self.named(name),):
            if (model := serving.version(version, sender)) is None:
                loaded = ", ".join(each.version for each in serving.loaded)
                raise UnknownModel(f"there is no version {version!r:.200} of it; loaded: {loaded}", field="version")
            for task in model.tasks:
                if (rank := task.suits(example, named=named)) > best:
                    best, found = rank, (model, task)
        if found is not None:
            return found
        if name is not None:
            takes = self.every[name].stable.takes
            raise InvalidInput(f"model {name!r} cannot answer these fields: it takes {takes}", field="model")
        raise UnknownModel("no loaded model can answer these fields", field="model")
