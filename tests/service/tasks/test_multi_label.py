"""Labels that do not exclude one another: sigmoids, a threshold, and a best label all the same."""

import numpy as np
import pytest

from service.engine.tokenizer import Tokenizer
from service.tasks import ClassificationExample, MultiLabelTask
from service.tasks.classification import Classification
from tests.bundles import make_tokenizer


def decode(*logits: float, threshold: float = 0.5, temperature: float = 1.0) -> Classification:
    task = MultiLabelTask(
        Tokenizer(make_tokenizer()), ("a", "b", "c"), 16, threshold=threshold, temperature=temperature
    )
    example = ClassificationExample("good film")
    [rows] = task.encode([example])
    return task.decode(example, rows, [(np.array(logits, dtype=np.float32),)])


def test_each_label_is_scored_alone() -> None:
    prediction = decode(0.0, np.log(3.0), -np.log(9.0))
    assert prediction.scores == pytest.approx({"a": 0.5, "b": 0.75, "c": 0.1})
    assert (prediction.label, prediction.score) == ("b", prediction.scores["b"])


def test_labels_over_the_threshold_hold_best_first() -> None:
    assert decode(0.1, 2.0, -1.0).labels == ("b", "a")
    assert decode(0.1, 2.0, -1.0, threshold=0.2).labels == ("b", "a", "c")
    assert decode(0.1, 2.0, -1.0, threshold=0.95).labels == ()
    assert decode(0.0, 2.0, -1.0).labels == ("b",)  # at the threshold is not over it


def test_a_best_label_is_named_where_none_holds() -> None:
    prediction = decode(-3.0, -2.0, -4.0)
    assert (prediction.labels, prediction.label) == ((), "b")


def test_large_logits_are_finite() -> None:
    assert decode(-1e4, 1e4, 0.0).scores == {"a": 0.0, "b": 1.0, "c": 0.5}


def test_another_threshold_leaves_the_task_as_it_was() -> None:
    task = MultiLabelTask(Tokenizer(make_tokenizer()), ("a", "b"), 16)
    assert task.with_threshold(0.3).threshold == 0.3
    assert task.threshold == 0.5


def test_the_temperature_divides_logits() -> None:
    assert decode(0.0, 2 * np.log(3.0), -2 * np.log(9.0), temperature=2.0).scores == pytest.approx(
        {"a": 0.5, "b": 0.75, "c": 0.1}
    )


@pytest.mark.parametrize("threshold", [0.0, 0.03, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_another_temperature_moves_the_threshold_too(threshold: float, temperature: float) -> None:
    """So the labels that hold are the same, and so is their order."""
    task = MultiLabelTask(Tokenizer(make_tokenizer()), ("a", "b", "c"), 16, threshold=threshold)
    warm = task.with_temperature(temperature)
    assert (task.threshold, task.temperature, warm.temperature) == (threshold, 1.0, temperature)
    example = ClassificationExample("good film")
    [rows] = task.encode([example])
    for logits in np.random.default_rng(0).normal(0.0, 3.0, (200, 3)).astype(np.float32):
        cold, hot = (each.decode(example, rows, [(logits,)]) for each in (task, warm))
        assert (cold.labels, cold.label) == (hot.labels, hot.label)
    assert warm.with_temperature(1.0).threshold == pytest.approx(threshold)


def test_top_k_leaves_the_best_labels_and_all_that_hold() -> None:
    task = MultiLabelTask(Tokenizer(make_tokenizer()), ("a", "b", "c"), 16)
    example = ClassificationExample("good film", top_k=1)
    [rows] = task.encode([example])
    found = task.decode(example, rows, [(np.array([1.0, 2.0, -1.0], dtype=np.float32),)])
    assert list(found.scores) == ["b"]
    assert found.labels == ("b", "a")


def test_other_scores_are_of_the_logits_as_they_come() -> None:
    task = MultiLabelTask(Tokenizer(make_tokenizer()), ("a", "b"), 16, temperature=3.0)
    assert task.with_activation("sigmoid") is task
    example = ClassificationExample("good film")
    [rows] = task.encode([example])
    found = task.with_activation("softmax").decode(example, rows, [(np.array([0.0, np.log(3.0)], dtype=np.float32),)])
    assert found.scores == pytest.approx({"a": 0.25, "b": 0.75})
    assert found.labels is None
