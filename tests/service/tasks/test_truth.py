"""The right answer that a client sends later: what each task takes, and when it is the one that was given."""

from typing import Any

import pytest
from pydantic import ValidationError

from service.errors import InvalidInput
from service.tasks import AnyTask, Score, Truth
from service.tasks.words import plain
from tests.service.tasks.test_difference import (
    CHOICE,
    MULTI,
    ONE,
    RERANK,
    SCORE,
    SPAN,
    ZERO,
    chosen,
    classified,
    ranking,
    span,
)

GIVEN = [
    (ONE, classified(0.1, 0.2, 0.7), {"label": "positive"}, {"label": "negative"}),
    (
        MULTI,
        classified(0.9, 0.8, 0.1, holding=("neutral", "negative")),
        {"label": ["negative", "neutral"]},
        {"label": []},
    ),
    (MULTI, classified(0.9, 0.1, 0.1, holding=("negative",)), {"label": "negative"}, {"label": ["neutral"]}),
    (MULTI, classified(0.1, 0.1, 0.1, holding=()), {"label": []}, {"label": "neutral"}),
    (SPAN, span("Ada Lovelace"), {"answer": " ada  lovelace."}, {"answer": "Ada"}),
    (SPAN, span(None), {"answer": None}, {"answer": "Ada"}),
    (SCORE, Score(2.5, False), {"score": 2.5}, {"score": 3}),
    (RERANK, ranking(2, 0, 1), {"answer": 2}, {"answer": 0}),
    (CHOICE, chosen(0.2, 0.8), {"answer": 1}, {"answer": 0}),
    (ZERO, classified(0.6, 0.4, labels=("sports", "politics")), {"label": "sports"}, {"label": "politics"}),
]


@pytest.mark.parametrize(("task", "answer", "right", "wrong"), GIVEN)
def test_what_is_right_and_what_is_wrong(task: AnyTask, answer: Any, right: Any, wrong: Any) -> None:
    assert task.truth(Truth(**right)) == task.gist(answer)
    assert task.truth(Truth(**wrong)) != task.gist(answer)


@pytest.mark.parametrize("task", [ONE, MULTI, SPAN, SCORE, RERANK, CHOICE, ZERO])
def test_each_takes_one_field(task: AnyTask) -> None:
    fields: list[dict[str, Any]] = [{"label": "positive"}, {"answer": "Ada"}, {"answer": 1}, {"score": 1.0}]
    taken, refused = [], []
    for given in [{}, *fields, {"label": "positive", "score": 1.0}]:
        try:
            task.truth(Truth(**given))
        except InvalidInput as error:
            refused.append(error.field)
        else:
            taken.append(given)
    assert len(taken) == 1
    assert set(refused) <= set(Truth.model_fields)


@pytest.mark.parametrize("given", [{"label": "great"}, {"label": ["positive", "great"]}, {"label": None}])
def test_a_label_that_the_model_does_not_have(given: dict[str, Any]) -> None:
    for task in (ONE, MULTI):
        with pytest.raises(InvalidInput):
            task.truth(Truth(**given))


def test_null_is_no_number_and_no_label() -> None:
    for task, given in ((SCORE, {"score": None}), (ZERO, {"label": None}), (ZERO, {"label": ["sports"]})):
        with pytest.raises(InvalidInput):
            task.truth(Truth(**given))


@pytest.mark.parametrize(
    "given", [{"score": float("nan")}, {"label": ""}, {"answer": "a\0b"}, {"other": 1}, {"answer": True}]
)
def test_what_is_no_answer_at_all(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Truth(**given)


def test_words_in_one_form() -> None:
    assert plain("  The  U.K.! ") == plain("the u k") == "the u k"
    assert plain("ＡＤＡ") == "ada"
    assert plain("$ ") == "$"
