"""Multiple choice over a passage: one row an option, one logit a row, one softmax over a question's options.

A row is the passage, then the question with the option, as is usual for RACE (Lai et al. 2017, arXiv 1704.04683). Where
it does not fit, the passage alone is cut, from its end, and the answer says so.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Self

from pydantic import Field

from service.engine.batch import Encoded, Ids, RowLogits
from service.engine.tokenizer import Tokenizer
from service.errors import InvalidInput
from service.settings import MAX_ITEMS
from service.tasks.difference import Difference, total_variation
from service.tasks.inputs import Input, Limit, Text
from service.tasks.spec import TaskSpec
from service.tasks.task import Task, softmax
from service.tasks.truth import Gist, Truth

_BLANK = re.compile("_+")
_INSIDE_A_WORD = re.compile(r"[^\W_]_+[^\W_]")


@dataclass(frozen=True, slots=True)
class MultipleChoiceExample:
    """A question about a text, and two or more options to answer it with."""

    question: str
    context: str
    options: tuple[str, ...]

    @property
    def characters(self) -> int:
        """Length of its texts: what tokenising it costs."""
        return len(self.context) + len(self.question) * len(self.options) + sum(map(len, self.options))

    @property
    def least_rows(self) -> int:
        """Rows that it is known to make before it is encoded."""
        return len(self.options)


@dataclass(frozen=True, slots=True, eq=False)
class ChoiceRow(Encoded):
    """A row that knows whether its passage was cut to fit."""

    truncated: bool = False


@dataclass(frozen=True, slots=True)
class ScoredOption:
    """An option with its score."""

    option: Annotated[int, Field(description="Index of the option.")]
    text: Annotated[str, Field(description="The option itself.")]
    score: Annotated[float, Field(description="Probability among the options.")]


@dataclass(frozen=True, slots=True)
class MultipleChoicePrediction:
    """The option that answers a question."""

    answer: Annotated[ScoredOption, Field(description="The best option.")]
    answers: Annotated[tuple[ScoredOption, ...], Field(description="Every option, best first.")]
    truncated: Annotated[
        bool, Field(description="Whether the context was too long for the model and its end was not read.")
    ]


class ChoiceInput(Input):
    """A question about a text, and the options to answer it with."""

    marks: ClassVar[frozenset[str]] = frozenset(("options",))
    group: ClassVar[str] = "choice"
    limits: ClassVar[dict[str, Limit]] = {"options": Limit("options", "max_options")}
    question: Text = Field(description="A single `_` in it is where the option goes; else the option follows it.")
    context: Text = Field(description="The text to look in.")
    options: list[Text] = Field(min_length=2, max_length=MAX_ITEMS)

    def example(self, shared: Any) -> MultipleChoiceExample:
        return MultipleChoiceExample(self.question, self.context, tuple(self.options))


class MultipleChoiceTask(Task[MultipleChoiceExample, ChoiceRow, MultipleChoicePrediction]):
    """Rows of at most `max_length` tokens. The question and the option are never cut."""

    path = "/qa"
    inputs = (ChoiceInput,)
    prediction = MultipleChoicePrediction

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

    @classmethod
    def build(cls, spec: TaskSpec, tokenizer: Tokenizer) -> Self:
        return cls(tokenizer, spec.max_length, temperature=spec.temperature)

    @property
    def takes(self) -> str:
        return "a question, one context and options"

    def suits(self, example: Any, *, named: bool) -> int:
        return 1 if isinstance(example, MultipleChoiceExample) else 0

    def widths(self, tokens: int) -> tuple[int, ...]:
        return (1,)

    def with_temperature(self, temperature: float) -> Self:
        """Copy the task with other scores: no answer changes."""
        task = copy(self)
        task.temperature = temperature
        return task

    def encode(self, examples: Sequence[MultipleChoiceExample]) -> list[list[ChoiceRow]]:
        """Encode each example to a row an option, in their order.

        Raises:
            InvalidInput: a question, alone or with one of its options, leaves no token to the passage, or the passage
                holds none.
        """
        # A question is tokenised with each of its options. One that is too long by itself is not, sixty times over.
        for index, question in enumerate(self._tokenizer.ids([statement(e.question, "") for e in examples])):
            if len(question) >= self._room:
                raise InvalidInput(
                    f"the question is {len(question)} tokens long; {self._room - 1} are possible with its option",
                    field="question",
                    index=index,
                )
        passages = self._tokenizer.ids([e.context for e in examples])
        statements = iter(
            self._tokenizer.ids([statement(e.question, option) for e in examples for option in e.options])
        )
        return [
            [self._row(index, passage, next(statements), option) for option in range(len(example.options))]
            for index, (example, passage) in enumerate(zip(examples, passages, strict=True))
        ]

    def decode(
        self, example: MultipleChoiceExample, rows: Sequence[ChoiceRow], logits: Sequence[RowLogits]
    ) -> MultipleChoicePrediction:
        """Softmax over the options; of equal ones the first is the better."""
        scores = softmax([row[0].item(0) for row in logits], self.temperature)
        order = sorted(range(len(scores)), key=lambda i: -scores[i])
        answers = tuple(ScoredOption(i, example.options[i], scores[i]) for i in order)
        return MultipleChoicePrediction(answers[0], answers, any(row.truncated for row in rows))

    def observed(self, prediction: MultipleChoicePrediction) -> tuple[tuple[str, ...], float]:
        return ("option",), prediction.answer.score

    def compare(self, first: MultipleChoicePrediction, second: MultipleChoicePrediction) -> Difference:
        """The same option is the same answer; the distance is the total variation of the options' probabilities."""
        scores = [{each.option: each.score for each in prediction.answers} for prediction in (first, second)]
        return Difference(first.answer.option == second.answer.option, distance=total_variation(*scores))

    def gist(self, prediction: MultipleChoicePrediction) -> Gist:
        return str(prediction.answer.option)

    def truth(self, given: Truth) -> Gist:
        return str(given.place("the index of the right option"))

    def _row(self, index: int, passage: Ids, statement: Ids, option: int) -> ChoiceRow:
        if not len(passage):
            raise InvalidInput("the context holds no token that the model knows of", field="context", index=index)
        room = self._room - len(statement)
        if room < 1:
            raise InvalidInput(
                f"the question with this option is {len(statement)} tokens long; {self._room - 1} are possible",
                field=f"options.{option}",
                index=index,
            )
        row = self._tokenizer.pair.fill(passage[:room], statement)
        return ChoiceRow(row.input_ids, row.token_type_ids, truncated=len(passage) > room)


def statement(question: str, option: str) -> str:
    """Put the option where the question's only blank (`_`) is, as in RACE's cloze questions, or else after it."""
    match _BLANK.split(question, maxsplit=2):
        case [before, after] if not _INSIDE_A_WORD.search(question):
            return f"{before.rstrip()} {option} {after.lstrip()}".strip()
    return f"{question} {option}"
