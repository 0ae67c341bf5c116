"""Training rows are the service's rows, and their targets point at the answer's very text."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch
from tokenizers import models, pre_tokenizers, processors

from service.engine.batch import Encoded, pad
from service.engine.tokenizer import Tokenizer
from service.tasks import (
    ClassificationExample,
    ClassificationTask,
    MultiLabelTask,
    MultipleChoiceExample,
    MultipleChoiceTask,
    SpanExample,
    SpanTask,
    Window,
)
from tests.training.samples import PASSAGES, load_tokenizer, training_rows
from training.data import ChoiceQuestion, LabelledText, Question, Report, TaggedText
from training.finetune.features import Collator, LengthGroupedSampler, Rows
from training.tasks.task import CHUNK

FILLER = "the dog and the cat are playing outside in the city . "
LONG = FILLER * 2 + "Grace Hopper wrote “the code” in france , 中文 and the team won . " + FILLER * 3
TEXTS = ("Grace Hopper", "“the code”", "france", "中文", "the team won", "Grace", "code")


def byte_level() -> Tokenizer:
    """A tokenizer of RoBERTa's kind: bytes with their leading space, no merges, no token types."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(["<s>", "<pad>", "</s>", *alphabet])}
    backend = tokenizers.Tokenizer(models.BPE(vocabulary, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.add_special_tokens(["<s>", "<pad>", "</s>"])
    backend.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), trim_offsets=True)
    return Tokenizer(backend)


def question(text: str, context: str = LONG, identifier: str = "q") -> Question:
    return Question(identifier, "who ?", context, ((text, context.index(text)),), False)


def impossible(identifier: str = "n") -> Question:
    return Question(identifier, "what is it ?", LONG, (), True)


def targets(rows: Rows) -> list[tuple[Window, int, int]]:
    return [
        (row["encoded"][0], row["start_positions"], row["end_positions"]) for row in (rows[i] for i in range(len(rows)))
    ]


def covers(window: Window, start: int, end: int) -> bool:
    return bool(window.offsets[0, 0] <= start and end <= window.offsets[-1, 1])


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize(
    ("make", "lengths"), [(load_tokenizer, (32, 10)), (load_tokenizer, (400, 64)), (byte_level, (96, 30))]
)
def test_targets_point_at_the_answer(text: str, make: Any, lengths: tuple[int, int]) -> None:
    task = SpanTask(make(), max_length=lengths[0], doc_stride=lengths[1])
    start = LONG.index(text)
    windows = targets(training_rows(task, [question(text)], Report()))
    assert len(windows) == len(task.encode([SpanExample("who ?", (LONG,))])[0])
    holding = 0
    for window, first, last in windows:
        if covers(window, start, start + len(text)):
            holding += 1
            assert window.first <= first <= last < window.first + len(window.offsets)
            begin, end = window.offsets[first - window.first, 0], window.offsets[last - window.first, 1]
            assert LONG[begin:end] == text
        else:
            assert (first, last) == (0, 0)
    assert holding >= 1
    if len(windows) > 1:
        assert holding < len(windows)


def test_the_model_can_be_decoded_from_the_targets() -> None:
    """What the targets teach is what the service's decode reads."""
    task = SpanTask(load_tokenizer(), max_length=32, doc_stride=10)
    example = SpanExample("who ?", (LONG,))
    windows = targets(training_rows(task, [question("Grace Hopper")], Report()))
    logits = []
    for window, first, last in windows:
        start, end = np.zeros(len(window), np.float32), np.zeros(len(window), np.float32)
        start[first] = end[last] = 9.0
        logits.append((start, end))
    prediction = task.decode(example, [window for window, _, _ in windows], logits)
    assert prediction.answer is not None
    assert prediction.answer.text == "Grace Hopper"


def test_part_of_an_answer_is_no_answer() -> None:
    long_answer = LONG[: 2 * len(FILLER) + 20]
    task = SpanTask(load_tokenizer(), max_length=32, doc_stride=10)
    windows = targets(training_rows(task, [question(long_answer)], Report()))
    assert all((first, last) == (0, 0) for _, first, last in windows)


def test_unanswerable_questions_point_at_cls_and_are_all_kept() -> None:
    task = SpanTask(load_tokenizer(), max_length=32, doc_stride=10)
    count = len(task.encode([SpanExample("what is it ?", (LONG,))])[0])
    for share in (0.0, 1.0):
        windows = targets(training_rows(task, [impossible()], Report(), empty_windows=share))
        assert [(first, last) for _, first, last in windows] == [(0, 0)] * count
        assert all(window.input_ids[0] == 2 for window, _, _ in windows)  # [CLS]


def test_share_of_empty_windows() -> None:
    task = SpanTask(load_tokenizer(), max_length=32, doc_stride=10)
    questions = [question("Grace Hopper", identifier=str(i)) for i in range(200)]

    def counts(share: float, seed: int = 0) -> tuple[int, int]:
        windows = targets(training_rows(task, questions, Report(), empty_windows=share, seed=seed))
        holding = sum(last > 0 for _, _, last in windows)
        return holding, len(windows) - holding

    holding, empty = counts(1.0)
    assert counts(0.0) == (holding, 0)
    kept = counts(0.3)
    assert kept[0] == holding
    assert abs(kept[1] / empty - 0.3) < 0.05
    assert counts(0.3) == kept


def test_questions_that_no_row_can_hold_are_reported() -> None:
    task = SpanTask(load_tokenizer(), max_length=32, doc_stride=10)
    report = Report()
    long_question = dataclasses.replace(impossible("long"), question="who " * 50)
    rows = training_rows(task, [long_question, question("france")], report)
    assert len(rows) > 0
    assert report.bad.total() == 1
    assert "#long: a question that no row can hold (the question is 50 tokens long" in report.summary()


def test_classification_rows_are_the_services_rows() -> None:
    task = ClassificationTask(load_tokenizer(), ("negative", "neutral", "positive"), 12)
    texts = [("good film", None), ("a " * 40, None), ("a man", "the dog is playing"), ("a " * 40, "b " * 40)]
    labels = ["positive", "negative", "neutral", "positive"]
    examples = [LabelledText(ClassificationExample(*t), label) for t, label in zip(texts, labels, strict=True)]
    rows = training_rows(task, examples)
    for i, [served] in enumerate(task.encode([ClassificationExample(*t) for t in texts])):
        assert rows[i]["labels"] == task.labels.index(labels[i])
        [row] = rows[i]["encoded"]
        assert np.array_equal(row.input_ids, served.input_ids)
        assert np.array_equal(row.token_type_ids, served.token_type_ids)
    assert rows.lengths.tolist() == [4, 12, 9, 12]
    assert (rows.count, rows.cut) == (4, {"texts": 2})


def test_several_labels_are_a_target_each() -> None:
    task = MultiLabelTask(load_tokenizer(), ("a", "b", "c"), 12)
    tags = [frozenset("ac"), frozenset("b"), frozenset("")]
    rows = training_rows(task, [TaggedText(ClassificationExample("good film"), each) for each in tags])
    batch = Collator(0)([rows[i] for i in range(3)])
    assert batch["labels"].dtype == torch.float32
    assert batch["labels"].tolist() == [[1, 0, 1], [0, 1, 0], [0, 0, 0]]


def choices(padding: str = "") -> list[ChoiceQuestion]:
    return [
        ChoiceQuestion(MultipleChoiceExample(question, article + padding, options), "ABCD".index(answer), name, level)
        for name, level, article, questions in PASSAGES
        for question, options, answer in questions
    ]


def test_the_options_of_a_question_stay_together() -> None:
    task = MultipleChoiceTask(load_tokenizer(), 40)
    questions = choices()
    rows = training_rows(task, questions, Report())
    assert (len(rows), rows.count, rows.cut) == (4, 16, {"questions": 0, "passages": 0})
    served = task.encode([question.example for question in questions])
    assert rows.lengths.tolist() == [sum(map(len, options)) for options in served]
    order = [2, 0, 3]
    batch = Collator(7, options=True)([rows[i] for i in order])
    assert batch["input_ids"].shape == (3, 4, max(len(row) for i in order for row in served[i]))
    assert batch["labels"].tolist() == [0, 1, 3]
    for place, i in enumerate(order):
        for option, row in enumerate(served[i]):
            for name in ("input_ids", "token_type_ids"):
                assert batch[name][place, option, : len(row)].tolist() == getattr(row, name).tolist()
            assert batch["attention_mask"][place, option].tolist().count(1) == len(row)
            assert set(batch["input_ids"][place, option, len(row) :].tolist()) <= {7}


def test_cut_passages_are_counted() -> None:
    questions = choices(" and the dog" * 10)
    assert training_rows(MultipleChoiceTask(load_tokenizer(), 40), questions, Report()).cut == {
        "questions": 4, "passages": 2,
    }  # fmt: skip
    short = [*questions[:1], *choices()[1:]]
    assert training_rows(MultipleChoiceTask(load_tokenizer(), 40), short, Report()).cut == {
        "questions": 1,
        "passages": 1,
    }


def test_questions_that_cannot_be_learnt_from_are_reported() -> None:
    good, other = choices()[0], choices()[2]
    three = dataclasses.replace(other, example=dataclasses.replace(other.example, options=("a", "b", "c")))
    long = dataclasses.replace(other, example=dataclasses.replace(other.example, question="who " * 60))
    report = Report()
    rows = training_rows(MultipleChoiceTask(load_tokenizer(), 40), [good, three, long], report)
    assert len(rows) == 1
    assert "high1.txt: 'who wrote the code ?': not as many options as the first question (3, not 4)" in report.summary()
    assert "a question that no row can hold (the question is 60 tokens long; 36 are possible" in report.summary()


def test_rows_over_the_borders_of_chunks() -> None:
    task = ClassificationTask(load_tokenizer(), ("a", "b"), 12)
    examples = [LabelledText(ClassificationExample("good " * (1 + i % 7)), "ab"[i % 2]) for i in range(2 * CHUNK + 3)]
    rows = training_rows(task, examples)
    assert rows.lengths.tolist() == [3 + i % 7 for i in range(len(examples))]
    assert [rows[i]["labels"] for i in range(len(rows))] == [i % 2 for i in range(len(rows))]


# ---- batches --------------------------------------------------------------------------------------------------------


def random_rows(count: int, seed: int = 0) -> Rows:
    lengths = np.random.default_rng(seed).integers(3, 60, count)
    return Rows([((Encoded(np.full(n, i), np.ones(n, np.int64)),), {"labels": i % 2}) for i, n in enumerate(lengths)])


def test_collator_pads_as_the_service_does() -> None:
    rows = random_rows(5)
    features = [rows[i] for i in range(5)]
    tensors = Collator(pad_id=7)(features)
    batch = pad([feature["encoded"][0] for feature in features], 7)
    assert tensors.keys() == {"input_ids", "token_type_ids", "attention_mask", "labels"}
    for name in ("input_ids", "token_type_ids", "attention_mask"):
        assert torch.equal(tensors[name], torch.from_numpy(getattr(batch, name)))
    assert tensors["labels"].tolist() == [0, 1, 0, 1, 0]


def test_collator_leaves_a_mask_of_ones_away() -> None:
    rows = random_rows(1)
    assert "attention_mask" not in Collator(0)([rows[0], rows[0]])
    span: list[Any] = [{"encoded": rows[0]["encoded"], "input_ids": 0, "start_positions": 2, "end_positions": 3}]
    tensors = Collator(0)(span)
    assert (tensors["start_positions"].tolist(), tensors["end_positions"].tolist()) == ([2], [3])
    assert tensors["input_ids"].tolist() == [rows[0]["encoded"][0].input_ids.tolist()]


def padding(rows: Rows, order: list[int], size: int) -> float:
    lengths = rows.lengths[order]
    padded = sum(len(lengths[i : i + size]) * lengths[i : i + size].max() for i in range(0, len(lengths), size))
    return float(1 - lengths.sum() / padded)


@pytest.mark.parametrize("count", [1, 15, 16, 160, 16 * 50 * 2, 16 * 50 * 2 + 5])
def test_sampler_gives_each_row_once(count: int) -> None:
    rows = random_rows(count)
    sampler = LengthGroupedSampler(rows, 16, seed=3)
    orders = []
    for epoch in range(3):
        sampler.set_epoch(epoch)
        orders.append(list(sampler))
        assert len(orders[-1]) == len(sampler) == count
        assert sorted(orders[-1]) == list(range(count))
    if count > 16:
        assert orders[0] != orders[1] != orders[2]


def test_sampler_hangs_on_seed_and_epoch_alone() -> None:
    rows = random_rows(1000)
    sampler, other = LengthGroupedSampler(rows, 16, seed=3), LengthGroupedSampler(rows, 16, seed=3)
    first = list(sampler)
    torch.manual_seed(9)
    np.random.seed(9)
    assert list(sampler) == first
    sampler.set_epoch(4)
    later = list(sampler)
    sampler.set_epoch(0)
    other.set_epoch(4)
    assert list(sampler) == first
    assert list(other) == later
    assert list(LengthGroupedSampler(rows, 16, seed=4)) != first


def test_sampler_saves_padding_without_sorting_the_epoch() -> None:
    rows = random_rows(16 * 50 * 2 + 5)
    order = list(LengthGroupedSampler(rows, 16, seed=3))
    shuffled = np.random.default_rng(0).permutation(len(rows)).tolist()
    assert padding(rows, order, 16) < 0.02 < 0.3 < padding(rows, shuffled, 16)
    longest = [int(rows.lengths[order[i : i + 16]].max()) for i in range(0, len(order), 16)]
    assert abs(np.corrcoef(np.arange(len(longest)), longest)[0, 1]) < 0.3  # batches of all lengths, all the time
