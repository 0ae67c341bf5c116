"""What a bundle's manifest says of its task."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator
from pydantic.dataclasses import dataclass

MAX_LENGTH = 16384
"""Tokens of the longest row that is believed: the longest encoders of the field take 8,192."""

Activation = Literal["identity", "sigmoid"]
Label = Annotated[str, StringConstraints(min_length=1, max_length=500)]


@dataclass(frozen=True, kw_only=True, slots=True, config={"extra": "ignore"})
class TaskSpec:
    """What a task is built from.

    Attributes:
        task: name of the task, a key of `service.tasks.TASKS`.
        max_length: longest row in tokens, special tokens included.
        labels: in the order of the logits (classification); the name of the one number (score), which may be left out.
        multi_label: whether labels do not exclude one another (classification).
        label_threshold: see `MultiLabelTask` (classification).
        activation: what the logit goes through to be a score: nothing, or a sigmoid, which gives 0 to 1 (score).
        doc_stride: tokens that neighbouring windows share (span).
        no_answer: whether "no answer" may be the answer when a request does not say (span).
        no_answer_threshold: see `SpanTask` (span).
        temperature: what logits are divided by in scores; fitted on dev answers.
    """

    task: str
    max_length: Annotated[int, Field(ge=3, le=MAX_LENGTH)]
    labels: tuple[Label, ...] = ()
    multi_label: bool = False
    label_threshold: Annotated[float, Field(ge=0, le=1)] = 0.5
    activation: Activation = "identity"
    doc_stride: Annotated[int, Field(ge=0, le=MAX_LENGTH)] = 0
    no_answer: bool = False
    no_answer_threshold: Annotated[float, Field(allow_inf_nan=False)] = 0.0
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if len(set(self.labels)) < len(self.labels):
            raise ValueError("two labels are the same")
        return self
