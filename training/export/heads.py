"""A checkpoint's task by the head that its config names; where that names none, what the weights say of it."""

from __future__ import annotations

from typing import Any

from training import tasks
from training.checkpoints.source import Source
from training.errors import CheckpointError

HEADS = (
    ("qa_outputs.", "QuestionAnswering"), ("classifier.", "SequenceClassification"),
    ("classification_head.", "SequenceClassification"),
)  # fmt: skip
"""How the names of a head's weights begin, and the end of the name of the class that has it."""


def check(source: Source, config: Any, *, multi_label: bool = False) -> tasks.Task[Any, Any]:
    """Return the task of a checkpoint. Raises `CheckpointError` where none is: why, and what to do.

    Args:
        multi_label: whether somebody says that its labels do not exclude one another.
    """
    task = tasks.of_config(config, multi_label=multi_label)
    if task is None:
        raise CheckpointError(f"{source.name}: {_none(source, config)}")
    if multi_label and not task.multi_label:
        raise CheckpointError(f"{source.name}: --multi-label is for several labels, and its task is {task.name}")
    return task


def _none(source: Source, config: Any) -> str:
    served = " or ".join(dict.fromkeys(f"...{task.head}" for task in tasks.TASKS))
    if config.architectures:
        named = " ".join(config.architectures)
        return f"{named} has no head to serve ({served}): fine-tune it first (python -m training finetune)"
    said = "a config without architectures has no head to serve"
    names = list(source.shapes() or ())
    for beginning, head in HEADS:
        found = next((name for name in names if name.startswith(beginning)), None)
        if found is None:
            continue
        auto = next(task.auto for task in tasks.TASKS if task.head.endswith(head))
        kind = auto._model_mapping[type(config)].__name__
        return f'{said}; its weights have {found}: write "architectures": ["{kind}"] into its config.json'
    return f"{said}, and its weights have none either: fine-tune it first (python -m training finetune)"
