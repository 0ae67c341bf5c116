"""Any number of labels for a text or a pair of texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

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
    """A text with the labels that hold, and the probability that was given to each label there is."""

    reference: TaggedText
    scores: Mapping[str, float]

    def over(self, threshold: float) -> list[str]:
        """Return the labels whose probability is above a threshold."""
        return [label for label, score in self.scores.items() if score > threshold]


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
        return TagOutcome(reference, prediction.scores)

    def scores(self, served: Served, outcomes: Sequence[TagOutcome]) -> dict[str, float]:
        return f1(outcomes, served.threshold)

    def predictions(self, served: Served, outcomes: Sequence[TagOutcome]) -> Predictions:
        return [outcome.over(served.threshold) for outcome in outcomes]

    def misfit(self, served: Served, outcomes: Sequence[TagOutcome]) -> str:
        scores = [[outcome.scores[label] for label in served.labels] for outcome in outcomes]
        holds = [[float(label in outcome.reference.labels) for label in served.labels] for outcome in outcomes]
        return chance.several_labels(served.labels, np.array(scores), np.array(holds))

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
    labels = [label for label in outcomes[0].scores if predicted[label] or holding[label]]
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
    ordered = sorted(
        ((score, label in outcome.reference.labels) for outcome in outcomes for label, score in outcome.scores.items()),
        reverse=True,
    )
    holding = sum(holds for _, holds in ordered)
    hits, best, threshold = 0, 0.0, 0.5
    for taken, (score, holds) in enumerate(ordered, start=1):
        hits += holds
        following = ordered[taken][0] if taken < len(ordered) else 0.0
        reached = 2 * hits / (taken + holding)
        if reached > best and following < score:  # equal probabilities fall on the same side
            best, threshold = reached, (score + following) / 2
    return threshold
