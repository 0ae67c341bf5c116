"""Rows of a text or a pair, cut as Hugging Face cuts them, and probabilities that are always numbers."""

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from service.engine.tokenizer import Tokenizer
from service.tasks import ClassificationExample, ClassificationTask
from service.tasks.task import softmax
from tests.backends import FAMILIES, LINES, TEXT, backend

LABELS = ("entailment", "neutral", "contradiction")
TOKENIZERS = {family: Tokenizer(backend(family)) for family in FAMILIES}
WORDS = st.lists(st.sampled_from(" ".join(LINES).split()), max_size=30).map(" ".join)


@pytest.mark.parametrize("family", FAMILIES)
@given(first=st.one_of(TEXT, WORDS), second=st.one_of(st.none(), TEXT, WORDS), max_length=st.integers(8, 40))
@settings(deadline=None, max_examples=50)
def test_rows_equal_hugging_faces_longest_first(family: str, first: str, second: str | None, max_length: int) -> None:
    # SentencePiece, on its own, takes the piece for the special token; ours does not (test_tokenizer).
    assume(family != "albert" or "<pad>" not in f"{first} {second}")
    reference = backend(family)
    reference.encode_special_tokens = True
    whole = reference.encode(first, second)
    reference.enable_truncation(max_length, strategy="longest_first")
    expected = reference.encode(first, second)
    task = ClassificationTask(TOKENIZERS[family], LABELS, max_length)
    ((row,),) = task.encode([ClassificationExample(first, second)])
    assert row.input_ids.tolist() == expected.ids
    assert row.token_type_ids.tolist() == expected.type_ids
    assert len(row) <= max_length
    assert row.truncated == (len(whole.ids) > max_length)


def test_examples_with_and_without_a_pair_keep_their_order() -> None:
    task = ClassificationTask(TOKENIZERS["bert"], LABELS, 32)
    examples = [
        ClassificationExample("the dog"),
        ClassificationExample("the fox", "the dog"),
        ClassificationExample("a bug", ""),
        ClassificationExample(""),
    ]
    together = task.encode(examples)
    assert [len(rows) for rows in together] == [1, 1, 1, 1]
    for example, (row,) in zip(examples, together, strict=True):
        assert row.input_ids.tolist() == task.encode([example])[0][0].input_ids.tolist()
    assert len(together[3][0]) == TOKENIZERS["bert"].single.special_tokens


def test_decode_names_every_label_in_order() -> None:
    task = ClassificationTask(TOKENIZERS["bert"], LABELS, 32)
    example = ClassificationExample("the fox", "the dog")
    (rows,) = task.encode([example])
    answer = task.decode(example, rows, [(np.array([0.5, 2.0, -1.0], np.float32),)])
    assert answer.label == "neutral"
    assert tuple(answer.scores) == LABELS
    assert answer.score == answer.scores["neutral"] == pytest.approx(math.exp(2) / sum(map(math.exp, (0.5, 2, -1))))
    assert not answer.truncated


def test_decode_says_that_text_was_cut() -> None:
    task = ClassificationTask(TOKENIZERS["bert"], LABELS, 8)
    example = ClassificationExample(LINES[0])
    (rows,) = task.encode([example])
    assert task.decode(example, rows, [(np.zeros(3, np.float32),)]).truncated


def test_decode_refuses_logits_of_another_label_set() -> None:
    task = ClassificationTask(TOKENIZERS["bert"], LABELS, 8)
    example = ClassificationExample("fox")
    (rows,) = task.encode([example])
    with pytest.raises(ValueError, match="zip"):
        task.decode(example, rows, [(np.zeros(2, np.float32),)])


@pytest.mark.parametrize("logits", [[-100, 1], [1e4, -1e4], [-1e4, -1e4], [3e38, -3e38], [0, 0]])
def test_softmax_is_finite(logits: list[float]) -> None:
    probabilities = softmax(logits)
    assert np.isfinite(probabilities).all()
    assert sum(probabilities) == pytest.approx(1.0)
    assert np.argmax(probabilities) == np.argmax(logits)


@given(st.lists(st.floats(-300, 300, width=32), min_size=1, max_size=5), st.floats(0.5, 5.0))
def test_softmax_is_its_definition(logits: list[float], temperature: float) -> None:
    exponents = np.exp(np.array(logits) / temperature)
    assert softmax(logits, temperature) == pytest.approx((exponents / exponents.sum()).tolist())


def test_temperature_changes_scores_and_no_label() -> None:
    task = ClassificationTask(TOKENIZERS["bert"], LABELS, 32)
    example = ClassificationExample("the fox", "the dog")
    (rows,) = task.encode([example])
    logits = [(np.array([0.5, 2.0, -1.0], np.float32),)]
    warm = task.with_temperature(2.0).decode(example, rows, logits)
    assert warm.score == pytest.approx(math.exp(1) / sum(map(math.exp, (0.25, 1, -0.5))))
    assert warm.label == task.decode(example, rows, logits).label
    assert task.temperature == 1.0


def test_top_k_leaves_the_best_labels_best_first() -> None:
    task = ClassificationTask(TOKENIZERS["bert"], LABELS, 32)
    logits = [(np.array([0.5, 2.0, -1.0], np.float32),)]
    (rows,) = task.encode([ClassificationExample("the fox")])
    every = task.decode(ClassificationExample("the fox"), rows, logits)
    two = task.decode(ClassificationExample("the fox", top_k=2), rows, logits)
    assert list(two.scores.items()) == [(label, every.scores[label]) for label in ("neutral", "entailment")]
    assert (two.label, two.score) == (every.label, every.score)
    assert task.decode(ClassificationExample("the fox", top_k=9), rows, logits).scores == every.scores


def test_other_scores_are_of_the_logits_as_they_come() -> None:
    """The task's own function keeps its temperature; another has none."""
    task = ClassificationTask(TOKENIZERS["bert"], LABELS, 32, temperature=2.0)
    example = ClassificationExample("the fox", "the dog")
    (rows,) = task.encode([example])
    logits = [(np.array([0.0, 2.0, -1.0], np.float32),)]
    assert task.with_activation("softmax") is task
    raw = task.with_activation("identity")
    found = raw.decode(example, rows, logits)
    assert (found.label, found.scores) == ("neutral", {"entailment": 0.0, "neutral": 2.0, "contradiction": -1.0})
    assert raw.observed(found) == (("neutral",), None)  # a logit is no confidence
    alone = task.with_activation("sigmoid").decode(example, rows, logits)
    assert alone.scores["entailment"] == 0.5
    assert alone.scores["neutral"] == pytest.approx(1 / (1 + math.exp(-2)))
