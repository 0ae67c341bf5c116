"""One number for a text or a pair of texts: a regression, or the relevance of a passage to a query.

A checkpoint of one label has its number as it comes or through a sigmoid, and says which in one of many ways, or not at
all. Owns those ways, and the scores of scores: correlations, and how well queries' texts are put in order.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from service.tasks import ClassificationExample, ScoreTask
from service.tasks.spec import TaskSpec
from training import folders
from training.data import Report, ScoredText, read_scores
from training.errors import CheckpointError
from training.tasks.task import Predictions, Reader, Row, Rows, Served, Task, texts

ACTIVATIONS = {"Sigmoid": "sigmoid", "Identity": "identity"}
"""By the class of torch, as sentence-transformers names them."""
LOSSES = {"identity": "regression", "sigmoid": "multi_label_classification"}
"""The problem type with the loss of each: mean squared error; binary cross-entropy, of one label."""
BY_PROBLEM = {problem: activation for activation, problem in LOSSES.items()}
USUAL = "sigmoid"
"""What is taken where a checkpoint says nothing: so do sentence-transformers, transformers' pipeline and TEI."""
IMPROBABLE = 1.6449
"""Standard deviations below which one guess in twenty falls."""


@dataclass(frozen=True, slots=True)
class ScoreOutcome:
    """An example with its number, and the score that was given."""

    reference: ScoredText
    score: float


class Score(Task[ScoredText, ScoreOutcome]):
    """One label: no probability, and no softmax."""

    name = "score"
    served = ScoreTask
    head = "ForSequenceClassification"
    outputs = 1
    layouts: ClassVar[Mapping[str, Reader]] = {
        "table": lambda path, report, labels, table: read_scores(path, table, report)
    }
    main = "spearman"
    right = "nothing"
    smoothing = False
    alike = "is the correlation with fp32"

    def fits(self, config: Any) -> bool:
        return super().fits(config) and config.num_labels == 1

    def set_head(self, config: Any, spec: TaskSpec) -> None:
        super().set_head(config, spec)
        config.problem_type = LOSSES[spec.activation]
        # What sentence-transformers goes by, for which a problem type says nothing.
        name = {"identity": "torch.nn.modules.linear.Identity", "sigmoid": "torch.nn.modules.activation.Sigmoid"}
        config.sentence_transformers = {"activation_fn": name[spec.activation]}

    def labels(self, config: Any, given: Sequence[str] = (), recorded: Sequence[str] = ()) -> tuple[str, ...]:
        if len(given) > 1:
            raise CheckpointError(f"--labels names {len(given)} labels, the model has 1")
        return tuple(given) or (str(config.id2label[0]),)

    def settings(self, config: Any, folder: Path) -> dict[str, Any]:
        return {"activation": said(config, folder) or USUAL}

    def doubts(self, config: Any, folder: Path) -> list[str]:
        if said(config, folder):
            return []
        return [
            "it has one label, and does not say what its score goes through: a sigmoid is taken, as by "
            "sentence-transformers' CrossEncoder; --activation identity serves the number as it comes"
        ]

    def rows(self, served: Served, examples: Sequence[ScoredText], report: Report, **options: Any) -> Rows:
        """Return a row an example, with the target `labels`: the number, or for a sigmoid an array of it."""
        rows: list[Row] = []
        cut = 0
        for scored, [row] in self.encoded(served, examples, report):
            if served.activation == "sigmoid" and not 0.0 <= scored.score <= 1.0:
                report.add(scored.place, "a number that no sigmoid gives", f"{scored.score:g} is not in 0 to 1")
                continue
            target = scored.score if served.activation == "identity" else [scored.score]
            rows.append(((row,), {"labels": target}))
            cut += row.truncated
        return rows, {"texts": cut}

    def place(self, example: ScoredText) -> str:
        return example.place

    def outcome(self, reference: ScoredText, prediction: Any) -> ScoreOutcome:
        return ScoreOutcome(reference, prediction.score)

    def scores(self, served: Served, outcomes: Sequence[ScoreOutcome]) -> dict[str, float]:
        return correlations(outcomes)

    def misfit(self, served: Served, outcomes: Sequence[ScoreOutcome]) -> str:
        reached = correlations(outcomes)[self.main] / 100.0
        # Fisher 1915: the inverse hyperbolic tangent of a correlation has a variance of 1 / (n - 3).
        if reached >= 0.0 or len(outcomes) < 4:
            return ""
        if math.atanh(max(reached, -0.999999)) * math.sqrt(len(outcomes) - 3) > -IMPROBABLE:
            return ""
        return (
            f"the rank correlation is {100.0 * reached:.2f}, below the 0 of guesses: are the numbers the other way up?"
        )

    def predictions(self, served: Served, outcomes: Sequence[ScoreOutcome]) -> Predictions:
        return [outcome.score for outcome in outcomes]

    def with_answer(self, examples: Sequence[ScoredText]) -> Sequence[ScoredText]:
        return ()

    def answers(self, reference: ScoredText, prediction: Any) -> list[tuple[float, bool, float]]:
        return []

    def sample(self, served: Served, text: Callable[[int], str], words: int) -> ClassificationExample:
        """Return a pair: of longer texts the second one holds the first, as what answers a query holds its words."""
        first, second = text(min(words, 8)), text(words)
        return ClassificationExample(first, f"{second} {first}" if words > 8 else second)

    def agreement(
        self, served: Served, asked: Sequence[Any], reference: Sequence[Any], found: Sequence[Any]
    ) -> tuple[float, list[float]]:
        """Return 100 times the correlation of the scores, and their differences: of 1 under a sigmoid, else of the
        range of the reference's."""
        ours, theirs = (np.array([each.score for each in some], dtype=np.float64) for some in (found, reference))
        scale = 1.0 if served.activation == "sigmoid" else float(np.ptp(theirs)) or 1.0
        return 100.0 * pearson(ours, theirs), (np.abs(ours - theirs) / scale).tolist()

    def body(self, example: ClassificationExample) -> dict[str, Any]:
        return texts(example)

    def purpose(self, spec: TaskSpec) -> str:
        return "a score of a text or a pair of texts"

    def request(self, spec: TaskSpec, name: str, layout: Mapping[str, str]) -> tuple[str, dict[str, Any]]:
        if layout and not layout.get("text_pair"):
            return "/classify", {"text": "a gorgeous, witty, seductive movie", "model": name}
        if spec.activation == "sigmoid":
            texts = ["The Eiffel Tower is in Paris.", "Berlin is the capital of Germany."]
            return "/classify", {"query": "Where is the Eiffel Tower?", "texts": texts, "model": name}
        pair = {"text": "A man is playing a guitar on stage.", "text_pair": "Somebody makes music."}
        return "/classify", pair | {"model": name}

    def facts(self, spec: TaskSpec) -> list[str]:
        through = "as it comes" if spec.activation == "identity" else "through a sigmoid: 0 to 1"
        return [f"the score is the model's number {through}; no temperature is fitted, for it is no probability"]


def said(config: Any, folder: Path) -> str:
    """Return what a checkpoint says that its number goes through, `identity` or `sigmoid`; empty where it says nothing.

    Raises:
        CheckpointError: it says something else.
    """
    other = folder / folders.SENTENCE_TRANSFORMERS
    try:
        written = json.loads(other.read_text(encoding="utf-8")) if other.is_file() else {}
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{other}: {error}") from error
    places = (
        written, getattr(config, "sentence_transformers", None),
        {"activation_fn": getattr(config, "sbert_ce_default_activation_function", None)},
    )  # fmt: skip
    named = next((found for each in places if isinstance(each, dict) and (found := each.get("activation_fn"))), "")
    kind = str(named).rpartition(".")[2]
    if kind and kind not in ACTIVATIONS:
        raise CheckpointError(
            f"{folder}: its scores go through {named}, which is not served: choose with --activation identity or "
            "--activation sigmoid"
        )
    return ACTIVATIONS.get(kind, "") or BY_PROBLEM.get(getattr(config, "problem_type", None) or "", "")


def correlations(outcomes: Sequence[ScoreOutcome]) -> dict[str, float]:
    """{"spearman", "pearson": correlations times 100, 0 where either side has one value alone; "rows"}; where the right
    numbers are 0 and 1, "average_precision" too, and "mrr" (mean reciprocal rank of the first right text of each query)
    where texts share a query; in percent."""
    given = np.array([outcome.score for outcome in outcomes], dtype=np.float64)
    right = np.array([outcome.reference.score for outcome in outcomes], dtype=np.float64)
    found = {
        "spearman": 100.0 * pearson(ranks(given), ranks(right)),
        "pearson": 100.0 * pearson(given, right),
        "rows": len(outcomes),
    }
    if set(right.tolist()) == {0.0, 1.0}:
        found["average_precision"] = 100.0 * average_precision(given, right)
        queries = defaultdict(list)
        for i, outcome in enumerate(outcomes):
            queries[outcome.reference.example.text].append(i)
        groups = [(given[of], right[of]) for of in queries.values() if 0.0 < right[of].mean() < 1.0]
        if groups:
            found["mrr"] = 100.0 * sum(reciprocal_rank(*group) for group in groups) / len(groups)
    return found


def ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Places in ascending order, from 0; equal values have the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    after = np.cumsum(counts)
    means: NDArray[np.float64] = after - (counts + 1) / 2.0
    return means[inverse]


def pearson(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """The correlation; 0 where either has one value alone."""
    one, other = one - one.mean(), other - other.mean()
    length = math.sqrt(float(one @ one) * float(other @ other))
    return float(one @ other) / length if length else 0.0


def average_precision(given: NDArray[np.float64], right: NDArray[np.float64]) -> float:
    """The mean, over the right ones, of the share that is right among what scores as high or higher."""
    order = np.argsort(-given, kind="stable")
    given, right = given[order], right[order]
    as_high = np.searchsorted(-given, -given, side="right")
    return float((np.cumsum(right)[as_high - 1] / as_high)[right == 1.0].mean())


def reciprocal_rank(given: NDArray[np.float64], right: NDArray[np.float64]) -> float:
    """1 over the place of the first right one, from 1; a wrong one that scores the same stands before it."""
    best = given[right == 1.0].max()
    return 1.0 / (1 + int((given[right == 0.0] >= best).sum()))
