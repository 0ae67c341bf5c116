"""Classification of a text or of a pair of texts: one row an example, one logit a label."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Self

from pydantic import Field

from service.engine.batch import Encoded, Ids, RowLogits
from service.engine.tokenizer import Tokenizer
from service.tasks.inputs import Input, Text
from service.tasks.spec import TaskSpec
from service.tasks.task import Task, softmax

ENTAILMENT, CONTRADICTION = "entailment", "contradiction"
NLI = frozenset((ENTAILMENT, CONTRADICTION))
"""Labels of a model that compares a premise with a hypothesis."""
SENTIMENT = frozenset(("positive", "negative"))
"""Labels of the model that a text by itself is for, where several could take it."""


@dataclass(frozen=True, slots=True)
class ClassificationExample:
    """A text, or a premise (`text`) with its hypothesis (`text_pair`)."""

    text: str
    text_pair: str | None = None

    @property
    def characters(self) -> int:
        """Length of its texts: what tokenising it costs."""
        return len(self.text) + len(self.text_pair or "")

    @property
    def least_rows(self) -> int:
        """Rows that it is known to make before it is encoded."""
        return 1


@dataclass(frozen=True, slots=True, eq=False)
class ClassificationRow(Encoded):
    """A row that knows whether its text was cut to fit."""

    truncated: bool = False


@dataclass(frozen=True, slots=True)
class Classification:
    """The class of one input."""

    label: str
    score: Annotated[float, Field(description="The label's probability.")]
    scores: Annotated[dict[str, float], Field(description="Each label's probability.")]
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


class TextInput(Input):
    """A text by itself: its sentiment."""

    group: ClassVar[str] = "text"
    text: Text

    def example(self, shared: Any) -> ClassificationExample:
        return ClassificationExample(self.text)


class PremiseInput(Input):
    """Whether the premise entails the hypothesis, contradicts it, or neither."""

    marks: ClassVar[frozenset[str]] = frozenset(("premise", "hypothesis"))
    group: ClassVar[str] = "pair"
    premise: Text
    hypothesis: Text

    def example(self, shared: Any) -> ClassificationExample:
        return ClassificationExample(self.premise, self.hypothesis)


class TextPairInput(Input):
    """A pair of texts, under the names that other tools give them."""

    marks: ClassVar[frozenset[str]] = frozenset(("text_pair",))
    group: ClassVar[str] = "pair"
    text: Text
    text_pair: Text

    def example(self, shared: Any) -> ClassificationExample:
        return ClassificationExample(self.text, self.text_pair)


class ClassificationTask(Task[ClassificationExample, ClassificationRow, Classification]):
    """Encodes to at most `max_length` tokens; what does not fit is cut from the end, and the answer says so."""

    path = "/classify"
    inputs = (PremiseInput, TextPairInput, TextInput)
    prediction = Classification

    def __init__(
        self, tokenizer: Tokenizer, labels: Sequence[str], max_length: int, *, temperature: float = 1.0
    ) -> None:
        """
        Args:
            labels: in the order of the logits.
            temperature: what logits are divided by in scores, so that they are as high as answers are right; fitted on
                a dev set.
        """
        self._tokenizer = tokenizer
        self.labels = tuple(labels)
        self.max_length = max_length
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
            return 1 if named or labels >= NLI else 0
        return 0 if labels & NLI else 2 if labels >= SENTIMENT else 1

    def widths(self, tokens: int) -> tuple[int, ...]:
        return (len(self.labels),)

    def with_temperature(self, temperature: float) -> Self:
        """Copy the task with other scores: no label changes."""
        task = copy(self)
        task.temperature = temperature
        return task

    def encode(self, examples: Sequence[ClassificationExample]) -> list[list[ClassificationRow]]:
        """Encode each example to one row."""
        texts = [text for e in examples for text in (e.text, e.text_pair) if text is not None]
        ids = iter(self._tokenizer.ids(texts))
        return [[self._row(next(ids), None if e.text_pair is None else next(ids))] for e in examples]

    def decode(
        self, example: ClassificationExample, rows: Sequence[ClassificationRow], logits: Sequence[RowLogits]
    ) -> Classification:
        """Softmax over the labels."""
        probabilities = softmax(logits[0][0].tolist(), self.temperature)
        scores = dict(zip(self.labels, probabilities, strict=True))
        label = max(scores, key=scores.__getitem__)
        return Classification(label, scores[label], scores, rows[0].truncated)

    def observed(self, prediction: Classification) -> tuple[tuple[str, ...], float]:
        return (prediction.label,), prediction.score

    def _row(self, text: Ids, text_pair: Ids | None) -> ClassificationRow:
        if text_pair is None:
            kept = [text[: self.max_length - self._tokenizer.single.special_tokens]]
            template, given = self._tokenizer.single, len(text)
        else:
            kept = _longest_first(text, text_pair, self.max_length - self._tokenizer.pair.special_tokens)
            template, given = self._tokenizer.pair, len(text) + len(text_pair)
        row = template.fill(*kept)
        return ClassificationRow(row.input_ids, row.token_type_ids, truncated=given > sum(map(len, kept)))


def _longest_first(first: Ids, second: Ids, room: int) -> list[Ids]:
    """Cut tokens from the end of whichever text is the longer until both fit in `room` tokens."""
    if len(first) + len(second) <= room:
        return [first, second]
    shorter = min(len(first), len(second), room // 2)
    if len(first) <= len(second):
        return [first[:shorter], second[: room - shorter]]
    return [first[: room - shorter], second[:shorter]]
