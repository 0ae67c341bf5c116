"""One number for a text or a pair of texts: a regression's value, or how well a passage answers a query.

A row an example, a logit a row. It is the score as it comes, or through a sigmoid: never a softmax, which makes 1.0 of
any one number. Which of the two it is the checkpoint's makers chose (`training.tasks.score`).
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import Annotated, Any, Self

from pydantic import Field

from service.engine.batch import RowLogits
from service.engine.tokenizer import Tokenizer
from service.errors import InvalidInput
from service.tasks.difference import Difference, same_score
from service.tasks.spec import Activation, TaskSpec
from service.tasks.task import sigmoid
from service.tasks.texts import ClassificationExample, ClassificationRow, TextTask
from service.tasks.truth import Gist, Truth

UNNAMED = "LABEL_0"
"""What transformers calls a label without a name."""


@dataclass(frozen=True, slots=True)
class Score:
    """The score of one input."""

    score: Annotated[
        float, Field(description="The model's number: as it comes, or through a sigmoid (`activation` of the model).")
    ]
    truncated: Annotated[
        bool, Field(description="Whether the text was too long for the model and its end was not read.")
    ]


class ScoreTask(TextTask[Score]):
    """One logit, through its activation."""

    prediction = Score
    temperature = 1.0  # a score is the checkpoint's own

    def __init__(
        self, tokenizer: Tokenizer, max_length: int, *, activation: Activation = "identity", label: str = UNNAMED
    ) -> None:
        """
        Args:
            activation: `identity` or `sigmoid`.
            label: the number's name in the checkpoint.
        """
        super().__init__(tokenizer, max_length)
        self.activation: Activation = activation
        self.label = label

    @classmethod
    def build(cls, spec: TaskSpec, tokenizer: Tokenizer) -> Self:
        if len(spec.labels) > 1:
            raise ValueError(f"a score is one number, and there are {len(spec.labels)} labels")
        return cls(tokenizer, spec.max_length, activation=spec.activation, label=next(iter(spec.labels), UNNAMED))

    @property
    def takes(self) -> str:
        return "a text or a pair of texts, to score"

    def suits(self, example: Any, *, named: bool) -> int:
        # A model with labels is asked first. A score has none that top_k could choose from.
        return int(isinstance(example, ClassificationExample) and example.top_k is None)

    def widths(self, tokens: int) -> tuple[int, ...]:
        return (1,)

    def with_activation(self, activation: Activation) -> Self:
        """Copy the task with other scores: their order is the same."""
        task = copy(self)
        task.activation = activation
        return task

    def activated(self, logit: float) -> float:
        """Get the score that a logit is."""
        return sigmoid(logit) if self.activation == "sigmoid" else logit

    def decode(
        self, example: ClassificationExample, rows: Sequence[ClassificationRow], logits: Sequence[RowLogits]
    ) -> Score:
        """Put the logit through the activation."""
        return Score(self.activated(logits[0][0].item(0)), rows[0].truncated)

    def observed(self, prediction: Score) -> tuple[tuple[str, ...], float | None]:
        return ("score",), prediction.score if self.activation == "sigmoid" else None

    def compare(self, first: Score, second: Score) -> Difference:
        """Scores that are near (`same_score`) are the same answer; the distance is |difference|."""
        return Difference(same_score(first.score, second.score), distance=abs(first.score - second.score))

    def gist(self, prediction: Score) -> Gist:
        return prediction.score

    def truth(self, given: Truth) -> Gist:
        score = given.only("score", "a score")
        if not isinstance(score, float):
            raise InvalidInput("must be a number", field="score")
        return score
