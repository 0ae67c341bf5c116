"""A student learns what its teachers say, of rows that they have read to the same ids."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from torch.nn import functional

from service.engine.batch import pad
from service.tasks import (
    ClassificationExample,
    ClassificationTask,
    MultipleChoiceExample,
    MultipleChoiceTask,
    SpanTask,
)
from tests.backends import backend
from tests.training.samples import (
    SENTENCES,
    load_tokenizer,
    make_model,
    recipe,
    save_checkpoint,
    save_tokenizer,
    training_rows,
    write_sst2,
)
from training.checkpoints.teacher import state_errors
from training.data import ChoiceQuestion, LabelledText, Question, Report
from training.errors import CheckpointError
from training.evaluate.engine import TorchEngine
from training.finetune import distil
from training.finetune import runner as finetune
from training.finetune.features import Collator, Rows

TOKENIZER = load_tokenizer()


def label_rows() -> Rows:
    task = ClassificationTask(TOKENIZER, ("negative", "positive"), 32)
    labels = {"0": "negative", "1": "positive"}
    return training_rows(task, [LabelledText(ClassificationExample(t), labels[n]) for t, n in SENTENCES])


def test_targets_are_the_mean_of_the_teachers_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distil, "CHUNK", 3)
    teachers = [make_model("ForSequenceClassification", seed=seed).eval() for seed in (1, 2)]
    rows = label_rows()
    taught = distil.taught(rows, teachers, TOKENIZER.pad_id)
    for i in range(len(rows)):
        ((encoded,),) = rows.encoded(i, i + 1)
        alone = [TorchEngine(teacher).run(pad([encoded], TOKENIZER.pad_id))[0][0] for teacher in teachers]
        np.testing.assert_allclose(taught[i]["teacher_logits"], (alone[0] + alone[1]) / 2, atol=1e-5)
        assert taught[i]["labels"] == rows[i]["labels"]


def test_targets_of_options_stand_in_their_order() -> None:
    task = MultipleChoiceTask(TOKENIZER, 40)
    examples = [MultipleChoiceExample("who wrote it ?", "ada wrote it .", (*each,)) for each in ("abc", "xyz")]
    questions = [ChoiceQuestion(example, i, "p", "") for i, example in enumerate(examples)]
    teacher = make_model("ForMultipleChoice").eval()
    rows = distil.taught(training_rows(task, questions, Report()), [teacher], TOKENIZER.pad_id)
    for i, options in enumerate(task.encode(examples)):
        alone = [TorchEngine(teacher).run(pad([row], TOKENIZER.pad_id))[0][0, 0] for row in options]
        np.testing.assert_allclose(rows[i]["teacher_logits"], alone, atol=1e-5)
    assert Collator(TOKENIZER.pad_id, options=True)([rows[0], rows[1]])["teacher_logits"].shape == (2, 3)


def test_targets_of_spans_are_as_long_as_their_row() -> None:
    task = SpanTask(TOKENIZER, max_length=40, doc_stride=8)
    contexts = ("the dog is in paris", "a cat and a dog and a man and the woman of berlin " * 3)
    questions = [Question(str(i), "who ?", context, ((context[:5], 0),), False) for i, context in enumerate(contexts)]
    rows = distil.taught(
        training_rows(task, questions, Report()), [make_model("ForQuestionAnswering").eval()], TOKENIZER.pad_id
    )
    for i, length in enumerate(rows.lengths):
        assert len(rows[i]["teacher_start_logits"]) == len(rows[i]["teacher_end_logits"]) == length
    batch = Collator(TOKENIZER.pad_id)([rows[i] for i in range(len(rows))])
    assert batch["teacher_start_logits"].shape == batch["input_ids"].shape
    targets = distil.pop(batch)
    assert targets.keys() == {"teacher_start_logits", "teacher_end_logits"}
    assert not any(name.startswith("teacher") for name in batch)


def test_loss_is_the_softened_divergence() -> None:
    student, teacher = torch.randn(5, 3), torch.randn(5, 3)
    p, q = functional.softmax(teacher / 4, -1), functional.softmax(student / 4, -1)
    expected = (p * (p.log() - q.log())).sum(-1).mean() * 16
    found = distil.loss({"logits": student}, {"teacher_logits": teacher}, torch.ones(5, 9), 4.0)
    torch.testing.assert_close(found, expected)
    assert distil.loss({"logits": teacher}, {"teacher_logits": teacher}, None, 1.0).abs() < 1e-6


def test_padding_has_no_say_in_spans() -> None:
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]])
    outputs = {name: torch.randn(2, 4) for name in ("start_logits", "end_logits")}
    targets = {f"teacher_{name}": torch.randn(2, 4) for name in outputs}
    before = distil.loss(outputs, targets, mask, 2.0)
    for tensor in (*outputs.values(), *targets.values()):
        tensor[0, 3] += 50.0
    after = distil.loss(outputs, targets, mask, 2.0)
    torch.testing.assert_close(before, after)
    alone = [
        distil.loss(
            {n: t[i : i + 1, :m] for n, t in outputs.items()},
            {n: t[i : i + 1, :m] for n, t in targets.items()},
            None,
            2.0,
        )
        for i, m in ((0, 3), (1, 4))
    ]
    torch.testing.assert_close(after, torch.stack(alone).mean())


def test_student_believes_its_teacher_and_not_the_labels(encoder: Path, sentiment_run: Path, tmp_path: Path) -> None:
    """Every label of the student's data is wrong; scored on the right ones."""
    flipped = write_sst2(tmp_path / "flipped.tsv", [(text, "10"[int(label)]) for text, label in SENTENCES])
    right = write_sst2(tmp_path / "right.tsv")
    made = recipe(
        encoder, tmp_path / "o", flipped, dev=right, teacher=(str(sentiment_run / "final"),), teacher_weight=1.0
    )
    metrics = finetune.run(made)
    assert metrics["dev"]["accuracy"] == 100.0
    assert metrics["recipe"]["teacher"] == (str(sentiment_run / "final"),)


def test_errors_of_hidden_states_are_of_directions_and_of_real_tokens() -> None:
    student, teacher = torch.randn(2, 3, 8), torch.randn(2, 3, 8)
    errors = state_errors(student, teacher, torch.tensor([[1, 1, 0], [1, 1, 1]]))
    assert errors.shape == (5,)
    centred = [states - states.mean(-1, keepdim=True) for states in (student, teacher)]
    cosines = functional.cosine_similarity(*centred, dim=-1).flatten()[[0, 1, 3, 4, 5]]
    torch.testing.assert_close(errors, 2 - 2 * cosines, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(state_errors(3 * teacher + 1, teacher, None), torch.zeros(6), atol=1e-3, rtol=0)


@pytest.mark.parametrize("task", ["classification", "multiple_choice"])
def test_student_nears_its_teachers_hidden_states(
    task: str, encoder: Path, sentiment_run: Path, tmp_path: Path, data_dir: Path
) -> None:
    """Another random encoder, whose states are as good as unrelated at first."""
    head = {"classification": "ForSequenceClassification", "multiple_choice": "ForMultipleChoice"}[task]
    student = save_checkpoint(tmp_path / "student", head, seed=5)
    teacher = sentiment_run / "final"
    if task == "multiple_choice":
        teacher = save_checkpoint(tmp_path / "teacher", head, seed=9)
    made = [
        recipe(
            student, tmp_path / name, str(data_dir / ("sst2.tsv" if task == "classification" else "race.jsonl")),
            teacher=(str(teacher),), teacher_hidden_weight=weight, dropout=0.0, epochs=6, logging_steps=1,
            **({} if task == "classification" else {"task": task, "data": "race", "labels": ()}),
        )
        for name, weight in (("without", 0.0), ("with", 1.0))
    ]  # fmt: skip
    for each in made:
        finetune.run(each)
    far, near = (_distance(Path(each.output) / "final", teacher, head) for each in made)
    assert near < 0.8 * far


def _distance(student: Path, teacher: Path, head: str) -> float:
    auto = getattr(transformers, f"AutoModel{head}")
    ids = torch.tensor([TOKENIZER.pair.fill(a, b).input_ids.tolist() for a, b in [TOKENIZER.ids(["the dog", "paris"])]])
    states = [
        auto.from_pretrained(path).eval().base_model(input_ids=ids).last_hidden_state for path in (student, teacher)
    ]
    return float(state_errors(states[0], states[1], None).mean().detach())


def test_a_guide_of_another_size_is_refused(encoder: Path, tmp_path: Path, data_dir: Path) -> None:
    labels = {"id2label": {0: "negative", 1: "positive"}, "label2id": {"negative": 0, "positive": 1}}
    wide = save_checkpoint(tmp_path / "wide", "ForSequenceClassification", hidden_size=64, **labels)
    made = recipe(encoder, tmp_path / "o", str(data_dir / "sst2.tsv"), teacher=(str(wide),), teacher_hidden_weight=1.0)
    with pytest.raises(CheckpointError, match="has hidden size 64, the student"):
        finetune.run(made)


def test_teachers_that_cannot_teach(encoder: Path, sentiment_run: Path, tmp_path: Path, data_dir: Path) -> None:
    def refused(teacher: Path, match: str) -> None:
        made = recipe(encoder, tmp_path / "o", str(data_dir / "sst2.tsv"), teacher=(str(teacher),))
        with pytest.raises(CheckpointError, match=match):
            finetune.run(made)

    final = sentiment_run / "final"
    labels = {"id2label": {0: "negative", 1: "positive"}, "label2id": {"negative": 0, "positive": 1}}
    refused(tmp_path / "absent", "absent")
    refused(save_checkpoint(tmp_path / "three", "ForSequenceClassification", num_labels=3), "has the labels label_0")
    refused(save_checkpoint(tmp_path / "headless", **labels), "is not fine-tuned: classifier")
    other = save_checkpoint(tmp_path / "other", "ForSequenceClassification", vocab_size=600, **labels)
    save_tokenizer(other, backend("bert"))
    refused(other, "has another vocabulary")
    assert json.loads((final / "config.json").read_text())["id2label"] == {"0": "negative", "1": "positive"}


def test_teachers_read_in_the_runs_precision() -> None:
    teacher, rows = make_model("ForSequenceClassification", seed=1).eval(), label_rows()
    exact, rounded = (distil.taught(rows, [teacher], TOKENIZER.pad_id, precision) for precision in ("fp32", "bf16"))
    differences = [np.abs(exact[i]["teacher_logits"] - rounded[i]["teacher_logits"]).max() for i in range(len(rows))]
    assert 0 < max(differences) < 0.1
