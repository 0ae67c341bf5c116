"""Reranking through a model that scores pairs: one row a text, the query before it, and the texts in order.

The query and the text are a pair in one row, as in Nogueira and Cho 2019 (arXiv 1901.04085).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Self

from pydantic import Field

from service.engine.batch import RowLogits
from service.engine.tokenizer import Tokenizer
from service.settings import MAX_ITEMS
from service.tasks.difference import Difference, discordance
from service.tasks.inputs import Count, Input, Limit, Text
from service.tasks.score import ScoreTask
from service.tasks.spec import Activation, TaskSpec
from service.tasks.task import Task
from service.tasks.texts import ClassificationExample, ClassificationRow
from service.tasks.truth import Gist, Truth


@dataclass(frozen=True, slots=True)
class RerankExample:
    """A query and the texts to put in order; `top_k` is how many to give, None for all."""

    query: str
    texts: tuple[str, ...]
    top_k: int | None = None

    @property
    def characters(self) -> int:
        """Length of its texts: what tokenising it costs."""
        return len(self.query) * len(self.texts) + sum(map(len, self.texts))

    @property
    def least_rows(self) -> int:
        """Rows that it is known to make before it is encoded."""
        return len(self.texts)


@dataclass(frozen=True, slots=True)
class RankedText:
    """A text's place in the order."""

    index: Annotated[int, Field(description="Index of the text in the request.")]
    score: Annotated[float, Field(description="How well it fits the query: see `activation` of the model.")]


@dataclass(frozen=True, slots=True)
class Ranking:
    """The order of the texts."""

    ranking: Annotated[tuple[RankedText, ...], Field(description="The texts, best first; of equal ones the first.")]
    truncated: Annotated[bool, Field(description="Whether a text was too long for the model and its end was not read.")]


class RerankInput(Input):
    """A query and the texts to put in order."""

    marks: ClassVar[frozenset[str]] = frozenset(("query", "texts"))
    group: ClassVar[str] = "rerank"
    limits: ClassVar[dict[str, Limit]] = {"texts": Limit("texts", "max_inputs")}
    query: Text
    texts: list[Text] = Field(min_length=1, max_length=MAX_ITEMS)
    top_k: Count | None = Field(default=None, description="How many texts to give; all when not given.")

    def example(self, shared: Any) -> RerankExample:
        return RerankExample(self.query, tuple(self.texts), self.top_k)


class RerankTask(Task[RerankExample, ClassificationRow, Ranking]):
    """Scores each text with the query, and gives them best first."""

    path = "/classify"
    inputs = (RerankInput,)
    prediction = Ranking

    def __init__(self, scoring: ScoreTask) -> None:
        self._scoring = scoring
        self.max_length, self.temperature = scoring.max_length, scoring.temperature

    @classmethod
    def build(cls, spec: TaskSpec, tokenizer: Tokenizer) -> Self:
        return cls(ScoreTask.build(spec, tokenizer))

    @property
    def takes(self) -> str:
        return "a query and texts"

    def suits(self, example: Any, *, named: bool) -> int:
        return int(isinstance(example, RerankExample))

    def widths(self, tokens: int) -> tuple[int, ...]:
        return self._scoring.widths(tokens)

    def with_activation(self, activation: Activation) -> RerankTask:
        """Copy the task with other scores: the order is the same."""
        return RerankTask(self._scoring.with_activation(activation))

    def encode(self, examples: Sequence[RerankExample]) -> list[list[ClassificationRow]]:
        """Encode one row a text, in their order."""
        rows = iter(self._scoring.encode([ClassificationExample(e.query, text) for e in examples for text in e.texts]))
        return [[next(rows)[0] for _ in e.texts] for e in examples]

    def decode(self, example: RerankExample, rows: Sequence[ClassificationRow], logits: Sequence[RowLogits]) -> Ranking:
        """Sort by the logits: scores that a sigmoid rounds to 1.0 have an order still."""
        found = [row[0].item(0) for row in logits]
        order = sorted(range(len(found)), key=lambda i: -found[i])[: example.top_k]
        ranking = tuple(RankedText(i, self._scoring.activated(found[i])) for i in order)
        return Ranking(ranking, any(row.truncated for row in rows))

    def observed(self, prediction: Ranking) -> tuple[tuple[str, ...], float | None]:
        best = prediction.ranking[0].score
        return ("rerank",), best if self._scoring.activation == "sigmoid" else None

    def compare(self, first: Ranking, second: Ranking) -> Difference:
        """The same best text is the same answer; the distance is the share of pairs of texts in another order."""
        rankings = [[text.index for text in prediction.ranking] for prediction in (first, second)]
        return Difference(rankings[0][0] == rankings[1][0], distance=discordance(*rankings))

    def gist(self, prediction: Ranking) -> Gist:
        return str(prediction.ranking[0].index)

    def truth(self, given: Truth) -> Gist:
        return str(given.place("the index of the text that fits best"))
