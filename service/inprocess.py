"""Bundles called in this process, without a server: the arguments and answers of transformers' pipelines.

Owns the forms of calls and answers, and runs rows in batches of like length on all cores, on threads of its own: there
is no event loop and no scheduler. Knows nothing of HTTP. Defaults are the pipelines', but for windows, which are the
bundle's.
"""

from __future__ import annotations

import functools
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import accumulate, chain
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import ValidationError

from service import tasks
from service.engine.batch import Encoded, RowLogits, pad, row_logits
from service.engine.processor import cpu_quota
from service.engine.session import Engine
from service.errors import InvalidInput
from service.repository import bundle as bundles
from service.repository.bundle import Bundle
from service.repository.loading import BATCH_TOKENS, LOW_LATENCY_TOKENS, open_task, warm_up
from service.repository.manifest import Graph
from service.repository.opening import open_engine, open_low_latency
from service.tasks import (
    AnyTask,
    Classification,
    MultipleChoicePrediction,
    RerankTask,
    ScoreTask,
    SpanPrediction,
    SpanTask,
    whole_words,
)
from service.tasks.spec import Activation

EXAMPLES = 1024
"""Examples that are encoded and run together: what bounds the memory of a call."""
PADDING = 0.08
"""A row joins a batch only while at most this share of the batch's tokens is padding."""
PIPELINE_TEMPLATE = "This example is {}."
RECORD = frozenset(("id", "title", "answers", "is_impossible", "plausible_answers"))
"""Fields of a SQuAD record that a question is asked without."""

Json = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Model:
    """An opened bundle: examples in, predictions out.

    Attributes:
        tasks: what it does, its own task first.
        engine: runs several batches side by side.
        cores: that it may use.
    """

    bundle: Bundle
    graph: Graph
    tasks: tuple[AnyTask, ...]
    engine: Engine
    workers: int
    cores: int
    batch_tokens: int
    pad_id: int
    low_latency: bool

    def predict(self, task: AnyTask, examples: Sequence[Any], *, truncation: bool = True) -> list[Any]:
        """Predict each example, in order.

        Args:
            truncation: whether a text that is too long may be cut.

        Raises:
            InvalidInput: an example cannot be encoded, or would be cut; where there are several, it says which.
            InferenceError: the engine gave what is no number.
        """
        answers: list[Any] = []
        for begin in range(0, len(examples), EXAMPLES):
            some = examples[begin : begin + EXAMPLES]
            try:
                encoded = task.encode(some)
            except InvalidInput as error:
                place = begin + (error.index or 0)
                raise _named(error, place if len(examples) > 1 else None) from None
            for place, rows in enumerate(encoded, begin):
                if not truncation and any(getattr(row, "truncated", False) for row in rows):
                    refused = InvalidInput(
                        f"the text is longer than the model's {task.max_length} tokens; "
                        "truncation=True reads its beginning alone",
                        field="truncation",
                    )
                    raise _named(refused, place if len(examples) > 1 else None)
            answers += self._decoded(task, some, encoded)
        return answers

    def _decoded(self, task: AnyTask, examples: Sequence[Any], encoded: Sequence[Sequence[Encoded]]) -> list[Any]:
        """Run the rows, and decode each example when its last row has run, while others run."""
        owners = [place for place, rows in enumerate(encoded) for _ in rows]
        ends = list(accumulate(map(len, encoded)))
        missing = list(map(len, encoded))
        logits: dict[int, RowLogits] = {}
        answers: list[Any] = [None] * len(examples)
        for i, found in self._run(list(chain.from_iterable(encoded))):
            logits[i] = found
            place = owners[i]
            missing[place] -= 1
            if not missing[place]:
                own = [logits.pop(j) for j in range(ends[place] - len(encoded[place]), ends[place])]
                answers[place] = task.decode(examples[place], encoded[place], own)
        return answers

    def _run(self, rows: Sequence[Encoded]) -> Iterator[tuple[int, RowLogits]]:
        """Run the rows, in any order. Yields their indices and logits."""

        def run(chosen: Sequence[int], engine: Engine) -> list[tuple[int, RowLogits]]:
            batch = pad([rows[i] for i in chosen], self.pad_id)
            outputs = engine.run(batch)
            return [(i, row_logits(outputs, batch, at)) for at, i in enumerate(chosen)]

        batches = list(self._batches(rows))
        if len(batches) == 1:
            alone = self.low_latency and sum(map(len, rows)) >= LOW_LATENCY_TOKENS
            yield from run(batches[0], self._on_all_cores if alone else self.engine)
        else:
            yield from chain.from_iterable(self._threads.map(lambda chosen: run(chosen, self.engine), batches))

    def _batches(self, rows: Sequence[Encoded]) -> Iterator[list[int]]:
        """Put the rows into batches of like length, the longest first, so that no thread is left with a long one."""
        chosen: list[int] = []
        tokens = 0
        for i in sorted(range(len(rows)), key=lambda i: -len(rows[i])):
            padded = len(rows[chosen[0]]) * (len(chosen) + 1) if chosen else 0
            if padded > self.batch_tokens or tokens + len(rows[i]) < (1 - PADDING) * padded:
                yield chosen
                chosen, tokens = [], 0
            chosen.append(i)
            tokens += len(rows[i])
        if chosen:
            yield chosen

    @functools.cached_property
    def _threads(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self.workers, thread_name_prefix="bertie")

    @functools.cached_property
    def _on_all_cores(self) -> Engine:
        return open_low_latency(self.bundle, self.graph, self.cores)


class Pipeline(ABC):
    """A bundle to call. Several threads may call it at once.

    Attributes:
        model: what it runs.
    """

    def __init__(self, model: Model) -> None:
        self.model = model

    @abstractmethod
    def __call__(self, *args: Any, **options: Any) -> Any:
        """Answer one input, or a list of them: a list in, a list out."""

    def _predict(
        self, inputs: Sequence[Json], *, truncation: bool = True, task: AnyTask | None = None, **options: Any
    ) -> list[Any]:
        """Check the inputs, make examples of them with `options` put into each, and predict."""
        examples = []
        for place, values in enumerate(inputs):
            try:
                example = self._example(values)
            except InvalidInput as error:
                raise _named(error, place if len(inputs) > 1 else None) from None
            examples.append(replace(example, **options) if options else example)
        if not examples:
            return []
        task = task or next(each for each in self.model.tasks if each.suits(examples[0], named=True))
        return self.model.predict(task, examples, truncation=truncation)

    def _example(self, values: Json) -> Any:
        """Check an input by the shape that its fields are meant for."""
        does = self.model.tasks
        shapes = [shape for each in does for shape in each.inputs]
        marked = (shape for shape in shapes if not shape.marks.isdisjoint(values))
        shape = next(marked, None) or next((shape for shape in shapes if not shape.marks), shapes[-1])
        takes = f"model {self.model.bundle.name!r} takes {', or '.join(each.takes for each in does)}"
        try:
            example = shape.model_validate(values).example(shape.shared())
        except ValidationError as error:
            fault = error.errors(include_url=False, include_input=False)[0]
            field = ".".join(str(part) for part in fault["loc"] if not str(part).startswith("#"))
            known = {"missing": "is missing", "extra_forbidden": "is not known here"}.get(fault["type"])
            detail = f"{field!r} {known}: {takes}" if known else f"{field!r}: {fault['msg']}"
            raise InvalidInput(detail, field=field) from None
        if not any(each.suits(example, named=True) for each in does):
            raise InvalidInput(f"this is no input of it: {takes}", field=next(iter(values)))
        return example


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
        length = task.max_length if max_seq_len is None else max_seq_len
        stride = min(task.doc_stride, length // 4) if doc_stride is None else doc_stride
        try:
            return task.with_windows(length, stride)
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


class TextClassification(Pipeline):
    """What `pipeline("text-classification")` is, and `pipeline("zero-shot-classification")` where the model can."""

    def __call__(
        self,
        inputs: Any,
        candidate_labels: str | Sequence[str] | None = None,
        *,
        hypothesis_template: str | None = None,
        multi_label: bool | None = None,
        top_k: int | Literal[""] | None = "",
        truncation: object = False,
        function_to_apply: str | None = None,
        padding: object = None,
        batch_size: int | None = None,
        num_workers: int | None = None,
    ) -> Any:
        """Classify texts or pairs of texts; with `candidate_labels`, texts under those labels.

        Args:
            inputs: a text, a dict of `text` and `text_pair` (or of `premise` and `hypothesis`), or a list of such.
            candidate_labels: the labels to choose from, in a list or with commas between them.
            hypothesis_template: `{}` in it is where a label goes.
            multi_label: whether to score each label alone, so that several may be right.
            top_k: how many labels to give, None for all. Without it, each input gets its best label, in no list.
            truncation: whether a text that is too long may be cut; else it is refused.
            function_to_apply: refused: scores are those that the bundle was calibrated for.
            padding, batch_size, num_workers: have no effect.

        Returns:
            `{"label", "score"}` for each input, or a list of such with `top_k`; a single text's is in a list in any
            case. With `candidate_labels`, `{"sequence", "labels", "scores"}`, best first.

        Raises:
            InvalidInput: says what is wrong, and with which input.
        """
        if function_to_apply is not None:
            raise InvalidInput(
                "function_to_apply: scores are the calibrated probabilities of the bundle's own task",
                field="function_to_apply",
            )
        one = _alone(inputs)
        values = [_text(each) for each in ([inputs] if one else inputs)]
        cut = bool(truncation) and truncation != "do_not_truncate"
        if candidate_labels is not None:
            if top_k != "":
                raise InvalidInput("top_k: all candidate_labels are given, best first", field="top_k")
            zero = _zero_shot(candidate_labels, hypothesis_template, multi_label)
            found = self._predict([each | zero for each in values], truncation=cut)
            ranked = [_ranked(prediction) for prediction in found]
            laid: list[Any] = [
                {"sequence": each["text"], "labels": [*by_label], "scores": [*by_label.values()]}
                for each, by_label in zip(values, ranked, strict=True)
            ]
            return laid[0] if one else laid
        for name, value in (("hypothesis_template", hypothesis_template), ("multi_label", multi_label)):
            if value is not None:
                raise InvalidInput(f"{name} goes with candidate_labels", field=name)
        if not (top_k in ("", None) or (isinstance(top_k, int) and top_k >= 1)):
            raise InvalidInput(f"top_k must be 1 or more, or None for all, not {top_k!r}", field="top_k")
        predictions = self._predict(values, truncation=cut)
        if not isinstance(top_k, int | None):
            best = [{"label": each.label, "score": each.score} for each in predictions]
            return best[0] if isinstance(inputs, Mapping) else best
        lists = [
            [{"label": label, "score": score} for label, score in _ranked(each).items()][:top_k] for each in predictions
        ]
        return lists[0] if one else lists


class MultipleChoice(Pipeline):
    """A question about a text, and options to answer it with. transformers has no pipeline for it."""

    def __call__(
        self,
        question: Any = None,
        context: str | Sequence[str] | None = None,
        options: Sequence[str] | None = None,
        *,
        top_k: int = 1,
        truncation: object = False,
    ) -> Any:
        """Choose the option that answers a question.

        Args:
            question: a question; or, alone, inputs: a dict of `question`, `context` and `options`, or a list of such.
            top_k: how many options to give: with 1 a dict for each input, else a list of dicts.
            truncation: whether a context that is too long may be cut; else it is refused.

        Returns:
            `{"score", "option", "answer"}`: the option's probability, its index and its text.

        Raises:
            InvalidInput: says what is wrong, and with which input.
        """
        if not isinstance(top_k, int) or top_k < 1:
            raise InvalidInput(f"top_k must be 1 or more, not {top_k!r}", field="top_k")
        if isinstance(question, str):
            question = {"question": question, "context": context, "options": options}
        one = _alone(question)
        inputs = [_record(each) for each in ([question] if one else question)]
        for each in inputs:
            if isinstance(each.get("options"), tuple):
                each["options"] = list(each["options"])
        predictions: list[MultipleChoicePrediction] = self._predict(inputs, truncation=bool(truncation))
        answers = [
            [{"score": each.score, "option": each.option, "answer": each.text} for each in prediction.answers[:top_k]]
            for prediction in predictions
        ]
        results = [found[0] for found in answers] if top_k == 1 else answers
        return results[0] if one else results


class Scoring(Pipeline):
    """What `pipeline("text-classification")` is for a model of one label, and sentence-transformers' `CrossEncoder`."""

    FUNCTIONS: ClassVar[Mapping[str, Activation]] = {"none": "identity", "sigmoid": "sigmoid"}

    def __call__(
        self,
        inputs: Any,
        *,
        top_k: int | Literal[""] | None = "",
        truncation: object = False,
        function_to_apply: str | None = None,
        padding: object = None,
        batch_size: int | None = None,
        num_workers: int | None = None,
    ) -> Any:
        """Score texts or pairs of texts.

        Args:
            inputs: a text, a dict of `text` and `text_pair`, or a list of such.
            top_k: with any, each input gets a list of its one score.
            truncation: whether a text that is too long may be cut; else it is refused.
            function_to_apply: `sigmoid`, or `none` for the number as it comes; the bundle's own by default.
            padding, batch_size, num_workers: have no effect.

        Returns:
            `{"label", "score"}` for each input, or a list of it with `top_k`; a single text's is in a list in any case.
            The label is the checkpoint's name for its one number.

        Raises:
            InvalidInput: says what is wrong, and with which input.
        """
        task = self._task
        if function_to_apply is not None:
            if function_to_apply not in self.FUNCTIONS:
                raise InvalidInput(
                    f"function_to_apply is sigmoid or none, not {function_to_apply!r}", field="function_to_apply"
                )
            task = task.with_activation(self.FUNCTIONS[function_to_apply])
        one = _alone(inputs)
        cut = bool(truncation) and truncation != "do_not_truncate"
        found = self._predict([_text(each) for each in ([inputs] if one else inputs)], truncation=cut, task=task)
        laid = [{"label": task.label, "score": each.score} for each in found]
        if not isinstance(top_k, int | None):
            return laid[0] if isinstance(inputs, Mapping) else laid
        return laid if one else [[each] for each in laid]

    def predict(self, pairs: Sequence[Any]) -> Any:
        """Score pairs of texts, as `CrossEncoder.predict`: what is too long is cut.

        Args:
            pairs: two texts, or a list of such pairs.

        Returns:
            The score of the pair, or a list of scores.

        Raises:
            InvalidInput: says what is wrong, and with which pair.
        """
        one = len(pairs) == 2 and isinstance(pairs[0], str)
        inputs = []
        for pair in [pairs] if one else pairs:
            if isinstance(pair, str) or len(pair) != 2:
                raise InvalidInput(f"a pair is two texts, not {pair!r:.50}", field="pairs")
            inputs.append({"text": pair[0], "text_pair": pair[1]})
        scores = [each.score for each in self._predict(inputs, task=self._task)]
        return scores[0] if one else scores

    def rank(
        self, query: str, documents: Sequence[str], *, top_k: int | None = None, return_documents: bool = False
    ) -> list[Json]:
        """Put documents in order by how well they fit a query, as `CrossEncoder.rank`: what is too long is cut.

        Args:
            top_k: how many to give, None for all.
            return_documents: whether to give their texts.

        Returns:
            `{"corpus_id", "score"}` for each, best first, with `text` where it is asked for.

        Raises:
            InvalidInput: says what is wrong.
        """
        if not documents:
            return []
        values = {"query": query, "texts": list(documents), "top_k": top_k}
        (found,) = self._predict([values], task=RerankTask(self._task))
        return [
            {"corpus_id": each.index, "score": each.score}
            | ({"text": documents[each.index]} if return_documents else {})
            for each in found.ranking
        ]

    @property
    def _task(self) -> ScoreTask:
        task = self.model.tasks[0]
        assert isinstance(task, ScoreTask)
        return task


PIPELINES: Mapping[str, type[Pipeline]] = {
    "classification": TextClassification,
    "multiple_choice": MultipleChoice,
    "score": Scoring,
    "span": QuestionAnswering,
}
"""By a bundle's task."""


def load(folder: str | os.PathLike[str], *, device: str = "auto", threads: int = 0) -> Pipeline:
    """Open the bundle in `folder` to be called.

    Args:
        device: `auto`, `cpu` or `cuda`.
        threads: cores to use; 0: all that this process may use.

    Raises:
        BundleError, ConfigurationError: it cannot be used, or not on this device; the message says why.
    """
    bundle = bundles.load(Path(folder))
    tokenizer, task = open_task(bundle)
    cores = threads or cpu_quota()
    engine, graph = open_engine(bundle, device=device, workers=0, intra_op_threads=0, cores=cores)
    warm_up(bundle, task, tokenizer, engine)
    return PIPELINES[bundle.manifest.task](
        Model(
            bundle,
            graph,
            (task, *tasks.derived(task)),
            engine,
            engine.workers,
            cores,
            max(BATCH_TOKENS[engine.provider], task.max_length),
            tokenizer.pad_id,
            low_latency=engine.provider == "cpu" and cores > 1,
        )
    )


def _questions(question: Any, context: Any) -> tuple[bool, list[Json]]:
    """Get whether one question is asked, and each question with its context."""
    if context is None:
        one = _alone(question)
        return one, [_record(each) for each in ([question] if one else question)]
    questions = [question] if isinstance(question, str) else list(question)
    if isinstance(question, str) and not isinstance(context, str):
        raise InvalidInput("context: one question has one context; for several, ask once for each", field="context")
    contexts = [context] * len(questions) if isinstance(context, str) else list(context)
    if len(questions) != len(contexts):
        raise InvalidInput(f"there are {len(questions)} questions and {len(contexts)} contexts", field="context")
    pairs = zip(questions, contexts, strict=True)
    return isinstance(question, str), [{"question": asked, "context": text} for asked, text in pairs]


def _alone(value: Any) -> bool:
    """Whether a value is one input, and no list of them."""
    return isinstance(value, str | Mapping) or not isinstance(value, Iterable)


def _record(value: Any) -> Json:
    if isinstance(value, Mapping):
        return {name: each for name, each in value.items() if name not in RECORD}
    if hasattr(value, "question_text") and hasattr(value, "context_text"):  # transformers' SquadExample
        return {"question": value.question_text, "context": value.context_text}
    raise InvalidInput(f"an input is a dict, with a question and its context, not {value!r:.50}", field="question")


def _text(value: Any) -> Json:
    return dict(value) if isinstance(value, Mapping) else {"text": value}


def _zero_shot(candidate_labels: str | Sequence[str], template: str | None, multi_label: bool | None) -> Json:
    if isinstance(candidate_labels, str):
        candidate_labels = [label.strip() for label in candidate_labels.split(",") if label.strip()]
    return {
        "candidate_labels": list(candidate_labels),
        "hypothesis_template": PIPELINE_TEMPLATE if template is None else template,
        "multi_label": bool(multi_label),
    }


def _ranked(prediction: Classification) -> dict[str, float]:
    return dict(sorted(prediction.scores.items(), key=lambda item: -item[1]))


def _named(error: InvalidInput, place: int | None) -> InvalidInput:
    """Get the error with the input's place put before its words, where there are several."""
    if place is None:
        return error
    return InvalidInput(f"inputs.{place}: {error.detail}", field=f"inputs.{place}.{error.field}")
