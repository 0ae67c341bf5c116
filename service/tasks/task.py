"""The shape of a task, and the arithmetic that tasks share."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Generic, Self, TypeVar

from service.engine.batch import Encoded, RowLogits
from service.engine.tokenizer import Tokenizer
from service.metrics import Metrics
from service.tasks.difference import Difference
from service.tasks.inputs import Input
from service.tasks.spec import TaskSpec
from service.tasks.truth import Gist, Truth

E = TypeVar("E")
R = TypeVar("R", bound=Encoded)
P = TypeVar("P")


class Task(ABC, Generic[E, R, P]):
    """All that the service knows of a task. To add one, write a file like `classification.py` and list it in
    `service.tasks.TASKS`.

    A request is one or more examples; an example is one or more rows, decoded together.

    Attributes:
        path: where its requests are posted.
        inputs: the shapes of its inputs in JSON, the more particular first.
        prediction: the dataclass that it decodes to; its JSON is the answer.
        max_length: longest row in tokens.
        temperature: what logits are divided by in scores.
    """

    path: ClassVar[str]
    inputs: ClassVar[tuple[type[Input], ...]]
    prediction: ClassVar[type[Any]]
    max_length: int
    temperature: float

    @classmethod
    @abstractmethod
    def build(cls, spec: TaskSpec, tokenizer: Tokenizer) -> Self:
        """Build the task that a manifest describes. Raises ValueError for what cannot be."""

    @property
    @abstractmethod
    def takes(self) -> str:
        """What it takes, for the message to a client that sends something else."""

    @abstractmethod
    def suits(self, example: Any, *, named: bool) -> int:
        """Rank how well it suits an example: 0 not at all; of several models the highest answers.

        Args:
            named: whether the client chose the model by its name.
        """

    @abstractmethod
    def widths(self, tokens: int) -> tuple[int, ...]:
        """Get the width of each output of its graph, for rows of so many tokens."""

    @abstractmethod
    def encode(self, examples: Sequence[E]) -> list[list[R]]:
        """Encode examples to the rows of each, in order.

        Raises:
            InvalidInput: a text that no row can hold; its `index` is the example's.
        """

    @abstractmethod
    def decode(self, example: E, rows: Sequence[R], logits: Sequence[RowLogits]) -> P:
        """Decode the logits of an example's rows to its prediction."""

    @abstractmethod
    def observed(self, prediction: P) -> tuple[tuple[str, ...], float | None]:
        """Get a prediction's labels and score for the metrics, None for a score that is no probability. No label holds
        a client's text, and there are few."""

    @abstractmethod
    def compare(self, first: P, second: P) -> Difference:
        """Compare two answers to the same example, by two versions of a model."""

    @abstractmethod
    def gist(self, prediction: P) -> Gist:
        """Get what of a prediction is right or wrong."""

    @abstractmethod
    def truth(self, given: Truth) -> Gist:
        """Get what the gist of a right prediction is.

        Raises:
            InvalidInput: it is no answer of this task.
        """

    def observe(self, metrics: Metrics, model: str, prediction: P) -> None:
        """Count a prediction of the model of that name."""
        labels, score = self.observed(prediction)
        for label in labels:
            metrics.prediction(model, label).inc()
        if score is not None:
            metrics.confidence.labels(model).observe(score)


def sigmoid(logit: float) -> float:
    """Get 1 / (1 + exp(-logit)) without its overflow."""
    if logit >= 0:
        return 1.0 / (1.0 + math.exp(-logit))
    exponent = math.exp(logit)
    return exponent / (1.0 + exponent)


def softmax(logits: Sequence[float], temperature: float = 1.0) -> list[float]:
    """Softmax of logits / temperature in float64, shifted by the maximum, so that [-100, 1] is finite.

    In plain numbers, for an answer has a handful of them: one of numpy's seven calls costs as much as all of this.
    """
    most = max(logits)
    exponents = [math.exp((logit - most) / temperature) for logit in logits]
    total = sum(exponents)
    return [exponent / total for exponent in exponents]
