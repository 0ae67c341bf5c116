"""Extractive question answering: windows over documents in, spans of the documents' own text out.

Owns the windows, the choice of answers and their scores. After Devlin et al. 2019 (arXiv 1810.04805, section 4.2-4.3)
and Alberti et al. 2019 (arXiv 1901.08634): a span's logit is start + end, "no answer" is the span at [CLS].
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Annotated, Any, ClassVar, Self, TypeAlias

import numpy as np
from pydantic import Discriminator, Field, Tag

from service.engine.batch import Ids, RowLogits
from service.engine.tokenizer import Tokenizer, Tokens
from service.errors import InvalidInput, TooLarge
from service.metrics import Metrics
from service.settings import MAX_ITEMS
from service.tasks.difference import Difference, flip
from service.tasks.inputs import Input, Integer, Limit, Options, Text
from service.tasks.spans import Best, Candidate, Window, best_of, log_sum_exp, span_logits
from service.tasks.spec import TaskSpec
from service.tasks.task import Task
from service.tasks.truth import Gist, Truth
from service.tasks.words import plain, trim

MAX_WINDOWS = 1 << 15
"""Of a text: windows that hardly advance, as a request may ask for, would fill memory."""
Place: TypeAlias = tuple[int, int, int]
"""(document, start, end), half-open, in code points."""


@dataclass(frozen=True, slots=True)
class SpanExample:
    """A question over one or more documents.

    Attributes:
        question: the question.
        documents: the texts to look in; their scores are comparable.
        top_k: how many answers are wanted.
        max_answer_tokens: length of the longest answer.
        no_answer: whether "no answer" may be the answer; None takes the task's default.
    """

    question: str
    documents: tuple[str, ...]
    top_k: int = 1
    max_answer_tokens: int = 30
    no_answer: bool | None = None

    @property
    def characters(self) -> int:
        """Length of its texts: what tokenising it costs."""
        return len(self.question) + sum(map(len, self.documents))

    @property
    def least_rows(self) -> int:
        """Rows that it is known to make before it is encoded."""
        return 1


@dataclass(frozen=True, slots=True)
class Stretch:
    """What one window shows of its document, in code points; white space at its ends is left out."""

    start: Annotated[int, Field(description="Where it begins in the document, in Unicode code points.")]
    end: Annotated[int, Field(description="Where it ends; itself outside.")]


@dataclass(frozen=True, slots=True)
class Answer:
    """A span of a document: `documents[document][start:end] == text`, in code points."""

    text: str
    score: Annotated[float, Field(description="Probability among all spans of all documents.")]
    start: Annotated[int, Field(description="Where the text begins in its document, in Unicode code points.")]
    end: Annotated[int, Field(description="Where it ends: `document[start:end] == text`.")]
    document: Annotated[int, Field(description="Index of the document.")]
    window: Annotated[Stretch, Field(description="The part of the document that the model read with the answer.")]


@dataclass(frozen=True, slots=True)
class SpanPrediction:
    """The answer to one question.

    Attributes:
        no_answer_margin: logit of "no answer" minus the best span's; over the threshold, "no answer" wins. Not for
            clients.
    """

    answer: Annotated[Answer | None, Field(description="The best answer; null where there is none.")]
    answers: Annotated[tuple[Answer, ...], Field(description="The `top_k` best, best first, without duplicates.")]
    no_answer_score: Annotated[float, Field(description="Probability that there is no answer.")]
    no_answer_margin: Annotated[float, Field(exclude=True)]
    windows: Annotated[int, Field(description="Model rows that it took to read the documents.")]


Context: TypeAlias = Annotated[
    Annotated[Text, Tag("#text")] | Annotated[list[Text], Field(min_length=1, max_length=MAX_ITEMS), Tag("#documents")],
    Discriminator(lambda value: "#documents" if isinstance(value, list) else "#text"),
]


class QaOptions(Options):
    """Options of a question."""

    top_k: Integer = Field(default=1, ge=1, le=100, description="Most answers to give.")
    max_answer_tokens: Integer = Field(default=30, ge=1, le=200, description="Tokens of the longest answer.")
    no_answer: bool | None = Field(
        default=None, description="Whether there may be no answer; the model's own default when not given."
    )


class QaInput(QaOptions, Input):
    """A question about a text, or about several."""

    group: ClassVar[str] = "span"
    limits: ClassVar[dict[str, Limit]] = {"context": Limit("documents", "max_documents")}
    shared: ClassVar[type[Options]] = QaOptions
    question: Text
    context: Context = Field(description="The text to look in, or several (documents).")

    def example(self, shared: Any) -> SpanExample:
        chosen = {
            name: getattr(self if name in self.model_fields_set else shared, name) for name in QaOptions.model_fields
        }
        documents = (self.context,) if isinstance(self.context, str) else tuple(self.context)
        return SpanExample(self.question, documents, **chosen)


class SpanTask(Task[SpanExample, Window, SpanPrediction]):
    """Windows of at most `max_length` tokens, neighbours sharing at least `doc_stride` tokens of the document.

    `doc_stride` is the overlap, as in the `stride` of Hugging Face tokenizers (BERT's own script used the same name for
    the step). The windows of a document are cut to equal length, so that its last one is not a lonely scrap and a batch
    of them needs no padding.
    """

    path = "/qa"
    inputs = (QaInput,)
    prediction = SpanPrediction

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        max_length: int,
        doc_stride: int,
        no_answer: bool = False,
        no_answer_threshold: float = 0.0,
        temperature: float = 1.0,
    ) -> None:
        """
        Args:
            no_answer: default of `SpanExample.no_answer`.
            no_answer_threshold: "no answer" wins where its logit beats the best span's by more than this; fitted on a
                dev set.
            temperature: what logits are divided by in scores, so that they are as high as answers are right; fitted on
                a dev set. The threshold is on logits as they come.
        """
        self._tokenizer = tokenizer
        self.no_answer = no_answer
        self.no_answer_threshold = no_answer_threshold
        self.temperature = temperature
        self._set_windows(max_length, doc_stride)

    @classmethod
    def build(cls, spec: TaskSpec, tokenizer: Tokenizer) -> Self:
        return cls(
            tokenizer,
            max_length=spec.max_length,
            doc_stride=spec.doc_stride,
            no_answer=spec.no_answer,
            no_answer_threshold=spec.no_answer_threshold,
            temperature=spec.temperature,
        )

    @property
    def takes(self) -> str:
        return "a question and a context"

    def suits(self, example: Any, *, named: bool) -> int:
        return 1 if isinstance(example, SpanExample) else 0

    def widths(self, tokens: int) -> tuple[int, ...]:
        return tokens, tokens

    def with_windows(self, max_length: int | None, doc_stride: int | None) -> Self:
        """Copy the task with other windows, no longer than its own.

        Args:
            max_length: its own for None.
            doc_stride: its own for None, but at most a quarter of a length that is not.

        Raises:
            ValueError: they are longer, or leave no room.
        """
        length = self.max_length if max_length is None else max_length
        stride = doc_stride if doc_stride is not None else self.doc_stride
        if max_length is not None and doc_stride is None:
            stride = min(stride, length // 4)
        if length > self.max_length:
            raise ValueError(f"rows have at most {self.max_length} tokens, and {length} were asked for")
        if stride < 0:
            raise ValueError(f"a doc_stride of {stride} is no overlap")
        task = copy(self)
        task._set_windows(length, stride)
        return task

    def with_no_answer(self, threshold: float) -> Self:
        """Copy the task so that "no answer" may win by default, over `threshold`."""
        task = copy(self)
        task.no_answer, task.no_answer_threshold = True, threshold
        return task

    def with_temperature(self, temperature: float) -> Self:
        """Copy the task with other scores: no answer changes."""
        task = copy(self)
        task.temperature = temperature
        return task

    def encode(self, examples: Sequence[SpanExample]) -> list[list[Window]]:
        """Encode each example to its windows, document by document.

        Raises:
            InvalidInput: a question is too long or holds no token; no document of an example holds one.
        """
        questions = self._tokenizer.ids([e.question for e in examples])
        tokens = iter(self._tokenizer([document for e in examples for document in e.documents]))
        encoded = []
        for number, (example, question) in enumerate(zip(examples, questions, strict=True)):
            if not 0 < len(question) <= self.max_question_tokens:
                raise InvalidInput(
                    f"the question is {len(question)} tokens long; 1 to {self.max_question_tokens} are possible",
                    field="question",
                    index=number,
                )
            windows = [
                window
                for index in range(len(example.documents))
                for window in self._windows(question, index, next(tokens), example.max_answer_tokens)
            ]
            if not windows:
                raise InvalidInput("the context holds no token that the model knows of", field="context", index=number)
            encoded.append(windows)
        return encoded

    def decode(self, example: SpanExample, rows: Sequence[Window], logits: Sequence[RowLogits]) -> SpanPrediction:
        """Find the best spans over all windows of all documents, under one softmax."""
        log_sums, found, null = [], [], np.inf
        for window, (start, end) in zip(rows, logits, strict=True):
            spans = span_logits(window, start, end, example.max_answer_tokens)
            log_sums.append(log_sum_exp(spans / self.temperature))
            found.append(best_of(spans, window, 2 * example.top_k + 8))
            # A window without the answer says "nothing here"; only when all say so is there none (as in the official
            # SQuAD 2.0 decoding, which takes the least of the windows).
            null = min(null, float(start[0]) + float(end[0]))
        answers = self._distinct(example, found)
        # Several spans of tokens may be one span of text, so a window's best few can all be answers that another gave.
        # Where the spans that were left out may beat an answer, look at more of them.
        while short := [i for i, best in enumerate(found) if best.bound > _worst(answers, example.top_k)]:
            for i in short:
                start, end = logits[i]
                spans = span_logits(rows[i], start, end, example.max_answer_tokens)
                found[i] = best_of(spans, rows[i], 4 * found[i].count)
            answers = self._distinct(example, found)
        may_abstain = self.no_answer if example.no_answer is None else example.no_answer
        log_spans = log_sum_exp(np.array(log_sums))
        log_all = float(np.logaddexp(log_spans, null / self.temperature))
        log_total = log_all if may_abstain else log_spans
        scored = tuple(
            _answer(
                example, place, candidate.window, float(np.exp(min(candidate.logit / self.temperature - log_total, 0)))
            )
            for place, candidate in answers
        )
        margin = null - answers[0][1].logit if answers else np.inf
        abstain = not scored or (may_abstain and margin > self.no_answer_threshold)
        return SpanPrediction(
            answer=None if abstain else scored[0],
            answers=scored,
            no_answer_score=float(np.exp(null / self.temperature - log_all)),
            no_answer_margin=float(margin),
            windows=len(rows),
        )

    def observed(self, prediction: SpanPrediction) -> tuple[tuple[str, ...], float]:
        if prediction.answer is None:
            return ("no_answer",), prediction.no_answer_score
        return ("answer",), prediction.answer.score

    def observe(self, metrics: Metrics, model: str, prediction: SpanPrediction) -> None:
        super().observe(metrics, model, prediction)
        metrics.qa_windows.labels(model).observe(prediction.windows)
        if prediction.answer is None:
            metrics.no_answer.labels(model).inc()

    def compare(self, first: SpanPrediction, second: SpanPrediction) -> Difference:
        """The same words, wherever they stand, are the same answer, and so is none of both. The distance is
        |difference| of the probabilities that each gives to its own answer; the overlap is the F1 of their characters,
        1 for the same words elsewhere."""
        (before, score), (after, other) = self.observed(first), self.observed(second)
        a, b = first.answer, second.answer
        agree = self.gist(first) == self.gist(second)
        exact = a == b if a is None or b is None else (a.document, a.start, a.end) == (b.document, b.start, b.end)
        overlap = float(agree) if agree or a is None or b is None else _overlap(a, b)
        return Difference(agree, flip(before[0], after[0]), abs(score - other), overlap, exact)

    def gist(self, prediction: SpanPrediction) -> Gist:
        return plain(prediction.answer.text) if prediction.answer else ""

    def truth(self, given: Truth) -> Gist:
        answer = given.only("answer", "an answer's text, null for none")
        if isinstance(answer, int):
            raise InvalidInput("must be the answer's text, or null for none", field="answer")
        return plain(str(answer)) if answer is not None else ""

    def _set_windows(self, max_length: int, doc_stride: int) -> None:
        self.max_length, self.doc_stride = max_length, doc_stride
        # A window must advance: leave the documents twice the overlap, and the question the rest.
        self.max_question_tokens = max_length - self._tokenizer.pair.special_tokens - max(1, 2 * doc_stride)
        if self.max_question_tokens < 1:
            raise ValueError(f"a doc_stride of {doc_stride} leaves no room in a max_length of {max_length}")

    def _windows(self, question: Ids, document: int, tokens: Tokens, max_answer_tokens: int) -> list[Window]:
        total = len(tokens)
        if total == 0:
            return []
        template = self._tokenizer.pair
        room = self.max_length - template.special_tokens - len(question)
        count = 1 if total <= room else -(-(total - self.doc_stride) // (room - self.doc_stride))
        if count > MAX_WINDOWS:
            raise TooLarge(f"a text makes {count} windows; {MAX_WINDOWS} are possible")
        length = -(-(total + (count - 1) * self.doc_stride) // count)
        begins = [min(i * (length - self.doc_stride), total - length) for i in range(count)]
        # Where two windows overlap, the longest answer in the middle of the overlap has equal context in both. So one
        # of them shows the whole of every answer that is no longer than the overlap.
        borders = [0]
        for begin, following in pairwise(begins):
            overlap = begin + length - following
            borders.append(following + (overlap - min(max_answer_tokens, overlap)) // 2)
        borders.append(total)
        first = len(template.parts[0]) + len(question) + len(template.parts[1])
        windows = []
        for i, begin in enumerate(begins):
            row = template.fill(question, tokens.ids[begin : begin + length])
            windows.append(
                Window(
                    row.input_ids,
                    row.token_type_ids,
                    document=document,
                    first=first,
                    offsets=tokens.offsets[begin : begin + length],
                    owned=(borders[i] - begin, borders[i + 1] - begin),
                )
            )
        return windows

    @staticmethod
    def _distinct(example: SpanExample, windows: Sequence[Best]) -> list[tuple[Place, Candidate]]:
        """The `top_k` best candidates with their places: no two with the same one."""
        found: dict[Place, Candidate] = {}
        candidates = chain.from_iterable(best.candidates for best in windows)
        for candidate in sorted(candidates, key=lambda c: -c.logit):
            document = candidate.window.document
            start, end = _place(example.documents[document], candidate.window, candidate.begin, candidate.last)
            if start < end and (document, start, end) not in found:
                found[document, start, end] = candidate
                if len(found) == example.top_k:
                    break
        return list(found.items())


def _overlap(a: Answer, b: Answer) -> float:
    """The F1 of the characters of two spans."""
    shared = min(a.end, b.end) - max(a.start, b.start) if a.document == b.document else 0
    return 2 * max(0, shared) / (a.end - a.start + b.end - b.start)


def _worst(answers: Sequence[tuple[Place, Candidate]], top_k: int) -> float:
    """Logit of the worst of `top_k` answers; -inf while there are fewer."""
    return answers[-1][1].logit if len(answers) == top_k else -np.inf


def _answer(example: SpanExample, place: Place, window: Window, score: float) -> Answer:
    document, start, end = place
    text = example.documents[document]
    return Answer(text[start:end], score, start, end, document, Stretch(*_place(text, window, 0, -1)))


def _place(text: str, window: Window, begin: int, last: int) -> tuple[int, int]:
    """The half-open code point range of a window's tokens, both inclusive."""
    return trim(text, int(window.offsets[begin, 0]), int(window.offsets[last, 1]))
