"""The JSON of answers: what each says, and the way from a task's prediction to it.

Owns the pydantic models of answers and of problem documents (the OpenAPI document is made of them too). Knows nothing
of requests and HTTP.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal, Self, TypeAlias

from pydantic import BaseModel, Field

from service.repository.bundle import Calibration
from service.tasks import Classification, MultipleChoicePrediction, ScoredOption, SpanPrediction

Prediction: TypeAlias = SpanPrediction | MultipleChoicePrediction | Classification


class _Named(BaseModel):
    model: str = Field(description="The model that answered.")


class QaAnswer(BaseModel):
    text: str
    score: float = Field(description="Probability among all spans of all documents.")
    start: int = Field(description="Where the text begins in its document, in Unicode code points.")
    end: int = Field(description="Where it ends: `document[start:end] == text`.")
    document: int = Field(description="Index of the document.")


class QaResult(BaseModel):
    answer: QaAnswer | None = Field(description="The best answer; null where there is none.")
    answers: list[QaAnswer] = Field(description="The `top_k` best, best first.")
    no_answer_score: float = Field(description="Probability that there is no answer.")
    windows: int = Field(description="Model rows that it took to read the documents.")

    @classmethod
    def of(cls, prediction: SpanPrediction) -> Self:
        """The result that tells of `prediction`."""
        answers = [
            QaAnswer(text=a.text, score=a.score, start=a.start, end=a.end, document=a.document)
            for a in prediction.answers
        ]
        return cls(
            answer=answers[0] if prediction.answer is not None else None,
            answers=answers,
            no_answer_score=prediction.no_answer_score,
            windows=prediction.windows,
        )


class QaResponse(QaResult, _Named):
    """The answer to one question."""


class QaResponses(_Named):
    """The answers to many questions, in their order."""

    results: list[QaResult]


class OptionAnswer(BaseModel):
    option: int = Field(description="Index of the option.")
    text: str = Field(description="The option itself.")
    score: float = Field(description="Probability among the options.")

    @classmethod
    def of(cls, scored: ScoredOption) -> Self:
        """The answer that tells of `scored`."""
        return cls(option=scored.option, text=scored.text, score=scored.score)


class ChoiceResult(BaseModel):
    answer: OptionAnswer = Field(description="The best option.")
    answers: list[OptionAnswer] = Field(description="Every option, best first.")
    truncated: bool = Field(description="Whether the context was too long for the model and its end was not read.")

    @classmethod
    def of(cls, prediction: MultipleChoicePrediction) -> Self:
        """The result that tells of `prediction`."""
        answers = [OptionAnswer.of(scored) for scored in prediction.answers]
        return cls(answer=answers[0], answers=answers, truncated=prediction.truncated)


class ChoiceResponse(ChoiceResult, _Named):
    """The option that answers a question."""


class ChoiceResponses(_Named):
    """The options that answer many questions, in their order."""

    results: list[ChoiceResult]


class ClassifyResult(BaseModel):
    label: str
    score: float = Field(description="The label's probability.")
    scores: dict[str, float] = Field(description="Each label's probability.")
    truncated: bool = Field(description="Whether the text was too long for the model and its end was not read.")
    labels: list[str] | None = Field(
        default=None,
        exclude_if=lambda labels: labels is None,
        description="The labels that hold, best first: where a model's labels do not exclude one another.",
    )

    @classmethod
    def of(cls, prediction: Classification) -> Self:
        """The result that tells of `prediction`."""
        return cls(
            label=prediction.label,
            score=prediction.score,
            scores=prediction.scores,
            truncated=prediction.truncated,
            labels=None if prediction.labels is None else list(prediction.labels),
        )


class ClassifyResponse(ClassifyResult, _Named):
    """The class of one input."""


class ClassifyResponses(_Named):
    """The classes of many inputs, in their order."""

    results: list[ClassifyResult]


Result: TypeAlias = QaResult | ChoiceResult | ClassifyResult
_FORMS: dict[type, tuple[Callable[[Any], Result], type[BaseModel], type[BaseModel]]] = {
    SpanPrediction: (QaResult.of, QaResponse, QaResponses),
    MultipleChoicePrediction: (ChoiceResult.of, ChoiceResponse, ChoiceResponses),
    Classification: (ClassifyResult.of, ClassifyResponse, ClassifyResponses),
}
"""For each kind of prediction: its result, the answer to one input, and the answer to many."""


def of(model: str, predictions: Sequence[Prediction], *, many: bool) -> BaseModel:
    """The body of an answer: the results of many inputs, or the fields of the one result itself.

    Args:
        predictions: one or more, all of a kind.
    """
    result, one, several = _FORMS[type(predictions[0])]
    results = [result(prediction) for prediction in predictions]
    return several(model=model, results=results) if many else one(model=model, **dict(results[0]))


class CalibrationInfo(BaseModel):
    """How far scores are from how often the answers are right (expected calibration error), in percent."""

    data: str = Field(description="The dev file.")
    rows: int
    ece_before: float = Field(description="With the logits as they come.")
    ece_after: float = Field(description="With the temperature, each half under the one fitted on the other.")

    @classmethod
    def of(cls, calibration: Calibration | None) -> Self | None:
        """The manifest's own."""
        return None if calibration is None else cls(**dataclasses.asdict(calibration))


class ModelInfo(BaseModel):
    """A loaded model."""

    name: str
    task: Literal["classification", "multiple_choice", "span"]
    labels: list[str]
    multi_label: bool = Field(description="Whether several labels may hold at once.")
    label_threshold: float = Field(description="Probability over which a label of such a model holds.")
    zero_shot: bool = Field(description="Whether it takes `candidate_labels`.")
    architecture: str
    parameters: int
    precision: str
    packed: bool = Field(description="Whether the graph does no work on padding (GPUs).")
    provider: str
    max_length: int = Field(description="Longest row, in tokens.")
    batch_tokens: int = Field(description="Most tokens of a batch, padding included.")
    lone_tokens: int | None = Field(
        description="From how many tokens on a request that is alone runs on all cores; null: none does."
    )
    doc_stride: int = Field(description="Tokens that neighbouring windows of a document share.")
    no_answer: bool = Field(description="Whether there may be no answer when a request does not say.")
    no_answer_threshold: float
    temperature: float = Field(description="What logits are divided by in scores.")
    calibration: CalibrationInfo | None = Field(description="Of the scores; null where there was no dev file.")
    scores: dict[str, dict[str, float]] = Field(description="Of the served file on the dev sets.")
    base_model: str
    licence: str
    version: str = Field(description="Names the bundle's content.")
    files: dict[str, str] = Field(description="sha256 of each file.")
    created: str
    loaded: float = Field(description="When it was loaded, Unix time.")


class ModelList(BaseModel):
    """All loaded models."""

    models: list[ModelInfo]


class Health(BaseModel):
    """The state of the service."""

    status: Literal["live", "ready"]


class FieldError(BaseModel):
    """One wrong field."""

    field: str
    detail: str


class Problem(BaseModel):
    """An error, as RFC 9457 wants it."""

    type: str = Field(description="Names the kind of problem; it does not change.")
    title: str
    status: int
    detail: str
    request_id: str
    field: str | None = Field(default=None, description="Where in the request the fault is, as in `inputs.3.text`.")
    errors: list[FieldError] | None = Field(default=None, description="Every wrong field, where there are several.")
