"""The JSON of answers: what each says, and the way from a task's prediction to it.

Owns the pydantic models of answers and of problem documents (the OpenAPI document is made of them too). Knows nothing
of requests and HTTP.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, Field

from service.tasks import Classification, SpanPrediction


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
    def of(cls, prediction: SpanPrediction, **more: str) -> Self:
        """The result that tells of `prediction`; `more` are fields of a subclass."""
        answers = [
            QaAnswer(text=a.text, score=a.score, start=a.start, end=a.end, document=a.document)
            for a in prediction.answers
        ]
        return cls(
            answer=answers[0] if prediction.answer is not None else None,
            answers=answers,
            no_answer_score=prediction.no_answer_score,
            windows=prediction.windows,
            **more,
        )


class QaResponse(QaResult, _Named):
    """The answer to one question."""


class QaResponses(_Named):
    """The answers to many questions, in their order."""

    results: list[QaResult]


class ClassifyResult(BaseModel):
    label: str
    score: float = Field(description="The label's probability.")
    scores: dict[str, float] = Field(description="Each label's probability.")
    truncated: bool = Field(description="Whether the text was too long for the model and its end was not read.")

    @classmethod
    def of(cls, prediction: Classification, **more: str) -> Self:
        """The result that tells of `prediction`; `more` are fields of a subclass."""
        return cls(
            label=prediction.label,
            score=prediction.score,
            scores=prediction.scores,
            truncated=prediction.truncated,
            **more,
        )


class ClassifyResponse(ClassifyResult, _Named):
    """The class of one input."""


class ClassifyResponses(_Named):
    """The classes of many inputs, in their order."""

    results: list[ClassifyResult]


class ModelInfo(BaseModel):
    """A loaded model."""

    name: str
    task: Literal["classification", "span"]
    labels: list[str]
    zero_shot: bool = Field(description="Whether it takes `candidate_labels`.")
    architecture: str
    parameters: int
    precision: str
    provider: str
    max_length: int = Field(description="Longest row, in tokens.")
    doc_stride: int = Field(description="Tokens that neighbouring windows of a document share.")
    no_answer: bool = Field(description="Whether there may be no answer when a request does not say.")
    no_answer_threshold: float
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
