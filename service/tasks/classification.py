"""Classification of a text or of a pair of texts: one row an example, one logit a label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self, TypeAlias

from pydantic import Field

from service.engine.batch import RowLogits
from service.engine.tokenizer import Tokenizer
from service.errors import InvalidInput
from service.tasks.difference import Difference, largest, total_variation
from service.tasks.spec import TaskSpec
from service.tasks.task import sigmoid, softmax
from service.tasks.texts import ClassificationExample, ClassificationRow, TextTask
from service.tasks.truth import Gist, Truth

ScoreFunction: TypeAlias = Literal["softmax", "sigmoid", "identity"]
ENTAILMENT, CONTRADICTION = "entailment", "contradiction"
NLI = frozenset((ENTAILMENT, CONTRADICTION))
"""Labels of a model that compares a premise with a hypothesis."""
SENTIMENT = frozenset(("positive", "negative"))
"""Labels of the model that a text by itself is for, where several could take it."""
MOST_COUNTED = 100
"""Labels of a model whose answers are counted label by label: each is a time series of the metrics."""
OTHER = "other"
"""What the answers of a model with more labels are counted as."""


@dataclass(frozen=True, slots=True)
class Classification:
    """The class of one input."""

    label: str
    score: Annotated[float, Field(description="The label's probability.")]
    scores: Annotated[
        dict[str, float],
        Field(description="Each label's probability; of the `top_k` best, best first, if that is given."),
    ]
    truncated: Annotated[
        bool, Field(description="Whether the text was too long for the model and its end was not read.")
    ]
    labels: Annotated[
        tuple[str, ...] | None,
        Field(
            exclude_if=lambda labels: labels is None,
            description="The labels that hold, best first: where a model's labels do not exclude one another.",
        ),
    ] = None


class ClassificationTask(TextTask[Classification]):
    """Labels that exclude one another."""

    prediction = Classification
    activation: ClassVar[ScoreFunction] = "softmax"

    def __init__(
        self, tokenizer: Tokenizer, labels: Sequence[str], max_length: int, *, temperature: float = 1.0
    ) -> None:
        """
        Args:
            labels: in the order of the logits.
            temperature: what logits are divided by in scores, so that they are as high as answers are right; fitted on
                a dev set.
        """
        super().__init__(tokenizer, max_length)
        self.labels = tuple(labels)
        self.temperature = temperature

    @classmethod
    def build(cls, spec: TaskSpec, tokenizer: Tokenizer) -> Self:
        if len(spec.labels) < 2:
            raise ValueError("a classification needs two labels or more")
        return cls(tokenizer, spec.labels, spec.max_length, temperature=spec.temperature)

    @property
    def takes(self) -> str:
        return "a premise and a hypothesis" if set(self.labels) >= NLI else "a text"

    def suits(self, example: Any, *, named: bool) -> int:
        if not isinstance(example, ClassificationExample):
            return 0
        labels = set(self.labels)
        if example.text_pair is not None:  # a model that is chosen by name may compare texts under labels of its own
            return 2 if named or labels >= NLI else 0
        return 0 if labels & NLI else 3 if labels >= SENTIMENT else 2

    def widths(self, tokens: int) -> tuple[int, ...]:
        return (len(self.labels),)

    def with_temperature(self, temperature: float) -> Self:
        """Copy the task with other scores: no label changes."""
        task = copy(self)
        task.temperature = temperature
        return task

    def with_activation(self, activation: ScoreFunction) -> ClassificationTask:
        """Get the task with other scores: a function of the logits as they come; its own stays as it is calibrated."""
        if activation == self.activation:
            return self
        return OTHER_SCORES[activation](self._tokenizer, self.labels, self.max_length)

    def decode(
        self, example: ClassificationExample, rows: Sequence[ClassificationRow], logits: Sequence[RowLogits]
    ) -> Classification:
        """Softmax over the labels."""
        found = self._scores(logits[0][0].tolist())
        scores = dict(zip(self.labels, found, strict=True))
        label = max(scores, key=scores.__getitem__)
        return Classification(label, scores[label], best(scores, example.top_k), rows[0].truncated)

    def observed(self, prediction: Classification) -> tuple[tuple[str, ...], float | None]:
        return self.counted((prediction.label,)), prediction.score

    def compare(self, first: Classification, second: Classification) -> Difference:
        """The same label is the same answer; the distance is the total variation of the labels' probabilities."""
        agree = first.label == second.label
        before, after = self.counted((first.label, second.label))
        return Difference(agree, () if agree else ((before, after),), self._distance(first, second))

    def gist(self, prediction: Classification) -> Gist:
        return prediction.label

    def truth(self, given: Truth) -> Gist:
        label = given.only("label", "a label")
        if label not in self.labels:
            raise InvalidInput("the model has no such label", field="label")
        return str(label)

    def _distance(self, first: Classification, second: Classification) -> float | None:
        return total_variation(first.scores, second.scores)

    def _scores(self, logits: list[float]) -> list[float]:
        return softmax(logits, self.temperature)

    def counted(self, labels: tuple[str, ...]) -> tuple[str, ...]:
        """Return what labels are counted as: of a model with thousands, none has a time series of its own."""
        return labels if len(self.labels) <= MOST_COUNTED else tuple(OTHER for _ in labels)


class SigmoidTask(ClassificationTask):
    """Each label's sigmoid by itself."""

    activation = "sigmoid"

    def _scores(self, logits: list[float]) -> list[float]:
        return [sigmoid(logit) for logit in logits]

    def _distance(self, first: Classification, second: Classification) -> float | None:
        return largest(first.scores, second.scores)


class LogitsTask(ClassificationTask):
    """The logits themselves."""

    activation = "identity"

    def _scores(self, logits: list[float]) -> list[float]:
        return logits

    def observed(self, prediction: Classification) -> tuple[tuple[str, ...], float | None]:
        return self.counted((prediction.label,)), None

    def _distance(self, first: Classification, second: Classification) -> float | None:
        return None


OTHER_SCORES: Mapping[ScoreFunction, type[ClassificationTask]] = {
    "softmax": ClassificationTask,
    "sigmoid": SigmoidTask,
    "identity": LogitsTask,
}


def best(scores: dict[str, float], top_k: int | None) -> dict[str, float]:
    """Return the scores of the `top_k` best labels, best first; None leaves all as they are."""
    if top_k is None:
        return scores
    return {label: scores[label] for label in sorted(scores, key=scores.__getitem__, reverse=True)[:top_k]}
