"""A text or a pair of texts in one row: what the tasks that read them so have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

from pydantic import Field

from service.engine.batch import Encoded, Ids
from service.engine.tokenizer import Tokenizer
from service.tasks.inputs import Count, Input, Options, Text
from service.tasks.task import Task

P = TypeVar("P")


@dataclass(frozen=True, slots=True)
class ClassificationExample:
    """A text, or a pair of texts: a premise (`text`) with its hypothesis (`text_pair`).

    Attributes:
        top_k: how many labels to give the scores of, None for all.
    """

    text: str
    text_pair: str | None = None
    top_k: int | None = field(default=None, kw_only=True)

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


class ClassifyOptions(Options):
    """Options of a classification."""

    top_k: Count | None = Field(default=None, description="How many labels to give the scores of; all when not given.")


class _Texts(ClassifyOptions, Input):
    """What texts to classify have in common."""

    shared: ClassVar[type[Options]] = ClassifyOptions

    def _of(self, shared: Any, *texts: str) -> ClassificationExample:
        chosen = self if "top_k" in self.model_fields_set else shared
        return ClassificationExample(*texts, top_k=chosen.top_k)


class TextInput(_Texts):
    """A text by itself: its sentiment, or what else the model tells."""

    group: ClassVar[str] = "text"
    text: Text

    def example(self, shared: Any) -> ClassificationExample:
        return self._of(shared, self.text)


class PremiseInput(_Texts):
    """Whether the premise entails the hypothesis, contradicts it, or neither."""

    marks: ClassVar[frozenset[str]] = frozenset(("premise", "hypothesis"))
    group: ClassVar[str] = "pair"
    premise: Text
    hypothesis: Text

    def example(self, shared: Any) -> ClassificationExample:
        return self._of(shared, self.premise, self.hypothesis)


class TextPairInput(_Texts):
    """A pair of texts, under the names that other tools give them."""

    marks: ClassVar[frozenset[str]] = frozenset(("text_pair",))
    group: ClassVar[str] = "pair"
    text: Text
    text_pair: Text

    def example(self, shared: Any) -> ClassificationExample:
        return self._of(shared, self.text, self.text_pair)


class TextTask(Task[ClassificationExample, ClassificationRow, P]):
    """Encodes to at most `max_length` tokens; what does not fit is cut from the end, and the answer says so."""

    path = "/classify"
    inputs = (PremiseInput, TextPairInput, TextInput)

    def __init__(self, tokenizer: Tokenizer, max_length: int) -> None:
        self._tokenizer = tokenizer
        self.max_length = max_length

    def encode(self, examples: Sequence[ClassificationExample]) -> list[list[ClassificationRow]]:
        """Encode each example to one row."""
        texts = [text for e in examples for text in (e.text, e.text_pair) if text is not None]
        ids = iter(self._tokenizer.ids(texts))
        return [[self._row(next(ids), None if e.text_pair is None else next(ids))] for e in examples]

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
