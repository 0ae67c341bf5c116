"""One label of several, for a text or a pair of texts."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from service.tasks import ClassificationExample, ClassificationTask
from service.tasks.spec import TaskSpec
from training.data import LabelledText, Report, read_nli, read_sst2, read_table
from training.errors import CheckpointError
from training.tasks import chance
from training.tasks.task import E, Out, Predictions, Reader, Row, Rows, Served, Task, texts

LAYOUT_OF_LABELS = {
    frozenset({"entailment", "neutral", "contradiction"}): "nli",
    frozenset({"negative", "positive"}): "sst2",
}
"""What data with these labels comes in, unless somebody says otherwise."""
KNOWN_LABELS = (
    *LAYOUT_OF_LABELS, frozenset({"positive", "neutral", "negative"}), frozenset({"entailment", "not_entailment"}),
)  # fmt: skip
"""Labels that are written in lower case, whatever the checkpoint has."""
ENTAILMENT = {"entailment", "contradiction"}
"""Labels that say how one text follows from another."""
UNNAMED = re.compile(r"((label|class)[ _-]?)?\d+", re.IGNORECASE)
"""Labels that say nothing but their number."""
SHOWN = 20
"""Most labels that a sentence lists, and that are scored one by one."""


class Labels(Task[E, Out]):
    """What tasks with labels share, whether or not those exclude one another."""

    name = "classification"
    head = "ForSequenceClassification"
    labelled = True

    def fits(self, config: Any) -> bool:
        return super().fits(config) and config.num_labels != 1

    def refusal(self, config: Any) -> str:
        if getattr(config, "problem_type", None) not in (None, self.problem_type):
            return f"problem_type {config.problem_type!r} cannot be served: it gives no scores of labels"
        return ""

    def labels(self, config: Any, given: Sequence[str] = (), recorded: Sequence[str] = ()) -> tuple[str, ...]:
        """Return the labels in the order of their ids; the well-known ones in lower case.

        Names that say nothing but their number are refused, unless somebody gave them or the run was on such labels.
        """
        count = config.num_labels
        labels = tuple(given) or tuple(str(config.id2label[i]) for i in range(count))
        if len(labels) != count:
            raise CheckpointError(f"--labels names {len(labels)} labels, the model has {count}")
        if len(set(labels)) < count:
            twice = [label for label, times in Counter(labels).items() if times > 1]
            raise CheckpointError(f"two labels have the same name: {some(twice)}")
        named = tuple(given) or labels == tuple(recorded)
        if not named and any(UNNAMED.fullmatch(label) for label in labels):
            example = "negative,positive" if count == 2 else "entailment,neutral,..."
            raise CheckpointError(
                f"the checkpoint's labels are {some(labels)}: which is which cannot be known; name them in the "
                f"order of their ids, e.g. --labels {example}"
            )
        lowered = tuple(label.lower() for label in labels)
        return lowered if frozenset(lowered) in KNOWN_LABELS else labels

    def layout(self, labels: Sequence[str]) -> str:
        known = LAYOUT_OF_LABELS.get(frozenset(labels), "table")
        return known if known in self.layouts else "table"

    def rows(self, served: Served, examples: Sequence[E], report: Report, **options: Any) -> Rows:
        """Return a row an example, with the target `labels`."""
        rows: list[Row] = []
        cut = 0
        for labelled, [row] in self.encoded(served, examples, report):
            rows.append(((row,), {"labels": self.target(served.labels, labelled)}))
            cut += row.truncated
        return rows, {"texts": cut}

    def target(self, labels: Sequence[str], labelled: E) -> Any:
        raise NotImplementedError

    def purpose(self, spec: TaskSpec) -> str:
        return f"the labels {some(spec.labels)}"

    def sample(self, served: Served, text: Callable[[int], str], words: int) -> ClassificationExample:
        """Return a text alone, or a pair where the labels say how one text follows from another."""
        first = text(words)
        return ClassificationExample(first, text(min(words, 12)) if set(served.labels) >= ENTAILMENT else None)

    def body(self, example: ClassificationExample) -> dict[str, Any]:
        return texts(example)

    def request(self, spec: TaskSpec, name: str, layout: Mapping[str, str]) -> tuple[str, dict[str, Any]]:
        labels = set(spec.labels)
        first = "A man is playing a guitar on stage."
        if labels >= ENTAILMENT:
            return "/classify", {"premise": first, "hypothesis": "Somebody makes music."}
        if layout.get("text_pair"):
            return "/classify", {"text": first, "text_pair": "Somebody makes music.", "model": name}
        chosen = {"positive", "negative"} <= labels
        return "/classify", {"text": "a gorgeous, witty, seductive movie"} | ({} if chosen else {"model": name})


@dataclass(frozen=True, slots=True)
class LabelOutcome:
    """A text's label and the one that was predicted."""

    label: str
    predicted: str


class Classification(Labels[LabelledText, LabelOutcome]):
    """Labels that exclude one another."""

    served = ClassificationTask
    layouts: ClassVar[Mapping[str, Reader]] = {
        "sst2": lambda path, report, labels, table: read_sst2(path, labels, report),
        "nli": lambda path, report, labels, table: read_nli(path, labels, report),
        "table": lambda path, report, labels, table: read_table(path, table, labels, report),
    }
    right = "the right label"
    problem_type = "single_label_classification"

    def target(self, labels: Sequence[str], labelled: LabelledText) -> int:
        return labels.index(labelled.label)

    def outcome(self, reference: LabelledText, prediction: Any) -> LabelOutcome:
        return LabelOutcome(reference.label, prediction.label)

    def scores(self, served: Served, outcomes: Sequence[LabelOutcome]) -> dict[str, float]:
        return accuracy([o.predicted for o in outcomes], [o.label for o in outcomes])

    def misfit(self, served: Served, outcomes: Sequence[LabelOutcome]) -> str:
        return chance.one_label(served.labels, [(outcome.predicted, outcome.label) for outcome in outcomes])

    def predictions(self, served: Served, outcomes: Sequence[LabelOutcome]) -> Predictions:
        return [outcome.predicted for outcome in outcomes]

    def taken(self, example: ClassificationExample, prediction: Any) -> LabelledText:
        return LabelledText(example, prediction.label)

    def answers(self, reference: LabelledText, prediction: Any) -> list[tuple[float, bool, float]]:
        return [(prediction.score, prediction.label == reference.label, prediction.scores[reference.label])]


def some(labels: Sequence[str]) -> str:
    """Return the names of labels, or the first of them and how many more there are."""
    more = f" and {len(labels) - SHOWN} more" if len(labels) > SHOWN else ""
    return ", ".join(labels[:SHOWN]) + more


def accuracy(predictions: Sequence[str], labels: Sequence[str]) -> dict[str, float]:
    """{"accuracy" in percent, "rows", and the recall of each label, in percent; of more than 20 labels its mean}."""
    hits: Counter[str] = Counter()
    for prediction, label in zip(predictions, labels, strict=True):
        hits[label] += prediction == label
    totals = Counter(labels)
    recall = {f"recall_{label}": 100.0 * hits[label] / totals[label] for label in sorted(totals)}
    if len(recall) > SHOWN:
        recall = {"recall": sum(recall.values()) / len(recall)}
    return {"accuracy": 100.0 * hits.total() / len(labels), "rows": len(labels), **recall}
