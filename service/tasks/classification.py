"""Classification of a text or of a pair of texts: one row an example, one logit a label."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import Self

from service.engine.batch import Encoded, Ids
from service.engine.tokenizer import Tokenizer
from service.tasks.task import RowLogits, softmax


@dataclass(frozen=True, slots=True)
class ClassificationExample:
    """A text, or a premise (`text`) with its hypothesis (`text_pair`)."""

    text: str
    text_pair: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class ClassificationRow(Encoded):
    """A row that knows whether its text was cut to fit."""

    truncated: bool = False


@dataclass(frozen=True, slots=True)
class Classification:
    """The answer: `scores` holds each label's probability in the manifest's order, `score` the best one's.

    `labels` are those that hold, best first, where labels do not exclude one another; else None.
    """

    label: str
    score: float
    scores: dict[str, float]
    truncated: bool
    labels: tuple[str, ...] | None = None


class ClassificationTask:
    """Encodes to at most `max_length` tokens; what does not fit is cut from the end, and the answer says so."""

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

    def with_temperature(self, temperature: float) -> Self:
        """The same task with other scores: no label changes."""
        task = copy(self)
        task.temperature = temperature
        return task

    def encode(self, examples: Sequence[ClassificationExample]) -> list[list[ClassificationRow]]:
        """One row an example."""
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
    """Cuts tokens from the end of whichever text is the longer until both fit in `room` tokens."""
    if len(first) + len(second) <= room:
        return [first, second]
    shorter = min(len(first), len(second), room // 2)
    if len(first) <= len(second):
        return [first[:shorter], second[: room - shorter]]
    return [first[: room - shorter], second[:shorter]]
