"""`{"inputs", "parameters"}` as transformers' pipelines take and answer them: Hugging Face's hub and its containers.

Defaults are the pipelines', but that a text that is too long is cut unless `truncation` says no, as the hub does.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from pydantic import Field, WithJsonSchema
from starlette.responses import Response

from service.errors import InvalidInput
from service.http import answers, requests
from service.http.endpoints import Ask, Done, Work
from service.inprocess.question_answering import spans
from service.inprocess.text_classification import PIPELINE_TEMPLATE
from service.protocols import own, scores
from service.protocols.own import TEXT
from service.tasks import AnyTask
from service.tasks.classification import ScoreFunction
from service.tasks.inputs import Count, Integer, Labels, Shape, Template

FUNCTIONS: dict[str, ScoreFunction] = {"softmax": "softmax", "sigmoid": "sigmoid", "none": "identity"}


class QaParameters(Shape):
    """Parameters of a question."""

    top_k: Integer = Field(1, ge=1, le=100, description="Most answers; with 1 the answer is no list.")
    max_answer_len: Integer = Field(15, ge=1, le=200, description="Tokens of the longest answer.")
    handle_impossible_answer: bool = Field(False, description="Whether the empty text may be the answer.")
    align_to_words: bool = Field(True, description="Whether answers begin and end with whole words.")
    max_seq_len: Count | None = Field(None, description="Tokens of a window, at most the model's own.")
    doc_stride: Count | None = Field(None, description="Tokens that neighbouring windows share.")
    max_question_len: Any = Field(None, description="Ignored: no question is cut.")
    padding: Any = Field(None, description="Ignored: batches are made by length.")


class TextParameters(Shape):
    """Parameters of a classification."""

    top_k: Count | None = Field(None, description="Most labels; all when not given.")
    function_to_apply: Literal["softmax", "sigmoid", "none"] | None = Field(
        None, description="What makes scores of logits; the model's own function, calibrated, when not given."
    )
    truncation: bool | str = Field(True, description="Whether a text that is too long is cut, or refused.")
    padding: Any = Field(None, description="Ignored: batches are made by length.")


class ZeroShotParameters(Shape):
    """Parameters of a classification by labels of one's own."""

    candidate_labels: Labels = Field(description="The labels to choose from.")
    hypothesis_template: Template = Field(PIPELINE_TEMPLATE, description="`{}` is where the label goes.")
    multi_label: bool = Field(False, description="Score each label alone, so that several may be right.")
    truncation: bool | str = Field(True, description="Whether a text that is too long is cut, or refused.")


TEXTS = ("text", "text_pair", "premise", "hypothesis")
PAIR = {
    "type": "object",
    "properties": {"text": TEXT, "text_pair": TEXT},
    "required": ["text"],
    "additionalProperties": False,
}
QUESTION: dict[str, Any] = {
    "type": "object",
    "properties": {"question": TEXT, "context": TEXT},
    "required": ["question", "context"],
    "additionalProperties": False,
}


def _or_list(*kinds: Mapping[str, Any]) -> dict[str, Any]:
    return {"anyOf": [*kinds, *({"type": "array", "items": kind, "minItems": 1} for kind in kinds)]}


class _Body(Shape):
    options: Any = Field(None, description="Ignored: `wait_for_model` and its like.")


class QaBody(_Body):
    """A question about a text, or several."""

    inputs: Annotated[Any, WithJsonSchema(_or_list(QUESTION))]
    parameters: QaParameters = Field(default_factory=lambda: QaParameters.model_validate({}))


class TextBody(_Body):
    """A text or a pair of texts, or several."""

    inputs: Annotated[Any, WithJsonSchema(_or_list(TEXT, PAIR))]
    parameters: TextParameters = Field(default_factory=lambda: TextParameters.model_validate({}))


class ZeroShotBody(_Body):
    """A text, or several, and the labels to choose from."""

    inputs: Annotated[Any, WithJsonSchema(_or_list(TEXT))]
    parameters: ZeroShotParameters


BODIES = (TextBody, QaBody, ZeroShotBody)


@dataclass(frozen=True, slots=True)
class Form:
    """How answers differ between those who speak so.

    Attributes:
        labels: lays out a text's labels: given whether there are several texts, and a list of elements for each.
        zero_shot: lays out one text's labels, given the text and its elements.
    """

    labels: Callable[[bool, list[list[dict[str, Any]]]], Any]
    zero_shot: Callable[[str, list[dict[str, Any]]], Any]


def read(ask: Ask, form: Form) -> Work:
    """Read a body; what is asked is told by its inputs and parameters."""
    data = ask.json()
    if not isinstance(data, dict):
        raise InvalidInput("body should be an object", field="body")
    given, inputs = data.get("parameters"), data.get("inputs")
    first = inputs[0] if isinstance(inputs, list) and inputs else inputs
    if isinstance(first, dict) and ("question" in first or "context" in first):
        return _question(ask, requests.check(QaBody, data))
    if isinstance(given, dict) and "candidate_labels" in given:
        return _zero_shot(ask, requests.check(ZeroShotBody, data), form)
    return _text(ask, requests.check(TextBody, data), form)


def _question(ask: Ask, body: QaBody) -> Work:
    parameters, many = body.parameters, isinstance(body.inputs, list)
    given = body.inputs if many else [body.inputs]
    _check_fields(given, QUESTION["properties"])
    if any(isinstance(value, dict) and isinstance(value.get("context"), list) for value in given):
        raise InvalidInput("inputs: one question has one context", field="inputs")
    call = requests.parse_value("/qa", {"inputs": body.inputs} if many else body.inputs, ask.settings)
    examples = [
        replace(
            example,
            # As the pipeline: some become the same words.
            top_k=2 * parameters.top_k + 10 if parameters.align_to_words else parameters.top_k,
            max_answer_tokens=parameters.max_answer_len,
            no_answer=parameters.handle_impossible_answer,
        )
        for example in call.examples
    ]

    def write(done: Done) -> Response:
        laid = [
            spans(prediction, example.documents[0], parameters.handle_impossible_answer, parameters.align_to_words)
            for prediction, example in zip(done.predictions, examples, strict=True)
        ]
        each = [found[0] if parameters.top_k == 1 else found[: parameters.top_k] for found in laid]
        return answers.response(each if many else each[0])

    windows = parameters.max_seq_len, parameters.doc_stride
    return Work(
        examples,
        write,
        ask.name,
        noun="inputs" if many else "",
        fit=None if windows == (None, None) else _windowed(*windows),
    )


def _check_fields(inputs: list[Any], known: Container[str]) -> None:
    """Check that inputs have no fields but those of such a call: Bertie's own have more."""
    for value in inputs:
        for name in value if isinstance(value, dict) else ():
            if name not in known:
                raise InvalidInput(f"inputs: {name!r:.200} is no field of such an input", field="inputs")


def _windowed(max_seq_len: int | None, doc_stride: int | None) -> Callable[[AnyTask], AnyTask]:
    def fit(task: Any) -> AnyTask:
        field = "parameters.doc_stride" if max_seq_len is None else "parameters.max_seq_len"
        try:
            fitted: AnyTask = task.with_windows(max_seq_len, doc_stride)
        except ValueError as error:
            raise InvalidInput(f"{field}: {error}", field=field) from None
        return fitted

    return fit


def _text(ask: Ask, body: TextBody, form: Form) -> Work:
    parameters, many = body.parameters, isinstance(body.inputs, list)
    given = body.inputs if many else [body.inputs]
    _check_fields(given, TEXTS)
    values = [value if isinstance(value, dict) else {"text": value} for value in given]
    if many:
        calls = own.calls(values, ask.settings, noun="inputs")
    else:
        calls = [requests.parse_value("/classify", values[0], ask.settings)]

    def write(done: Done) -> Response:
        _check_whole(done, parameters.truncation)
        pairs = zip(done.predictions, done.models, strict=True)
        found = [scores.elements(prediction, model)[: parameters.top_k] for prediction, model in pairs]
        return answers.response(form.labels(many, found))

    function = FUNCTIONS[parameters.function_to_apply] if parameters.function_to_apply else None
    examples = [call.examples[0] for call in calls]
    return Work(examples, write, ask.name, noun="inputs" if many else "", mixed=many, fit=scores.by(function))


def _zero_shot(ask: Ask, body: ZeroShotBody, form: Form) -> Work:
    parameters, many = body.parameters, isinstance(body.inputs, list)
    labels = parameters.model_dump(exclude={"truncation"})
    values = [{"text": text, **labels} for text in (body.inputs if many else [body.inputs])]
    call = requests.parse_value("/classify", {"inputs": values} if many else values[0], ask.settings)

    def write(done: Done) -> Response:
        _check_whole(done, parameters.truncation)
        pairs = zip(call.examples, done.predictions, done.models, strict=True)
        found = [form.zero_shot(example.text, scores.elements(each, model)) for example, each, model in pairs]
        return answers.response(found if many else found[0])

    return Work(call.examples, write, ask.name, noun="inputs" if many else "")


def _check_whole(done: Done, truncation: bool | str) -> None:
    if truncation in (False, "do_not_truncate"):
        for prediction in done.predictions:
            scores.check_whole(prediction, "inputs", "with `truncation` its beginning alone is read")


def sequence(text: str, found: list[dict[str, Any]]) -> dict[str, Any]:
    """Lay out a zero-shot answer as the pipeline does."""
    labels, values = [each["label"] for each in found], [each["score"] for each in found]
    return {"sequence": text, "labels": labels, "scores": values}
