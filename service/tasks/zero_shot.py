"""Zero-shot classification through a natural-language-inference model: one row a candidate label.

The text is the premise, the label put into a template the hypothesis (Yin et al. 2019, arXiv 1909.00161).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from service.tasks.classification import Classification, ClassificationExample, ClassificationRow, ClassificationTask
from service.tasks.task import RowLogits, softmax

ENTAILMENT, CONTRADICTION = "entailment", "contradiction"
DEFAULT_TEMPLATE = "This example is about {}."


@dataclass(frozen=True, slots=True)
class ZeroShotExample:
    """A text and the labels to choose from; `hypothesis_template` holds one `{}` where the label goes."""

    text: str
    candidate_labels: tuple[str, ...]
    hypothesis_template: str = DEFAULT_TEMPLATE
    multi_label: bool = False


class ZeroShotTask:
    """Scores each candidate label by the entailment of its hypothesis."""

    def __init__(self, nli: ClassificationTask) -> None:
        self._nli = nli
        self._entailment = nli.labels.index(ENTAILMENT)
        self._contradiction = nli.labels.index(CONTRADICTION)

    @staticmethod
    def serves(labels: Sequence[str]) -> bool:
        """Whether a model with these labels can do it."""
        return ENTAILMENT in labels and CONTRADICTION in labels

    def encode(self, examples: Sequence[ZeroShotExample]) -> list[list[ClassificationRow]]:
        """One row a candidate label, in their order."""
        pairs = [
            ClassificationExample(e.text, e.hypothesis_template.replace("{}", label))
            for e in examples
            for label in e.candidate_labels
        ]
        rows = iter(self._nli.encode(pairs))
        return [[next(rows)[0] for _ in e.candidate_labels] for e in examples]

    def decode(
        self, example: ZeroShotExample, rows: Sequence[ClassificationRow], logits: Sequence[RowLogits]
    ) -> Classification:
        """Softmax of the entailment logits over the labels; with `multi_label`, or for a lone label (which would win
        whatever the text), of entailment against contradiction for each label alone."""
        entailed = [row[0].item(self._entailment) for row in logits]
        if example.multi_label or len(entailed) == 1:
            contradicted = [row[0].item(self._contradiction) for row in logits]
            pairs = zip(contradicted, entailed, strict=True)
            scores = [softmax(pair, self._nli.temperature)[1] for pair in pairs]
        else:
            scores = softmax(entailed, self._nli.temperature)
        by_label = dict(zip(example.candidate_labels, scores, strict=True))
        label = max(by_label, key=by_label.__getitem__)
        return Classification(label, by_label[label], by_label, any(row.truncated for row in rows))
