"""Scores are as high as answers are right: a temperature that is known is found again."""

from typing import Any

import numpy as np
import pytest

from service.engine.tokenizer import Tokenizer
from service.tasks import (
    ClassificationExample,
    ClassificationTask,
    MultiLabelTask,
    MultipleChoiceExample,
    MultipleChoiceTask,
    SpanExample,
    SpanTask,
)
from tests.bundles import make_tokenizer
from training.data import ChoiceQuestion, LabelledText, Question, TaggedText
from training.evaluate import calibration
from training.evaluate.calibration import Bin
from training.evaluate.runner import Inferred

TOKENIZER = Tokenizer(make_tokenizer())
LABELS = ("entailment", "neutral", "contradiction")
CONTEXT = "the man lives in paris and the dog of the woman in berlin was happy about the cat in the city of london"


def classified(count: int, temperature: float) -> tuple[ClassificationTask, list[Inferred]]:
    """Texts whose labels are drawn as often as softmax(logits / temperature) says."""
    task = ClassificationTask(TOKENIZER, LABELS, 16)
    generator = np.random.default_rng(0)
    (rows,) = task.encode([ClassificationExample("a film")])
    inferred = []
    for logits in generator.normal(0.0, 3.0, (count, 3)).astype(np.float32):
        shares = np.exp(logits / temperature)
        label = LABELS[generator.choice(3, p=shares / shares.sum())]
        inferred.append(Inferred(LabelledText(ClassificationExample("a film"), label), rows, [(logits,)]))
    return task, inferred


def spans(count: int, temperature: float) -> tuple[SpanTask, list[Inferred]]:
    """Questions whose best span is right as often as its score at that temperature says."""
    task = SpanTask(TOKENIZER, max_length=64, doc_stride=8)
    warm = task.with_temperature(temperature)
    generator = np.random.default_rng(0)
    example = SpanExample("who", (CONTEXT,), no_answer=False)
    (rows,) = task.encode([example])
    inferred = []
    for i in range(count):
        logits: list[Any] = [tuple(generator.normal(0.0, 3.0, (2, len(rows[0]))).astype(np.float32))]
        best = warm.decode(example, rows, logits).answers[0]
        text = best.text if generator.random() < best.score else "somebody else"
        inferred.append(Inferred(Question(str(i), "who", CONTEXT, ((text, 0),), False), rows, logits))
    return task, inferred


def choices(count: int, temperature: float) -> tuple[MultipleChoiceTask, list[Inferred]]:
    """Questions whose right option is drawn as often as softmax(logits / temperature) says."""
    task = MultipleChoiceTask(TOKENIZER, 32)
    generator = np.random.default_rng(0)
    example = MultipleChoiceExample("who", "the man", ("a", "b", "c", "d"))
    (rows,) = task.encode([example])
    inferred = []
    for logits in generator.normal(0.0, 3.0, (count, 4, 1)).astype(np.float32):
        shares = np.exp(logits[:, 0] / temperature)
        answer = int(generator.choice(4, p=shares / shares.sum()))
        inferred.append(Inferred(ChoiceQuestion(example, answer, "p", ""), rows, [(row,) for row in logits]))
    return task, inferred


def tagged(count: int, temperature: float) -> tuple[MultiLabelTask, list[Inferred]]:
    """Texts whose labels hold as often as sigmoid(logit / temperature) says."""
    task = MultiLabelTask(TOKENIZER, LABELS, 16)
    generator = np.random.default_rng(0)
    example = ClassificationExample("a film")
    (rows,) = task.encode([example])
    inferred = []
    for logits in generator.normal(0.0, 3.0, (count, 3)).astype(np.float32):
        holding = generator.random(3) < 1 / (1 + np.exp(-logits / temperature))
        labels = tuple(label for label, holds in zip(LABELS, holding, strict=True) if holds)
        inferred.append(Inferred(TaggedText(example, labels), rows, [(logits,)]))
    return task, inferred


@pytest.mark.parametrize(
    ("make", "count", "tolerance"),
    [(classified, 1000, 0.12), (spans, 300, 0.25), (choices, 500, 0.15), (tagged, 700, 0.12)],
)
@pytest.mark.parametrize("temperature", [0.6, 2.5])
def test_finds_the_temperature(make: Any, count: int, tolerance: float, temperature: float) -> None:
    task, inferred = make(count, temperature)
    fit = calibration.fit(task, inferred)
    assert fit is not None
    assert fit.temperature == pytest.approx(temperature, rel=tolerance)
    assert calibration.expected_error(fit.after) < calibration.expected_error(fit.before)
    answers = count * len(LABELS) if make is tagged else count
    assert sum(bin.count for bin in fit.before) == sum(bin.count for bin in fit.after) == answers


def test_labels_that_hold_together_are_an_answer_each() -> None:
    task, _ = tagged(1, 1.0)
    example = ClassificationExample("a film")
    (rows,) = task.encode([example])
    logits = np.array([np.log(3.0), -np.log(3.0), 0.0], np.float32)
    scored = calibration.score(task, [Inferred(TaggedText(example, ("entailment", "neutral")), rows, [(logits,)])])
    assert scored.score.tolist() == pytest.approx([0.75, 0.25, 0.5])
    assert scored.right.tolist() == [True, True, False]
    assert scored.loss == pytest.approx(-np.log([0.75, 0.25, 0.5]).mean())


def test_what_was_given_before_does_not_matter() -> None:
    task, inferred = classified(400, 2.0)
    assert calibration.fit(task.with_temperature(7.0), inferred) == calibration.fit(task, inferred)


def test_a_handful_says_nothing() -> None:
    task, inferred = classified(99, 2.0)
    assert calibration.fit(task, inferred) is None


def test_each_half_is_measured_under_the_others_temperature() -> None:
    """Where the halves want different temperatures, the diagram must not look good."""
    task, cold = classified(600, 0.4)
    _, hot = classified(600, 4.0)
    mixed = [item for pair in zip(cold, hot, strict=True) for item in pair]
    fit = calibration.fit(task, mixed)
    assert fit is not None
    assert calibration.expected_error(fit.after) > 15.0


def test_score_of_no_answer_at_all() -> None:
    task = SpanTask(TOKENIZER, max_length=64, doc_stride=8)
    example = SpanExample("who", (CONTEXT,), no_answer=False)
    (rows,) = task.encode([example])
    nothing = (np.full(len(rows[0]), -np.inf, np.float32),) * 2
    scored = calibration.score(task, [Inferred(Question("1", "who", CONTEXT, (("x", 0),), False), rows, [nothing])])
    assert (scored.score.tolist(), scored.right.tolist(), scored.loss) == ([0.0], [False], 0.0)


def test_bins_and_their_error() -> None:
    bins = calibration.bins(np.array([0.0, 0.05, 0.95, 1.0, 1.0]), np.array([False, True, True, True, False]))
    assert bins[0] == Bin(0.0, 1 / 15, 2, 0.025, 0.5)
    assert bins[1] == Bin(14 / 15, 1.0, 3, pytest.approx(2.95 / 3), pytest.approx(2 / 3))
    assert calibration.expected_error(bins) == pytest.approx(100 * (2 * 0.475 + 3 * (2.95 - 2) / 3) / 5)
