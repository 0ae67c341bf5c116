"""Zero-shot classification through a natural-language-inference model: one row a candidate label.

The text is the premise, the label put into a template the hypothesis (Yin et al. 2019, arXiv 1909.00161).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from pydantic import Field

from service.engine.batch import RowLogits
from service.engine.tokenizer import Tokenizer
from service.errors import InvalidInput
from service.tasks.classification import CONTRADICTION, ENTAILMENT, NLI, Classification, ClassificationTask
from service.tasks.difference import Difference, largest
from service.tasks.inputs import Input, Labels, Limit, Template, Text
from service.tasks.spec import TaskSpec
from service.tasks.task import Task, softmax
from service.tasks.texts import ClassificationExample, ClassificationRow
from service.tasks.truth import Gist, Truth

DEFAULT_TEMPLATE = "This example is about {}."


@dataclass(frozen=True, slots=True)
class ZeroShotExample:
    """A text and the labels to choose from; `hypothesis_template` holds one `{}` where the label goes."""

    text: str
    candidate_labels: tuple[str, ...]
    hypothesis_template: str = DEFAULT_TEMPLATE
    multi_label: bool = False

    @property
    def characters(self) -> int:
        """Length of its texts: what tokenising it costs."""
        labels = self.candidate_labels
        return len(self.text) + len(self.hypothesis_template) * len(labels) + sum(map(len, labels))

    @property
    def least_rows(self) -> int:
        """Rows that it is known to make before it is encoded."""
        return len(self.candidate_labels)


class ZeroShotInput(Input):
    """A text and the labels to choose from."""

    marks: ClassVar[frozenset[str]] = frozenset(("candidate_labels", "hypothesis_template", "multi_label"))
    group: ClassVar[str] = "zero-shot"
    limits: ClassVar[dict[str, Limit]] = {"candidate_labels": Limit("candidate labels", "max_candidate_labels")}
    text: Text
    candidate_labels: Labels
    hypothesis_template: Template = Field(default=DEFAULT_TEMPLATE, description="`{}` is where the label goes.")
    multi_label: bool = Field(default=False, description="Score each label alone, so that several may be right.")

    def example(self, shared: Any) -> ZeroShotExample:
        return ZeroShotExample(
            self.text, tuple(self.candidate_labels), self.hypothesis_template, multi_label=self.multi_label
        )


class ZeroShotTask(Task[ZeroShotExample, ClassificationRow, Classification]):
    """Scores each candidate label by the entailment of its hypothesis."""

    path = "/classify"
    inputs = (ZeroShotInput,)
    prediction = Classification

    def __init__(self, nli: ClassificationTask) -> None:
        self._nli = nli
        self.max_length, self.temperature = nli.max_length, nli.temperature
        self._entailment = nli.labels.index(ENTAILMENT)
        self._contradiction = nli.labels.index(CONTRADICTION)

    @classmethod
    def build(cls, spec: TaskSpec, tokenizer: Tokenizer) -> Self:
        return cls(ClassificationTask.build(spec, tokenizer))

    @staticmethod
    def serves(labels: Sequence[str]) -> bool:
        """Whether a model with these labels can do it."""
        return set(labels) >= NLI

    @property
    def takes(self) -> str:
        return "a text and candidate_labels"

    def suits(self, example: Any, *, named: bool) -> int:
        return 1 if isinstance(example, ZeroShotExample) else 0

    def widths(self, tokens: int) -> tuple[int, ...]:
        return self._nli.widths(tokens)

    def encode(self, examples: Sequence[ZeroShotExample]) -> list[list[ClassificationRow]]:
        """Encode one row a candidate label, in their order."""
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
        """Softmax of the entailment logits over the labels; with `multi_label`, or for a single label (which would win
        whatever the text), of entailment against contradiction for each label by itself."""
        entailed = [row[0].item(self._entailment) for row in logits]
        if example.multi_label or len(entailed) == 1:
            contradicted = [row[0].item(self._contradiction) for row in logits]
            pairs = zip(contradicted, entailed, strict=True)
            scores = [softmax(pair, self.temperature)[1] for pair in pairs]
        else:
            scores = softmax(entailed, self.temperature)
        by_label = dict(zip(example.candidate_labels, scores, strict=True))
        label = max(by_label, key=by_label.__getitem__)
        return Classification(label, by_label[label], by_label, any(row.truncated for row in rows))

    def observed(self, prediction: Classification) -> tuple[tuple[str, ...], float]:
        return ("zero_shot",), prediction.score

    def compare(self, first: Classification, second: Classification) -> Difference:
        """The same label is the same answer. The distance is the largest |difference| of a label's score: with
        `multi_label` they are no distribution. Labels are the client's, so no flip names them."""
        return Difference(first.label == second.label, distance=largest(first.scores, second.scores))

    def gist(self, prediction: Classification) -> Gist:
        return prediction.label

    def truth(self, given: Truth) -> Gist:
        label = given.only("label", "one of its candidate labels")
        if not isinstance(label, str):
            raise InvalidInput("must be one label", field="label")
        return label
