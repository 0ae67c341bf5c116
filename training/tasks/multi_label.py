"""Any number of labels for a text or a pair of texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from service.tasks import MultiLabelTask
from service.tasks.spec import TaskSpec
from training.data import TaggedText, read_tags
from training.tasks import chance
from training.tasks.classification import Labels
from training.tasks.task import Predictions, Reader, Served

UNFITTED = 0.5
"""The threshold without dev data."""


@dataclass(frozen=True, slots=True)
class TagOutcome:
    """A text with the labels that hold, and the probability that was given to each label there is, shape [labels]."""

    reference: TaggedText
    labels: tuple[str, ...]
    scores: NDArray[np.float64]

    @classmethod
    def of(cls, reference: TaggedText, scores: Mapping[str, float]) -> TagOutcome:
        """Return the outcome of scores by label; as arrays, for there may be thousands for each of thousands texts."""
        return cls(reference, tuple(scores), np.fromiter(scores.values(), np.float64))

    @property
    def holds(self) -> NDArray[np.bool_]:
        """Whether each label holds, shape [labels]."""
        return np.fromiter((label in self.reference.labels for label in self.labels), np.bool_)

    def over(self, threshold: float) -> list[str]:
        """Return the labels whose probability is above a threshold."""
        return [self.labels[i] for i in np.flatnonzero(self.scores > threshold).tolist()]


class MultiLabel(Labels[TaggedText, TagOutcome]):
    """Labels that do not exclude one another."""

    served = MultiLabelTask
    layouts: ClassVar[Mapping[str, Reader]] = {
        "table": lambda path, report, labels, table: read_tags(path, table, labels, report)
    }
    main = "f1"
    right = "each label that holds"
    multi_label = True
    problem_type = "multi_label_classification"
    threshold = "label_threshold"

    def target(self, labels: Sequence[str], labelled: TaggedText) -> list[float]:
        return [float(label in labelled.labels) for label in labels]

    def outcome(self, reference: TaggedText, prediction: Any) -> TagOutcome:
        return TagOutcome.of(reference, prediction.scores)

    def scores(self, served: Served, outcomes: Sequence[TagOutcome]) -> dict[str, float]:
        return f1(outcomes, served.threshold)

    def predictions(self, served: Served, outcomes: Sequence[TagOutcome]) -> Predictions:
        return [outcome.over(served.threshold) for outcome in outcomes]

    def misfit(self, served: Served, outcomes: Sequence[TagOutcome]) -> str:
        scores = np.stack([outcome.scores for outcome in outcomes])
        holds = np.stack([outcome.holds for outcome in outcomes]).astype(np.float64)
        return chance.several_labels(served.labels, scores, holds)

    def fit(self, served: Served, outcomes: Sequence[Sequence[TagOutcome]]) -> Served:
        return served.with_threshold(best_threshold([outcome for each in outcomes for outcome in each]))

    def fitted(self, served: Served) -> dict[str, Any]:
        return {self.threshold: served.threshold}

    def answers(self, reference: TaggedText, prediction: Any) -> list[tuple[float, bool, float]]:
        holds = {label: label in reference.labels for label in prediction.scores}
        return [(p, holds[label], p if holds[label] else 1.0 - p) for label, p in prediction.scores.items()]

    def facts(self, spec: TaskSpec) -> list[str]:
        fitted = spec.label_threshold != UNFITTED
        over = f"{spec.label_threshold:.4f}, the best F1 on the dev set" if fitted else f"{UNFITTED}"
        return [f"labels may hold together: those scored over {over}"]


def f1(outcomes: Sequence[TagOutcome], threshold: float) -> dict[str, float]:
    """{"f1" (micro: over all decisions), "f1_macro" (mean over labels), "exact" (all labels right)} in percent, "rows".

    Args:
        threshold: a label is predicted where its probability is above it.
    """
    hits, predicted, holding = Counter[str](), Counter[str](), Counter[str]()
    exact = 0
    for outcome in outcomes:
        chosen = set(outcome.over(threshold))
        hits.update(chosen & outcome.reference.labels)
        predicted.update(chosen)
        holding.update(outcome.reference.labels)
        exact += chosen == outcome.reference.labels
    labels = [label for label in outcomes[0].labels if predicted[label] or holding[label]]
    each = [2 * hits[label] / (predicted[label] + holding[label]) for label in labels]
    decisions = predicted.total() + holding.total()
    return {
        "f1": 100.0 * 2 * hits.total() / decisions if decisions else 100.0,
        "f1_macro": 100.0 * sum(each) / len(each) if each else 100.0,
        "exact": 100.0 * exact / len(outcomes),
        "rows": len(outcomes),
    }


def best_threshold(outcomes: Sequence[TagOutcome]) -> float:
    """The probability over which labels are best taken, by micro F1: halfway between two that were given."""
    scores = np.concatenate([outcome.scores for outcome in outcomes])
    order = np.argsort(-scores, kind="stable")
    scores, hits = scores[order], np.cumsum(np.concatenate([outcome.holds for outcome in outcomes])[order])
    following = np.append(scores[1:], 0.0)
    reached = 2 * hits / (np.arange(1, len(scores) + 1) + hits[-1])
    reached[following == scores] = 0.0  # equal probabilities fall on the same side
    best = int(reached.argmax())
    return float(scores[best] + following[best]) / 2 if reached[best] > 0 else UNFITTED
