"""How answers compare: the arithmetic, and what each task makes of it."""

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.tasks import (
    AnyTask,
    Classification,
    ClassificationTask,
    Difference,
    MultiLabelTask,
    MultipleChoicePrediction,
    MultipleChoiceTask,
    RankedText,
    Ranking,
    Score,
    ScoredOption,
    ScoreTask,
    SpanPrediction,
    SpanTask,
    ZeroShotTask,
    derived,
)
from service.tasks.difference import NONE, discordance, jaccard, largest, same_score, total_variation
from service.tasks.span import Answer, Stretch
from tests.service.tasks.test_task import TOKENIZER

LABELS = ("negative", "neutral", "positive")
ONE = ClassificationTask(TOKENIZER, LABELS, 32)
MULTI = MultiLabelTask(TOKENIZER, LABELS, 32)
SPAN = SpanTask(TOKENIZER, max_length=32, doc_stride=4)
SCORE = ScoreTask(TOKENIZER, 32)
(RERANK,) = derived(SCORE)
CHOICE = MultipleChoiceTask(TOKENIZER, 32)
ZERO = ZeroShotTask(ClassificationTask(TOKENIZER, ("entailment", "neutral", "contradiction"), 32))


def classified(*scores: float, labels: tuple[str, ...] = LABELS, holding: Any = None) -> Classification:
    by_label = dict(zip(labels, scores, strict=False))
    label = max(by_label, key=by_label.__getitem__)
    return Classification(label, by_label[label], by_label, False, holding)


def span(text: str | None, start: int = 0, score: float = 0.5, document: int = 0) -> SpanPrediction:
    if text is None:
        return SpanPrediction(None, (), score, 1.0, 1)
    answer = Answer(text, score, start, start + len(text), document, Stretch(0, 100))
    return SpanPrediction(answer, (answer,), 1 - score, -1.0, 1)


def ranking(*order: int) -> Ranking:
    return Ranking(tuple(RankedText(index, 1.0 / place) for place, index in enumerate(order, 1)), False)


def chosen(*scores: float) -> MultipleChoicePrediction:
    options = [ScoredOption(i, f"option {i}", score) for i, score in enumerate(scores)]
    answers = tuple(sorted(options, key=lambda option: -option.score))
    return MultipleChoicePrediction(answers[0], answers, False)


# ---- the arithmetic -------------------------------------------------------------------------------------------------


def test_total_variation() -> None:
    assert total_variation({"a": 0.7, "b": 0.3}, {"a": 0.4, "b": 0.6}) == pytest.approx(0.3)
    assert total_variation({"a": 1.0, "b": 0.0}, {"a": 0.0, "b": 1.0}) == 1.0
    # Of the best of each nothing is common: they may be the same distribution.
    assert total_variation({"a": 0.4}, {"b": 0.4}) == 0.0
    # a: 0.5 against 0.3, and what neither shows 0.5 against 0.7.
    assert total_variation({"a": 0.5, "b": 0.4}, {"a": 0.3, "c": 0.4}) == pytest.approx(0.2)


@given(st.lists(st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)), min_size=2, max_size=6), st.integers(1, 6))
def test_total_variation_of_the_best_few_is_no_more_than_of_all(pairs: list[tuple[float, float]], top: int) -> None:
    sums = [sum(each) for each in zip(*pairs, strict=True)]
    first, second = ({i: pair[side] / sums[side] for i, pair in enumerate(pairs)} for side in (0, 1))
    shown = [dict(sorted(each.items(), key=lambda item: -item[1])[:top]) for each in (first, second)]
    distance = total_variation(first, second)
    assert distance == pytest.approx(0.5 * sum(abs(first[i] - second[i]) for i in first))
    assert 0 <= total_variation(*shown) <= distance + 1e-9


def test_largest_and_jaccard() -> None:
    assert largest({"a": 0.9, "b": 0.2, "c": 0.5}, {"a": 0.8, "b": 0.6, "d": 0.9}) == pytest.approx(0.4)
    assert largest({"a": 0.9}, {"b": 0.1}) == 0.0
    assert jaccard(frozenset("abc"), frozenset("bcd")) == 0.5
    assert jaccard(frozenset(), frozenset()) == 1.0
    assert jaccard(frozenset("a"), frozenset()) == 0.0


@given(st.permutations(range(7)), st.integers(2, 7))
def test_discordance_is_the_share_of_pairs_in_another_order(order: list[int], top: int) -> None:
    first, second = list(range(7)), order[:top]
    pairs = list(itertools.combinations(range(len(second)), 2))
    found = discordance(first, second)
    assert found == pytest.approx(sum(second[i] > second[j] for i, j in pairs) / len(pairs))
    assert found == pytest.approx(discordance(second, first))


def test_discordance_of_rankings_with_nothing_in_common() -> None:
    assert discordance([1], [1]) == 0.0
    assert discordance([1], [2]) == 1.0
    assert discordance([1, 2], [3, 4]) == 1.0


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [(0.5, 0.54, True), (0.5, 0.56, False), (0.0, 0.04, True), (100.0, 104.0, True), (100.0, 106.0, False)],
)
def test_scores_that_are_near_are_the_same(first: float, second: float, same: bool) -> None:
    assert same_score(first, second) is same_score(second, first) is same


# ---- the tasks ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "answer"),
    [
        (ONE, classified(0.1, 0.2, 0.7)),
        (MULTI, classified(0.9, 0.8, 0.1, holding=("negative", "neutral"))),
        (SPAN, span("Ada", 4)),
        (SPAN, span(None)),
        (SCORE, Score(2.5, False)),
        (RERANK, ranking(2, 0, 1)),
        (CHOICE, chosen(0.2, 0.8)),
        (ZERO, classified(0.6, 0.4, labels=("sports", "politics"))),
    ],
)
def test_an_answer_agrees_with_itself(task: AnyTask, answer: Any) -> None:
    found = task.compare(answer, answer)
    assert found.agree
    assert found.flips == ()
    assert found.distance == 0.0
    assert found.overlap in (None, 1.0)
    assert found.exact in (None, True)


def test_a_label_that_changes_is_a_flip() -> None:
    found = ONE.compare(classified(0.1, 0.2, 0.7), classified(0.5, 0.2, 0.3))
    assert found == Difference(False, (("positive", "negative"),), pytest.approx(0.4))
    closer = ONE.compare(classified(0.1, 0.2, 0.7), classified(0.1, 0.3, 0.6))
    assert closer == Difference(True, (), pytest.approx(0.1))


def test_scores_that_are_no_distribution_have_a_distance_of_their_own() -> None:
    first, second = classified(0.9, 0.8, 0.1), classified(0.9, 0.5, 0.2)
    assert ONE.with_activation("sigmoid").compare(first, second).distance == pytest.approx(0.3)
    assert ONE.with_activation("identity").compare(first, second).distance is None


def test_the_flips_of_a_model_with_thousands_of_labels_are_one_pair() -> None:
    labels = tuple(f"kind {i}" for i in range(200))
    many = ClassificationTask(TOKENIZER, labels, 32)
    found = many.compare(classified(0.9, 0.1, labels=labels), classified(0.1, 0.9, labels=labels))
    assert found.flips == (("other", "other"),)


def test_each_label_that_one_alone_has_is_a_flip() -> None:
    first = classified(0.9, 0.8, 0.1, holding=("negative", "neutral"))
    second = classified(0.2, 0.8, 0.6, holding=("neutral", "positive"))
    found = MULTI.compare(first, second)
    assert found.flips == (("negative", NONE), (NONE, "positive"))
    assert (found.agree, found.distance, found.overlap) == (False, pytest.approx(0.7), pytest.approx(1 / 3))


def test_spans() -> None:
    same_words = SPAN.compare(span("in London", 10), span("in  london,", 40, 0.7))
    assert (same_words.agree, same_words.exact, same_words.overlap) == (True, False, 1.0)
    assert same_words.distance == pytest.approx(0.2)
    part = SPAN.compare(span("in London", 10), span("London", 13))  # 6 of 9 and 6 characters
    assert (part.agree, part.exact, part.overlap) == (False, False, pytest.approx(2 * 6 / 15))
    assert part.flips == ()
    assert SPAN.compare(span("London", 0), span("Paris", 50)).overlap == 0.0
    assert SPAN.compare(span("London", 0), span("Londo", 0, document=1)).overlap == 0.0


def test_no_answer_that_becomes_one_is_a_flip() -> None:
    found = SPAN.compare(span("London"), span(None, score=0.9))
    assert found == Difference(False, (("answer", "no_answer"),), pytest.approx(0.4), 0.0, False)
    assert SPAN.compare(span(None), span("London")).flips == (("no_answer", "answer"),)


def test_one_number() -> None:
    assert SCORE.compare(Score(2.5, False), Score(2.6, False)) == Difference(True, (), pytest.approx(0.1))
    assert SCORE.compare(Score(2.5, False), Score(-2.5, False)) == Difference(False, (), 5.0)


def test_an_order() -> None:
    found = RERANK.compare(ranking(0, 1, 2), ranking(0, 2, 1))
    assert (found.agree, found.distance) == (True, pytest.approx(1 / 3))
    found = RERANK.compare(ranking(0, 1, 2), ranking(2, 1, 0))
    assert (found.agree, found.distance) == (False, 1.0)


def test_an_option() -> None:
    found = CHOICE.compare(chosen(0.6, 0.3, 0.1), chosen(0.3, 0.6, 0.1))
    assert found == Difference(False, (), pytest.approx(0.3))


def test_no_flip_names_a_clients_label() -> None:
    labels = ("sports", "politics")
    found = ZERO.compare(classified(0.9, 0.8, labels=labels), classified(0.1, 0.7, labels=labels))
    assert found == Difference(False, (), pytest.approx(0.8))
