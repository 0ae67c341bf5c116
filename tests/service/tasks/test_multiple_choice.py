"""Multiple choice: what a row holds, what is cut and said to be, and which option wins."""

import time

import numpy as np
import pytest

from service.engine.tokenizer import Tokenizer
from service.errors import InvalidInput
from service.tasks import MultipleChoiceExample, MultipleChoiceTask, RowLogits
from service.tasks.multiple_choice import statement
from tests.bundles import VOCABULARY, make_tokenizer

PASSAGE = "ada wrote the code . ruth lives in paris ."
OPTIONS = ("ada", "ruth", "the dog")


@pytest.fixture(scope="module")
def task() -> MultipleChoiceTask:
    return MultipleChoiceTask(Tokenizer(make_tokenizer()), 20)


def example(question: str = "who wrote it", context: str = PASSAGE) -> MultipleChoiceExample:
    return MultipleChoiceExample(question, context, OPTIONS)


def logits(*values: float) -> list[RowLogits]:
    return [(np.array([value], dtype=np.float32),) for value in values]


def text(ids: np.ndarray) -> str:
    return " ".join(VOCABULARY[i] for i in ids)


def test_a_row_is_the_passage_then_the_question_with_the_option(task: MultipleChoiceTask) -> None:
    [rows] = task.encode([example()])
    assert [text(row.input_ids) for row in rows] == [
        f"[CLS] {PASSAGE} [SEP] who wrote it {option} [SEP]" for option in OPTIONS
    ]
    for row, option in zip(rows, OPTIONS, strict=True):
        assert row.token_type_ids.sum() == len(f"who wrote it {option}".split()) + 1
        assert not row.truncated


def test_many_examples_keep_to_themselves(task: MultipleChoiceTask) -> None:
    examples = [example(), MultipleChoiceExample("what is it", "the code", ("a", "b"))]
    together = task.encode(examples)
    alone = [task.encode([each])[0] for each in examples]
    assert [len(rows) for rows in together] == [3, 2]
    for rows, expected in zip(together, alone, strict=True):
        assert [row.input_ids.tolist() for row in rows] == [row.input_ids.tolist() for row in expected]


def test_the_passage_alone_is_cut_and_each_row_says_so(task: MultipleChoiceTask) -> None:
    [rows] = task.encode([example("who wrote it and who lives in")])
    # Special tokens and the statement leave 9 of 10 passage tokens to "ada" and "ruth", 8 to "the dog".
    assert [len(row) for row in rows] == [20, 20, 20]
    for row, option, kept in zip(rows, OPTIONS, (9, 9, 8), strict=True):
        passage = " ".join(PASSAGE.split()[:kept])
        assert text(row.input_ids) == f"[CLS] {passage} [SEP] who wrote it and who lives in {option} [SEP]"
        assert row.truncated
    assert task.decode(example(), rows, logits(1, 2, 3)).truncated
    [whole] = task.encode([example("who wrote it and who lives")])
    assert [row.truncated for row in whole] == [False, False, True]


def test_a_question_that_leaves_no_room_names_the_option(task: MultipleChoiceTask) -> None:
    fits = "who " * 14
    assert len(task.encode([MultipleChoiceExample(fits, PASSAGE, ("ada", "ruth"))])[0][0]) == 20
    with pytest.raises(InvalidInput, match="17 tokens long; 16 are possible") as caught:
        task.encode([MultipleChoiceExample("who " * 15, PASSAGE, ("ada", "the dog"))])
    assert caught.value.field == "options.1"


def test_a_passage_without_a_token_is_refused(task: MultipleChoiceTask) -> None:
    with pytest.raises(InvalidInput, match="no token") as caught:
        task.encode([example(context="\u200d")])
    assert caught.value.field == "context"


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("Who wrote it?", "Who wrote it? Ada"),
        ("The code was written by _.", "The code was written by Ada ."),
        ("It was  _  who wrote it.", "It was Ada who wrote it."),
        ("_ wrote it.", "Ada wrote it."),
        ("It was by_", "It was by Ada"),
        ("It was by ___ .", "It was by Ada ."),
        ("Both _ and _ wrote it.", "Both _ and _ wrote it. Ada"),
        ("What does max_length mean?", "What does max_length mean? Ada"),
    ],
)
def test_the_option_fills_a_lone_blank_or_follows(question: str, expected: str) -> None:
    assert statement(question, "Ada") == expected


@pytest.mark.parametrize("question", [" " * 1_000_000, f"a{' ' * 500_000}_{' ' * 500_000}b", "_ " * 500_000])
def test_a_question_of_white_space_takes_no_time(question: str) -> None:
    began = time.thread_time()
    filled = statement(question, "Ada")
    assert time.thread_time() - began < 5  # against hours
    assert filled == "a Ada b" if question[0] == "a" else f"{question} Ada"


def test_a_question_that_is_too_long_is_not_tokenised_with_each_option(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = Tokenizer(make_tokenizer())
    seen: list[str] = []
    ids = tokenizer.ids
    monkeypatch.setattr(tokenizer, "ids", lambda texts: seen.extend(texts) or ids(texts))
    with pytest.raises(InvalidInput, match="the question is 17 tokens long; 16 are possible") as caught:
        MultipleChoiceTask(tokenizer, 20).encode([example("who " * 17)])
    assert caught.value.field == "question"
    assert len(seen) == 1


def test_an_option_is_put_in_as_it_is() -> None:
    assert statement("It is _ .", r"a\1\g<0>_b") == r"It is a\1\g<0>_b ."


def test_the_best_option_wins_under_one_softmax(task: MultipleChoiceTask) -> None:
    [rows] = task.encode([example()])
    prediction = task.decode(example(), rows, logits(0.0, np.log(6.0), np.log(3.0)))
    assert [(a.option, a.text) for a in prediction.answers] == [(1, "ruth"), (2, "the dog"), (0, "ada")]
    assert [a.score for a in prediction.answers] == pytest.approx([0.6, 0.3, 0.1])
    assert prediction.answer == prediction.answers[0]
    assert not prediction.truncated


def test_equal_options_stay_in_their_order(task: MultipleChoiceTask) -> None:
    [rows] = task.encode([example()])
    assert [a.option for a in task.decode(example(), rows, logits(1, 1, 1)).answers] == [0, 1, 2]


def test_large_logits_are_finite(task: MultipleChoiceTask) -> None:
    [rows] = task.encode([example()])
    scores = [a.score for a in task.decode(example(), rows, logits(-1e4, 1e4, 0)).answers]
    assert scores == [1.0, 0.0, 0.0]
