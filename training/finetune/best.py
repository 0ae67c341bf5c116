"""The best weights of a run, by its dev score: a small dev set's scores go up and down long after the loss is flat.

Owns when the model is scored and what is kept. Does not know what the score is of.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import load_model, save_model
from transformers import PreTrainedModel, TrainerCallback

from training import files

logger = logging.getLogger(__name__)

FOLDER = "best"
"""Of a run's output: the best weights so far and the scores, so that a run that is resumed still has them."""


class KeepBest(TrainerCallback):
    """Scores the model every so many steps and at the end, which it leaves with the best-scored weights.

    Attributes:
        scores: (step, score) of each time, those before a resumption included.
    """

    def __init__(self, every: int, score: Callable[[PreTrainedModel], float], output: Path) -> None:
        self.scores: list[tuple[int, float]] = []
        self._every = every
        self._score = score
        self._weights = output / FOLDER / "model.safetensors"
        self._state = output / FOLDER / "score.json"
        self._best, self._best_step = float("-inf"), 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Take up what an interrupted run had found by the step that this one goes on from."""
        found = json.loads(self._state.read_text(encoding="utf-8")) if self._state.is_file() else {}
        self.scores = [(step, score) for step, score in found.get("scores", ()) if step <= state.global_step]
        if found and 0 < found["step"] <= state.global_step:
            self._best, self._best_step = found["score"], found["step"]

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Score the model when it is time."""
        if state.global_step % self._every == 0:
            self._take(state.global_step, kwargs["model"])

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Score the last weights too, and take back the best."""
        if not self._best_step or self.scores[-1][0] != state.global_step:
            self._take(state.global_step, kwargs["model"])
        load_model(kwargs["model"], self._weights)
        logger.info("the best weights score %.2f on the dev set, the last %.2f", self._best, self.scores[-1][1])

    def _take(self, step: int, model: PreTrainedModel) -> None:
        training = model.training
        score = self._score(model.eval())
        model.train(training)
        self.scores = [(before, known) for before, known in self.scores if before < step] + [(step, score)]
        if score > self._best:
            self._best, self._best_step = score, step
            with files.written_aside(self._weights) as new:
                save_model(model, str(new))
        found = json.dumps({"step": self._best_step, "score": self._best, "scores": self.scores})
        with files.written_aside(self._state) as new:
            new.write_text(found, encoding="utf-8")
