"""What a task is: how its text becomes model rows, and how a model's row logits become its answer."""

from collections.abc import Mapping
from typing import Any

from service.engine.batch import RowLogits
from service.engine.tokenizer import Tokenizer
from service.tasks.classification import Classification, ClassificationTask
from service.tasks.difference import Difference
from service.tasks.multi_label import MultiLabelTask
from service.tasks.multiple_choice import (
    ChoiceRow,
    MultipleChoiceExample,
    MultipleChoicePrediction,
    MultipleChoiceTask,
    ScoredOption,
)
from service.tasks.rerank import RankedText, Ranking, RerankExample, RerankTask
from service.tasks.score import Score, ScoreTask
from service.tasks.span import Answer, SpanExample, SpanPrediction, SpanTask
from service.tasks.spans import Window
from service.tasks.spec import TaskSpec
from service.tasks.task import Task
from service.tasks.texts import ClassificationExample
from service.tasks.truth import Gist, Truth
from service.tasks.words import whole_words
from service.tasks.zero_shot import ZeroShotExample, ZeroShotTask

AnyTask = Task[Any, Any, Any]
TASKS: Mapping[str, type[AnyTask]] = {
    "classification": ClassificationTask,
    "multiple_choice": MultipleChoiceTask,
    "score": ScoreTask,
    "span": SpanTask,
}
"""The tasks that a manifest may name."""
PATHS: Mapping[str, tuple[type[AnyTask], ...]] = {
    "/qa": (MultipleChoiceTask, SpanTask),
    "/classify": (ZeroShotTask, RerankTask, ClassificationTask, ScoreTask),
}
"""The tasks of each path, the one with the more particular inputs first."""


def build(spec: TaskSpec, tokenizer: Tokenizer) -> AnyTask:
    """Build the task that a manifest describes.

    Raises:
        ValueError: there is no such task, or it cannot be built so.
    """
    kind = MultiLabelTask if spec.task == "classification" and spec.multi_label else TASKS.get(spec.task)
    if kind is None:
        raise ValueError(f"{spec.task!r} is no task; there are {', '.join(TASKS)}")
    return kind.build(spec, tokenizer)


def derived(task: AnyTask) -> tuple[AnyTask, ...]:
    """Get the other tasks that a task's model does: zero-shot classification, where its labels allow it; reranking,
    where it scores."""
    if isinstance(task, ScoreTask):
        return (RerankTask(task),)
    if isinstance(task, ClassificationTask) and ZeroShotTask.serves(task.labels):
        return (ZeroShotTask(task),)
    return ()


__all__ = [
    "PATHS",
    "TASKS",
    "Answer",
    "AnyTask",
    "ChoiceRow",
    "Classification",
    "ClassificationExample",
    "ClassificationTask",
    "Difference",
    "Gist",
    "MultiLabelTask",
    "MultipleChoiceExample",
    "MultipleChoicePrediction",
    "MultipleChoiceTask",
    "RankedText",
    "Ranking",
    "RerankExample",
    "RerankTask",
    "RowLogits",
    "Score",
    "ScoreTask",
    "ScoredOption",
    "SpanExample",
    "SpanPrediction",
    "SpanTask",
    "Task",
    "TaskSpec",
    "Truth",
    "Window",
    "ZeroShotExample",
    "ZeroShotTask",
    "build",
    "derived",
    "whole_words",
]
