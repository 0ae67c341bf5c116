"""What training knows of each task: a file a task, and the registry of them."""

from typing import Any

from training.tasks.classification import Classification
from training.tasks.multi_label import MultiLabel
from training.tasks.multiple_choice import MultipleChoice
from training.tasks.score import Score
from training.tasks.span import Span
from training.tasks.task import Labelled, Predictions, Row, Served, Task

__all__ = ["LAYOUTS", "NAMES", "TASKS", "Labelled", "Predictions", "Row", "Served", "Task", "named", "of", "of_config"]

TASKS: tuple[Task[Any, Any], ...] = (Classification(), MultiLabel(), Score(), MultipleChoice(), Span())
NAMES = tuple(dict.fromkeys(task.name for task in TASKS))
LAYOUTS = tuple(dict.fromkeys(layout for task in TASKS for layout in task.layouts))
"""The layouts of data that some task reads."""


def named(name: str, *, multi_label: bool = False) -> Task[Any, Any]:
    """Return the task that a recipe or a manifest names. Raises `StopIteration` for one that is none."""
    return next(task for task in TASKS if (task.name, task.multi_label) == (name, multi_label))


def of(served: Served) -> Task[Any, Any]:
    """Return what training knows of a task of the service."""
    return next(task for task in TASKS if task.served is type(served))


def of_config(config: Any, *, multi_label: bool = False) -> Task[Any, Any] | None:
    """Return the task of a checkpoint by its config's `architectures` and `problem_type`; None where it has none.

    Args:
        multi_label: whether somebody says that its labels do not exclude one another.
    """
    fitting = [task for task in TASKS if task.fits(config)]
    kind = MultiLabel.problem_type if multi_label else getattr(config, "problem_type", None)
    return next((task for task in fitting if task.problem_type == kind), next(iter(fitting), None))
