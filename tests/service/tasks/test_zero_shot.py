"""Candidate labels as hypotheses."""

import numpy as np
import pytest

from service.engine.tokenizer import Tokenizer
from service.tasks import ClassificationExample, ClassificationTask, ZeroShotExample, ZeroShotTask
from service.tasks.task import softmax
from tests.backends import LINES, backend

NLI = ClassificationTask(Tokenizer(backend("bert")), ("entailment", "neutral", "contradiction"), 64)
TASK = ZeroShotTask(NLI)
LOGITS = np.array([[1.0, 0.0, -1.0], [3.0, 0.0, 4.0], [2.0, 9.0, 0.0]], np.float32)


def test_each_label_is_a_row_with_its_hypothesis() -> None:
    examples = [
        ZeroShotExample("the fox", ("dogs", "films")),
        ZeroShotExample("the bug", ("towns",), hypothesis_template="It says {} and {0} of {}!"),
    ]
    first, second = TASK.encode(examples)
    pairs = [
        ClassificationExample("the fox", "This example is about dogs."),
        ClassificationExample("the fox", "This example is about films."),
        ClassificationExample("the bug", "It says towns and {0} of towns!"),
    ]
    expected = [row.input_ids.tolist() for (row,) in NLI.encode(pairs)]
    assert [row.input_ids.tolist() for row in (*first, *second)] == expected
    assert (len(first), len(second)) == (2, 1)


def test_braces_in_a_label_are_text() -> None:
    """str.format would raise, or reach into an object."""
    (rows,) = TASK.encode([ZeroShotExample("the fox", ("{0.__class__}", "a}b"))])
    assert len(rows) == 2


def test_one_label_wins_in_all() -> None:
    example = ZeroShotExample("the fox", ("a", "b", "c"))
    (rows,) = TASK.encode([example])
    answer = TASK.decode(example, rows, [(row,) for row in LOGITS])
    assert answer.label == "b"
    assert tuple(answer.scores) == ("a", "b", "c")
    assert list(answer.scores.values()) == pytest.approx(softmax([1.0, 3.0, 2.0]))
    assert answer.score == answer.scores["b"]


def test_multi_label_scores_each_alone() -> None:
    example = ZeroShotExample("the fox", ("a", "b", "c"), multi_label=True)
    (rows,) = TASK.encode([example])
    answer = TASK.decode(example, rows, [(row,) for row in LOGITS])
    against = [softmax([row[2].item(), row[0].item()])[1] for row in LOGITS]
    assert list(answer.scores.values()) == pytest.approx(against)
    assert answer.label == "a"


def test_scores_take_the_nli_models_temperature() -> None:
    warm = ZeroShotTask(NLI.with_temperature(2.0))
    for multi_label in (False, True):
        example = ZeroShotExample("the fox", ("a", "b", "c"), multi_label=multi_label)
        (rows,) = warm.encode([example])
        expected = TASK.decode(example, rows, [(row / 2,) for row in LOGITS])
        assert warm.decode(example, rows, [(row,) for row in LOGITS]) == expected


def test_a_lone_label_does_not_win_whatever_the_text() -> None:
    example = ZeroShotExample("the fox", ("a",))
    (rows,) = TASK.encode([example])
    answer = TASK.decode(example, rows, [(LOGITS[1],)])
    assert answer.score == pytest.approx(softmax([4.0, 3.0])[1])


@pytest.mark.parametrize("multi_label", [False, True])
def test_extreme_logits_are_finite(multi_label: bool) -> None:
    example = ZeroShotExample("the fox", ("a", "b"), multi_label=multi_label)
    (rows,) = TASK.encode([example])
    answer = TASK.decode(
        example, rows, [(np.array([-100, 0, 1], np.float32),), (np.array([1e4, 0, -1e4], np.float32),)]
    )
    assert np.isfinite(list(answer.scores.values())).all()
    assert answer.label == "b"


def test_cut_text_is_told() -> None:
    example = ZeroShotExample(" ".join(LINES), ("a", "b"))
    (rows,) = TASK.encode([example])
    assert all(len(row) == 64 for row in rows)
    assert TASK.decode(example, rows, [(LOGITS[0],), (LOGITS[1],)]).truncated


def test_order_of_the_nli_labels_is_the_models_own() -> None:
    task = ZeroShotTask(ClassificationTask(Tokenizer(backend("bert")), ("contradiction", "entailment", "neutral"), 64))
    example = ZeroShotExample("the fox", ("a", "b"))
    (rows,) = task.encode([example])
    assert (
        task.decode(example, rows, [(np.array([9, 0, 9], np.float32),), (np.array([0, 1, 0], np.float32),)]).label
        == "b"
    )


def test_serves_only_models_that_entail_and_contradict() -> None:
    assert ZeroShotTask.serves(NLI.labels)
    assert not ZeroShotTask.serves(("entailment", "neutral"))
    assert not ZeroShotTask.serves(("positive", "negative"))
