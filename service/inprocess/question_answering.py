"""Question answering in a process: transformers' pipeline of that name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from service.errors import InvalidInput
from service.inprocess.pipeline import Json, Pipeline, alone, record
from service.tasks import SpanPrediction, SpanTask, whole_words


class QuestionAnswering(Pipeline):
    """What `pipeline("question-answering")` was."""

    def __call__(
        self,
        question: Any = None,
        context: str | Sequence[str] | None = None,
        *,
        top_k: int = 1,
        max_answer_len: int = 15,
        handle_impossible_answer: bool = False,
        align_to_words: bool = True,
        max_seq_len: int | None = None,
        doc_stride: int | None = None,
        max_question_len: int | None = None,
        padding: object = None,
        batch_size: int | None = None,
        num_workers: int | None = None,
    ) -> Any:
        """Find the answers to questions in their contexts.

        Args:
            question: a question, or several; or, without `context`, inputs: a dict of `question` and `context`, a SQuAD
                record or transformers' `SquadExample`, or a list of such.
            context: the text to look in; for several questions one for all, or one each.
            top_k: how many answers to give at most: with 1 a dict for each input, else a list of dicts.
            max_answer_len: tokens of the longest answer.
            handle_impossible_answer: whether the empty text may be the answer. It is the first where "no answer" wins
                over the bundle's fitted threshold; its score is the probability that there is none.
            align_to_words: whether answers begin and end with whole words. Without it, of `top_k` spans those of the
                same text are one, and there may be fewer answers.
            max_seq_len: tokens of a window, at most the bundle's own, which is the default.
            doc_stride: tokens that neighbouring windows share; the bundle's own by default.
            max_question_len, padding, batch_size, num_workers: have no effect. No question is cut: one that leaves no
                room for its context is refused. Batches are made by length.

        Returns:
            `{"score", "start", "end", "answer"}`, with `context[start:end] == answer`. Answers of the same text, in
            whatever letters, are one: its scores are added up.

        Raises:
            InvalidInput: says what is wrong, and with which input.
        """
        one, inputs = _questions(question, context)
        for name, value in (("top_k", top_k), ("max_answer_len", max_answer_len)):
            if not isinstance(value, int) or value < 1:
                raise InvalidInput(f"{name} must be 1 or more, not {value!r}", field=name)
        predictions = self._predict(
            inputs,
            task=self._windowed(max_seq_len, doc_stride),
            top_k=2 * top_k + 10 if align_to_words else top_k,  # as the pipeline: some become the same words
            max_answer_tokens=max_answer_len,
            no_answer=handle_impossible_answer,
        )
        answers = [
            spans(prediction, values["context"], handle_impossible_answer, align_to_words)[:top_k]
            for prediction, values in zip(predictions, inputs, strict=True)
        ]
        results = [found[0] for found in answers] if top_k == 1 else answers
        return results[0] if one else results

    def _example(self, values: Json) -> Any:
        for name in values:
            if name not in ("question", "context"):
                raise InvalidInput(f"{name!r} is not known here: options go for all inputs", field=str(name))
        if isinstance(values.get("context"), list):
            raise InvalidInput("context: one question has one context", field="context")
        return super()._example(values)

    def _windowed(self, max_seq_len: int | None, doc_stride: int | None) -> SpanTask:
        (task,) = self.model.tasks
        assert isinstance(task, SpanTask)
        if max_seq_len is None and doc_stride is None:
            return task
        try:
            return task.with_windows(max_seq_len, doc_stride)
        except ValueError as error:
            field = "doc_stride" if max_seq_len is None else "max_seq_len"
            raise InvalidInput(f"{field}: {error}", field=field) from None


def spans(prediction: SpanPrediction, context: str, impossible: bool, align_to_words: bool) -> list[Json]:
    """Lay out a question's answers, best first: those of one text are one, at the place of the best."""
    found: dict[str, Json] = {}
    for answer in prediction.answers:
        start, end = answer.start, answer.end
        if align_to_words:
            start, end = whole_words(context, start, end)
        text = context[start:end]
        laid = found.setdefault(text.lower(), {"score": 0.0, "start": start, "end": end, "answer": text})
        laid["score"] += answer.score
    ranked = sorted(found.values(), key=lambda laid: -laid["score"])
    if impossible or not ranked:
        nothing = {"score": prediction.no_answer_score, "start": 0, "end": 0, "answer": ""}
        first = 0 if prediction.answer is None else 1
        better = sum(laid["score"] > nothing["score"] for laid in ranked[first:]) if first else 0
        ranked.insert(first + better, nothing)
    return ranked


def _questions(question: Any, context: Any) -> tuple[bool, list[Json]]:
    """Get whether one question is asked, and each question with its context."""
    if context is None:
        one = alone(question)
        return one, [record(each) for each in ([question] if one else question)]
    questions = [question] if isinstance(question, str) else list(question)
    if isinstance(question, str) and not isinstance(context, str):
        raise InvalidInput("context: one question has one context; for several, ask once for each", field="context")
    contexts = [context] * len(questions) if isinstance(context, str) else list(context)
    if len(questions) != len(contexts):
        raise InvalidInput(f"there are {len(questions)} questions and {len(contexts)} contexts", field="context")
    pairs = zip(questions, contexts, strict=True)
    return isinstance(question, str), [{"question": asked, "context": text} for asked, text in pairs]
