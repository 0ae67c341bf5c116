"""What a task is: how its text becomes model rows, and how a model's row logits become its answer."""

from service.tasks.classification import Classification, ClassificationExample, ClassificationTask
from service.tasks.span import Answer, SpanExample, SpanPrediction, SpanTask, Window
from service.tasks.task import RowLogits, Task
from service.tasks.zero_shot import ZeroShotExample, ZeroShotTask

__all__ = [
    "Answer",
    "Classification",
    "ClassificationExample",
    "ClassificationTask",
    "RowLogits",
    "SpanExample",
    "SpanPrediction",
    "SpanTask",
    "Task",
    "Window",
    "ZeroShotExample",
    "ZeroShotTask",
]
