"""Multiple choice over a passage: one row an option, one logit a row, one softmax over a question's options.

A row is the passage, then the question with the option, as is usual for RACE (Lai et al. 2017, arXiv 1704.04683). Where
it does not fit, the passage alone is cut, from its end, and the answer says so.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import Self

from service.engine.batch import Encoded, Ids
from service.engine.tokenizer import Tokenizer
from service.errors import InvalidInput
from service.tasks.task import RowLogits, softmax

_BLANK = re.compile("_+")
_INSIDE_A_WORD = re.compile(r"[^\W_]_+[^\W_]")


@dataclass(frozen=True, slots=True)
class MultipleChoiceExample:
    """A question about a text, and two or more options to answer it with."""

    question: str
    context: str
    options: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class ChoiceRow(Encoded):
    """A row that knows whether its passage was cut to fit."""

    truncated: bool = False


@dataclass(frozen=True, slots=True)
class ScoredOption:
    """An option: `options[option] == text`; `score` is its probability among the question's options."""

    option: int
    text: str
    score: float


@dataclass(frozen=True, slots=True)
class MultipleChoicePrediction:
    """The answer to a question.

    Attributes:
        answer: the best option.
        answers: every option, best first.
        truncated: whether the passage was cut in the row of any option.
    """

    answer: ScoredOption
    answers: tuple[ScoredOption, ...]
    truncated: bool


class MultipleChoiceTask:
    """Rows of at most `max_length` tokens. The question and the option are never cut."""

    def __init__(self, tokenizer: Tokenizer, max_length: int, *, temperature: float = 1.0) -> None:
        """
        Args:
            temperature: what logits are divided by, so that scores are as high as answers are right; fitted on a dev
                set.
        """
        self._tokenizer = tokenizer
        self.max_length = max_length
        self.temperature = temperature
        self._room = max_length - tokenizer.pair.special_tokens

    def with_temperature(self, temperature: float) -> Self:
        """The same task with other scores: no answer changes."""
        task = copy(self)
        task.temperature = temperature
        return task

    def encode(self, examples: Sequence[MultipleChoiceExample]) -> list[list[ChoiceRow]]:
        """The rows of each example, in the order of its options.

        Raises:
            InvalidInput: a question, alone or with one of its options, leaves no token to the passage, or the passage
                holds none.
        """
        # A question is tokenised with each of its options. One that is too long by itself is not, sixty times over.
        for question in self._tokenizer.ids([statement(e.question, "") for e in examples]):
            if len(question) >= self._room:
                raise InvalidInput(
                    f"the question is {len(question)} tokens long; {self._room - 1} are possible with its option",
                    field="question",
                )
        passages = self._tokenizer.ids([e.context for e in examples])
        statements = iter(
            self._tokenizer.ids([statement(e.question, option) for e in examples for option in e.options])
        )
        return [
            [self._row(passage, next(statements), index) for index in range(len(example.options))]
            for example, passage in zip(examples, passages, strict=True)
        ]

    def decode(
        self, example: MultipleChoiceExample, rows: Sequence[ChoiceRow], logits: Sequence[RowLogits]
    ) -> MultipleChoicePrediction:
        """Softmax over the options; of equal ones the first is the better."""
        scores = softmax([row[0].item(0) for row in logits], self.temperature)
        order = sorted(range(len(scores)), key=lambda i: -scores[i])
        answers = tuple(ScoredOption(i, example.options[i], scores[i]) for i in order)
        return MultipleChoicePrediction(answers[0], answers, any(row.truncated for row in rows))

    def _row(self, passage: Ids, statement: Ids, option: int) -> ChoiceRow:
        if not len(passage):
            raise InvalidInput("the context holds no token that the model knows of", field="context")
        room = self._room - len(statement)
        if room < 1:
            raise InvalidInput(
                f"the question with this option is {len(statement)} tokens long; {self._room - 1} are possible",
                field=f"options.{option}",
            )
        row = self._tokenizer.pair.fill(passage[:room], statement)
        return ChoiceRow(row.input_ids, row.token_type_ids, truncated=len(passage) > room)


def statement(question: str, option: str) -> str:
    """The question with the option where its only blank (`_`) is, as in RACE's cloze questions, or else after it."""
    match _BLANK.split(question, maxsplit=2):
        case [before, after] if not _INSIDE_A_WORD.search(question):
            return f"{before.rstrip()} {option} {after.lstrip()}".strip()
    return f"{question} {option}"
