"""Classification under labels that do not exclude one another: a sigmoid a label, and a threshold."""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import copy
from typing import Self

import numpy as np

from service.engine.batch import RowLogits
from service.engine.tokenizer import Tokenizer
from service.errors import InvalidInput
from service.tasks.classification import Classification, ClassificationTask, best
from service.tasks.difference import NONE, Difference, jaccard, largest
from service.tasks.spec import TaskSpec
from service.tasks.texts import ClassificationExample, ClassificationRow
from service.tasks.truth import Gist, Truth


class MultiLabelTask(ClassificationTask):
    """As its base, but any number of labels may hold: those whose probability is over the threshold."""

    activation = "sigmoid"

    def __init__(
        self,
        tokenizer: Tokenizer,
        labels: Sequence[str],
        max_length: int,
        *,
        threshold: float = 0.5,
        temperature: float = 1.0,
    ) -> None:
        """
        Args:
            threshold: probability over which a label holds, under this temperature; fitted on a dev set.
            temperature: see `ClassificationTask`.
        """
        super().__init__(tokenizer, labels, max_length, temperature=temperature)
        self.threshold = threshold

    @classmethod
    def build(cls, spec: TaskSpec, tokenizer: Tokenizer) -> Self:
        if len(spec.labels) < 2:
            raise ValueError("a classification needs two labels or more")
        threshold, temperature = spec.label_threshold, spec.temperature
        return cls(tokenizer, spec.labels, spec.max_length, threshold=threshold, temperature=temperature)

    def with_threshold(self, threshold: float) -> Self:
        """Copy the task with another threshold: no score changes."""
        task = copy(self)
        task.threshold = threshold
        return task

    def with_temperature(self, temperature: float) -> Self:
        """Copy the task with other scores, and the threshold moved with them: the same labels hold."""
        task = super().with_temperature(temperature)
        if 0.0 < self.threshold < 1.0:
            logit = math.log(self.threshold / (1.0 - self.threshold)) * self.temperature
            task.threshold = float(np.exp(-np.logaddexp(0.0, -logit / temperature)))
        return task

    def decode(
        self, example: ClassificationExample, rows: Sequence[ClassificationRow], logits: Sequence[RowLogits]
    ) -> Classification:
        """Sigmoid of each label's logit; `label` is the most probable one, whether or not it holds."""
        # 1 / (1 + exp(-x)) without its overflow.
        logit = logits[0][0].astype(np.float64) / self.temperature
        probabilities = np.exp(-np.logaddexp(0.0, -logit)).tolist()
        scores = dict(zip(self.labels, probabilities, strict=True))
        ranked = sorted(scores, key=scores.__getitem__, reverse=True)
        holding = tuple(label for label in ranked if scores[label] > self.threshold)
        shown = best(scores, example.top_k)
        return Classification(ranked[0], scores[ranked[0]], shown, rows[0].truncated, holding)

    def compare(self, first: Classification, second: Classification) -> Difference:
        """The same labels are the same answer; each that one alone has is a flip. The distance is the largest
        |difference| of a label's probability, the overlap the Jaccard index of the labels."""
        before, after = frozenset(first.labels or ()), frozenset(second.labels or ())
        lost, won = self.counted(tuple(sorted(before - after))), self.counted(tuple(sorted(after - before)))
        flips = (*((label, NONE) for label in lost), *((NONE, label) for label in won))
        return Difference(before == after, flips, largest(first.scores, second.scores), jaccard(before, after))

    def gist(self, prediction: Classification) -> Gist:
        return "\n".join(sorted(prediction.labels or ()))

    def truth(self, given: Truth) -> Gist:
        label = given.only("label", "a list of labels")
        labels = label if isinstance(label, list) else [label]
        if not set(labels) <= set(self.labels):
            raise InvalidInput("the model has no such label", field="label")
        return "\n".join(sorted(map(str, labels)))

    def observed(self, prediction: Classification) -> tuple[tuple[str, ...], float]:
        assert prediction.labels is not None
        return self.counted(prediction.labels), prediction.score
