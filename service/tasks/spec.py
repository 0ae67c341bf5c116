"""What a bundle or a recipe says of its task, and the one builder of tasks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from service.engine.tokenizer import Tokenizer
from service.tasks.classification import ClassificationTask
from service.tasks.multi_label import MultiLabelTask
from service.tasks.multiple_choice import MultipleChoiceTask
from service.tasks.span import SpanTask

ServedTask: TypeAlias = ClassificationTask | MultipleChoiceTask | SpanTask


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSpec:
    """All that a task is built from, beside its tokenizer.

    Attributes:
        task: `classification`, `multiple_choice` or `span`.
        max_length: longest row in tokens, special tokens included.
        labels: in the order of the logits (classification).
        multi_label: whether labels do not exclude one another (classification).
        label_threshold: see `MultiLabelTask` (classification).
        doc_stride: tokens that neighbouring windows share (span).
        no_answer: whether "no answer" may be the answer when a request does not say (span).
        no_answer_threshold: see `SpanTask` (span).
        temperature: what logits are divided by in scores.
    """

    task: str
    max_length: int
    labels: tuple[str, ...] = ()
    multi_label: bool = False
    label_threshold: float = 0.5
    doc_stride: int = 0
    no_answer: bool = False
    no_answer_threshold: float = 0.0
    temperature: float = 1.0


def build(spec: TaskSpec, tokenizer: Tokenizer) -> ServedTask:
    """Build the task of a spec. Raises `ValueError` where a window of a span task could not advance."""
    if spec.task == "span":
        return SpanTask(
            tokenizer,
            max_length=spec.max_length,
            doc_stride=spec.doc_stride,
            no_answer=spec.no_answer,
            no_answer_threshold=spec.no_answer_threshold,
            temperature=spec.temperature,
        )
    if spec.task == "multiple_choice":
        return MultipleChoiceTask(tokenizer, spec.max_length, temperature=spec.temperature)
    if spec.multi_label:
        return MultiLabelTask(
            tokenizer, spec.labels, spec.max_length, threshold=spec.label_threshold, temperature=spec.temperature
        )
    return ClassificationTask(tokenizer, spec.labels, spec.max_length, temperature=spec.temperature)
