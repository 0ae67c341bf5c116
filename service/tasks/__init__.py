"""What a task is: how its text becomes model rows, and how a model's row logits become its answer."""

from service.tasks.classification import Classification, ClassificationExample, ClassificationTask
from service.tasks.multi_label import MultiLabelTask
from service.tasks.multiple_choice import (
    ChoiceRow,
    MultipleChoiceExample,
    MultipleChoicePrediction,
    MultipleChoiceTask,
    ScoredOption,
)
from service.tasks.span import Answer, SpanExample, SpanPrediction, SpanTask, Window
from service.tasks.task import RowLogits, Task
from service.tasks.zero_shot import ZeroShotExample, ZeroShotTask

__all__ = [
    "Answer",
    "ChoiceRow",
    "Classification",
    "ClassificationExample",
    "ClassificationTask",
    "MultiLabelTask",
    "MultipleChoiceExample",
    "MultipleChoicePrediction",
    "MultipleChoiceTask",
    "RowLogits",
    "ScoredOption",
    "SpanExample",
    "SpanPrediction",
    "SpanTask",
    "Task",
    "Window",
    "ZeroShotExample",
    "ZeroShotTask",
]
