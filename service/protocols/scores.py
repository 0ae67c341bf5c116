"""Labels with their scores, as other servers give them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from service.errors import InvalidInput
from service.serving import Model
from service.tasks import AnyTask, Ranking, Score
from service.tasks.classification import ScoreFunction
from service.tasks.score import UNNAMED

SCHEMA = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {"label": {"type": "string"}, "score": {"type": "number"}},
        "required": ["label", "score"],
    },
}
"""Of labels with their scores, best first."""


def ranked(prediction: Any, model: Model) -> list[tuple[str, float]]:
    """Get the labels of a prediction with their scores, best first; a score without a label has its model's."""
    scores: dict[str, float] | None = getattr(prediction, "scores", None)
    if scores is None:
        return [(next(iter(model.bundle.manifest.labels), UNNAMED), prediction.score)]
    return sorted(scores.items(), key=lambda item: -item[1])


def elements(prediction: Any, model: Model) -> list[dict[str, Any]]:
    """Get them as JSON objects."""
    return [{"label": label, "score": score} for label, score in ranked(prediction, model)]


def by(function: ScoreFunction | None, *, one: ScoreFunction | None = None) -> Callable[[AnyTask], AnyTask] | None:
    """Get what makes a task give such scores.

    Args:
        function: None for the model's own.
        one: the own one of models that give one number; None for the bundle's.
    """
    if function is None and one is None:
        return None

    def fit(task: Any) -> AnyTask:
        single = task.prediction in (Score, Ranking)
        chosen = function or (one if single else None)
        if chosen == "softmax" and single:
            raise InvalidInput("a softmax of one number is always 1: ask for sigmoid or none", field="inputs")
        fitted: AnyTask = task if chosen is None else task.with_activation(chosen)
        return fitted

    return fit


def check_whole(prediction: Any, place: str, reason: str) -> None:
    """Raise InvalidInput where a text was cut and may not be."""
    if prediction.truncated:
        raise InvalidInput(f"{place} is too long for the model: {reason}", field=place)
