"""Labels in the wrong order are seen, and so is a score below chance; neither chance nor a weak model is accused."""

import itertools
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from service.tasks import ClassificationExample, ClassificationTask, MultipleChoiceExample
from tests.training.samples import load_tokenizer
from training.data import ChoiceQuestion, TaggedText
from training.tasks import chance
from training.tasks.classification import Classification, LabelOutcome
from training.tasks.multi_label import MultiLabel, TagOutcome
from training.tasks.multiple_choice import ChoiceOutcome, MultipleChoice

NLI = ("entailment", "neutral", "contradiction")


def answers(
    labels: tuple[str, ...], named: tuple[str, ...], count: int, right: float, seed: int = 0
) -> list[tuple[str, str]]:
    """What a model says that knows so many, guesses the rest, and whose labels may be named otherwise than they are."""
    generator = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        label = int(generator.integers(len(labels)))
        predicted = label if generator.random() < right else int(generator.integers(len(labels)))
        found.append((named[predicted], labels[label]))
    return found


@pytest.mark.parametrize("named", list(itertools.permutations(NLI)))
def test_each_order_of_three_labels(named: tuple[str, ...]) -> None:
    """Some leave a third of the answers right, which is no less than chance."""
    said = chance.one_label(named, answers(NLI, named, 300, 0.8))
    if named == NLI:
        assert said == ""
    else:
        assert "; with --labels entailment,neutral,contradiction accuracy is 8" in said


@pytest.mark.parametrize("count", [6, 8, 100, 10_000])
def test_two_labels_the_wrong_way_round(count: int) -> None:
    said = chance.one_label(("a", "b"), [("a", "b"), ("b", "a")] * (count // 2))
    assert said == "accuracy is 0.00, and chance is 50.00; with --labels b,a accuracy is 100.00"


def test_ten_labels_in_any_order() -> None:
    labels = tuple("abcdefghij")
    named = tuple(np.random.default_rng(1).permutation(list(labels)).tolist())
    assert f"with --labels {','.join(labels)} accuracy is" in chance.one_label(named, answers(labels, named, 400, 0.6))


def test_labels_that_no_text_has_stay_where_they_are() -> None:
    said = chance.one_label(("a", "b", "c", "d"), [("a", "c"), ("c", "a")] * 50)
    assert said.endswith("with --labels c,b,a,d accuracy is 100.00")


@pytest.mark.parametrize("labels", [("a", "b"), NLI, tuple("abcdefghij")])
def test_guesses_and_weak_models_pass(labels: tuple[str, ...]) -> None:
    """Of guesses, those that are among the worst of 20; of models that know something, none."""
    for count in (8, 20, 300):
        guessed = [chance.one_label(labels, answers(labels, labels, count, 0.0, seed)) for seed in range(60)]
        assert sum(map(bool, guessed)) <= 6
        weak = [chance.one_label(labels, answers(labels, labels, count, 0.5, seed)) for seed in range(20)]
        assert not any(weak)
    assert chance.one_label(labels, [(labels[0], label) for label in labels] * 50) == ""


def test_below_chance_with_no_order_that_fits() -> None:
    """Each label is taken for each other one, and never for itself."""
    labels = tuple("abcdefghijklmnopqrst")
    said = chance.one_label(labels, [(one, other) for one in labels for other in labels if one != other])
    assert said == (
        "accuracy is 0.00, and chance is 5.00; no other order of the labels fits: are they those of this data?"
    )


def test_thousands_of_labels_are_counted_without_their_order() -> None:
    labels = tuple(map(str, range(5000)))
    assert chance.one_label(labels, list(zip(labels, labels, strict=True))) == ""
    assert chance.one_label(labels, [("0", "1")] * 10) == ""


def test_how_improbable_a_score_is() -> None:
    assert chance.below(0, 5, 0.5)  # 1 in 32
    assert not chance.below(0, 4, 0.5)  # 1 in 16
    assert not chance.below(50, 100, 0.5)
    assert chance.below(4800, 10_000, 0.5)
    assert not chance.below(4990, 10_000, 0.5)
    assert not chance.below(0, 0, 0.5)


def test_the_tasks_ask() -> None:
    served = ClassificationTask(load_tokenizer(), ("positive", "negative"), 48)
    turned = [LabelOutcome("positive", "negative"), LabelOutcome("negative", "positive")] * 10
    assert "with --labels negative,positive accuracy is 100.00" in Classification().misfit(served, turned)
    assert Classification().misfit(served, [LabelOutcome("positive", "positive")] * 10) == ""

    question = ChoiceQuestion(MultipleChoiceExample("q", "p", ("a", "b", "c", "d")), 0, "x", "")
    outcomes = [ChoiceOutcome(question, 1, False)] * 20
    assert MultipleChoice().misfit(None, outcomes) == "accuracy is 0.00, and chance is 25.00"
    assert MultipleChoice().misfit(None, outcomes[:4]) == ""


@pytest.mark.parametrize(("named", "fits"), [("abc", True), ("bca", False), ("bac", False)])
def test_labels_that_may_hold_together(named: str, fits: bool) -> None:
    generator = np.random.default_rng(0)
    outcomes = []
    for _ in range(100):
        holds = [label for label in "abc" if generator.random() < 0.3]
        scores = {}
        for name, label in zip(named, "abc", strict=True):
            scores[name] = 0.5 * float(label in holds) + 0.5 * float(generator.random())
        outcomes.append(TagOutcome.of(TaggedText(ClassificationExample("x"), frozenset(holds)), scores))
    served: Any = SimpleNamespace(labels=tuple(named))
    said = MultiLabel().misfit(served, outcomes)
    assert (said == "") == fits
    assert fits or "; with --labels a,b,c it is 0." in said
    assert MultiLabel().misfit(served, outcomes[:4]) == ""
