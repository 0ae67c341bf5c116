"""One number a row: as it comes or through a sigmoid, and texts put in order by it."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.engine.tokenizer import Tokenizer
from service.tasks import (
    ClassificationExample,
    ClassificationTask,
    RankedText,
    RerankExample,
    RerankTask,
    Score,
    ScoreTask,
    TaskSpec,
)
from service.tasks.task import sigmoid
from tests.bundles import make_tokenizer

TOKENIZER = Tokenizer(make_tokenizer())
RAW, RELEVANCE = ScoreTask(TOKENIZER, 16), ScoreTask(TOKENIZER, 16, activation="sigmoid")
PAIR = ClassificationExample("a dog", "a cat")
TEXTS = RerankExample("a dog", ("a cat", "the dog", "good film"))


def scored(task: ScoreTask, logit: float, example: ClassificationExample = PAIR) -> Score:
    ((row,),) = task.encode([example])
    return task.decode(example, [row], [(np.array([logit], np.float32),)])


def ranked(task: ScoreTask, *logits: float, top_k: int | None = None) -> tuple[RankedText, ...]:
    example = RerankExample(TEXTS.query, TEXTS.texts, top_k)
    reranking = RerankTask(task)
    (rows,) = reranking.encode([example])
    return reranking.decode(example, rows, [(np.array([logit], np.float32),) for logit in logits]).ranking


def test_the_number_comes_as_it_is_or_through_a_sigmoid_and_never_a_softmax() -> None:
    assert scored(RAW, -3.5) == Score(-3.5, truncated=False)
    assert scored(RELEVANCE, math.log(3)).score == pytest.approx(0.75)
    assert scored(RELEVANCE, -3.0).score == pytest.approx(1 / (1 + math.exp(3)))  # a softmax would say 1


def test_another_activation_leaves_the_task_as_it_was() -> None:
    assert scored(RAW.with_activation("sigmoid"), 0.0).score == 0.5
    assert scored(RAW, 0.0).score == 0.0
    ranking = RerankTask(RAW).with_activation("sigmoid")
    assert ranking.decode(RerankExample("q", ("a",)), [], [(np.zeros(1, np.float32),)]).ranking[0].score == 0.5


def test_rows_are_those_of_a_classification() -> None:
    examples = [PAIR, ClassificationExample("good film"), ClassificationExample("the dog " * 20, "a cat")]
    theirs = ClassificationTask(TOKENIZER, ("a", "b"), 16).encode(examples)
    for (row,), (other,) in zip(RAW.encode(examples), theirs, strict=True):
        assert row.input_ids.tolist() == other.input_ids.tolist()
        assert row.token_type_ids.tolist() == other.token_type_ids.tolist()
    assert scored(RAW, 1.0, examples[2]).truncated


def test_each_text_follows_the_query() -> None:
    (rows,) = RerankTask(RAW).encode([TEXTS])
    pairs = [[row] for row in rows]
    expected = RAW.encode([ClassificationExample(TEXTS.query, text) for text in TEXTS.texts])
    assert [row.input_ids.tolist() for (row,) in pairs] == [row.input_ids.tolist() for (row,) in expected]


def test_a_manifest_makes_a_reranking_too() -> None:
    task = RerankTask.build(TaskSpec(task="score", max_length=16, activation="sigmoid"), TOKENIZER)
    assert task.decode(TEXTS, [], [(np.zeros(1, np.float32),)] * 3).ranking[0] == RankedText(0, 0.5)


def test_texts_are_in_order_best_first() -> None:
    assert [each.index for each in ranked(RAW, -1.0, 2.0, 0.5)] == [1, 2, 0]
    assert [each.score for each in ranked(RAW, -1.0, 2.0, 0.5)] == [2.0, 0.5, -1.0]
    assert [each.index for each in ranked(RAW, 1.0, 1.0, 2.0)] == [2, 0, 1]  # of equal ones the first
    assert [each.index for each in ranked(RAW, -1.0, 2.0, 0.5, top_k=2)] == [1, 2]
    assert len(ranked(RAW, -1.0, 2.0, 0.5, top_k=9)) == 3


def test_scores_that_round_to_one_have_an_order_still() -> None:
    found = ranked(RELEVANCE, 50.0, 60.0, 55.0)
    assert [each.score for each in found] == [1.0, 1.0, 1.0]
    assert [each.index for each in found] == [1, 2, 0]


def test_a_ranking_says_that_a_text_was_cut() -> None:
    reranking = RerankTask(RAW)
    example = RerankExample("a dog", ("a cat", "the dog " * 20))
    (rows,) = reranking.encode([example])
    logits = [(np.zeros(1, np.float32),)] * 2
    assert reranking.decode(example, rows, logits).truncated
    assert not reranking.decode(TEXTS, reranking.encode([TEXTS])[0], [*logits, logits[0]]).truncated


def test_a_score_has_no_labels_to_choose_from() -> None:
    assert RAW.suits(ClassificationExample("a", top_k=1), named=True) == 0


@given(st.floats(-1e4, 1e4))
def test_a_sigmoid_is_finite_and_in_order(logit: float) -> None:
    assert 0.0 <= sigmoid(logit) <= 1.0
    assert sigmoid(logit) + sigmoid(-logit) == pytest.approx(1.0)
    if abs(logit) < 30:
        assert sigmoid(logit) == pytest.approx(1 / (1 + math.exp(-logit)))
