"""Runs on a tiny encoder: they fit, they continue exactly, and what they write is whole."""

import contextlib
import dataclasses
import hashlib
import json
import logging
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    AutoModelForMultipleChoice,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from tests.training.samples import (
    PAIRS,
    SENTENCES,
    make_model,
    race_records,
    recipe,
    save_checkpoint,
    save_tokenizer,
    write_nli,
    write_race,
    write_squad,
    write_sst2,
    write_text,
)  # fmt: skip
from training.checkpoints import families, sealed
from training.checkpoints.configs import RECIPE_FILE
from training.data import Table
from training.errors import CheckpointError, DataError, RecipeError
from training.finetune import checkpoints, loop
from training.finetune import runner as finetune
from training.finetune.features import LengthGroupedSampler, Rows
from training.finetune.recipe import Recipe
from training.tasks.span import SpanOutcome

NLI = {"data": "nli", "labels": ("entailment", "neutral", "contradiction")}


def weights(output: Path) -> dict[str, torch.Tensor]:
    return load_file(output / "final" / "model.safetensors")


def losses(output: Path) -> list[tuple[int, float, float]]:
    """(step, loss, learning rate) as logged up to the end of the run."""
    last = max(output.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    history = json.loads((last / "trainer_state.json").read_text())["log_history"]
    return [(entry["step"], entry["loss"], entry["learning_rate"]) for entry in history if "loss" in entry]


# ---- what a run gives -----------------------------------------------------------------------------------------------


def test_sentiment_fits(sentiment_run: Path) -> None:
    metrics = json.loads((sentiment_run / "metrics.json").read_text())
    assert metrics["dev"] == {"accuracy": 100.0, "rows": 8, "recall_negative": 100.0, "recall_positive": 100.0}
    model = AutoModelForSequenceClassification.from_pretrained(sentiment_run / "final").eval()
    assert model.config.id2label == {0: "negative", 1: "positive"}
    tokenizer = AutoTokenizer.from_pretrained(sentiment_run / "final")
    with torch.no_grad():
        for text, label in SENTENCES:
            assert model(**tokenizer(text, return_tensors="pt")).logits.argmax() == int(label)


def test_qa_fits(qa_run: Path) -> None:
    dev = json.loads((qa_run / "metrics.json").read_text())["dev"]
    assert (dev["exact"], dev["f1"], dev["total"]) == (100.0, 100.0, 6)
    assert (dev["HasAns_total"], dev["NoAns_total"]) == (4, 2)
    assert AutoModelForQuestionAnswering.from_pretrained(qa_run / "final").config.num_labels == 2


def test_race_fits(race_run: Path) -> None:
    metrics = json.loads((race_run / "metrics.json").read_text())
    assert metrics["dev"] == {
        "accuracy": 100.0, "accuracy_high": 100.0, "accuracy_middle": 100.0, "questions": 4, "cut_questions": 0,
        "cut_passages": 0,
    }  # fmt: skip
    assert (metrics["examples"], metrics["rows"], metrics["cut"]) == (4, 16, {"questions": 0, "passages": 0})
    model = AutoModelForMultipleChoice.from_pretrained(race_run / "final")
    assert model.classifier.weight.shape == (1, 32)


def test_cut_passages_are_told(encoder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train = write_race(tmp_path / "race.jsonl", padding="and the dog " * 30)
    with caplog.at_level(logging.WARNING, "training.finetune.runner"):
        metrics = finetune.run(recipe(encoder, tmp_path / "o", train, task="multiple_choice", epochs=1.0))
    assert metrics["cut"] == {"questions": 4, "passages": 2}
    assert (metrics["dev"]["cut_questions"], metrics["dev"]["cut_passages"]) == (4, 2)
    assert "cut to 48 tokens: 4 questions, 2 passages" in caplog.text


def test_dev_questions_that_no_row_can_hold_are_told_before_the_training(
    encoder: Path, tmp_path: Path, data_dir: Path
) -> None:
    record = race_records()[0] | {"questions": ["what is it ?", "what " * 60]}
    dev = write_text(tmp_path / "dev.jsonl", json.dumps(record) + "\n")
    made = recipe(encoder, tmp_path / "o", str(data_dir / "race.jsonl"), dev, task="multiple_choice", epochs=1.0)
    with pytest.raises(DataError, match=r"dev\.jsonl: .*a question that no row can hold"):
        finetune.run(made)
    assert finetune.run(made, allow_bad_data=True)["dev"]["questions"] == 1


def test_a_table_with_labels_of_its_own(encoder: Path, tmp_path: Path) -> None:
    rows = "".join(f"{text},{'fun' if label == '1' else 'dull'}\n" for text, label in SENTENCES)
    path = write_text(tmp_path / "t.csv", f"review,verdict\n{rows}")
    table = Table(text="review", label="verdict")
    made = recipe(encoder, tmp_path / "o", path, data="table", labels=(), table=table)
    metrics = finetune.run(made)
    assert metrics["dev"] == {"accuracy": 100.0, "rows": 8, "recall_dull": 100.0, "recall_fun": 100.0}
    assert metrics["recipe"]["labels"] == ("dull", "fun")
    config = AutoConfig.from_pretrained(tmp_path / "o" / "final")
    assert (config.id2label, config.problem_type) == ({0: "dull", 1: "fun"}, "single_label_classification")


def test_more_classes_than_labels(encoder: Path, tmp_path: Path) -> None:
    path = write_text(tmp_path / "t.csv", "text,label\na,1\nb,2\nc,3\n")
    made = recipe(encoder, tmp_path / "o", path, data="table", labels=("1", "2"))
    with pytest.raises(DataError, match=r"t\.csv:4: unknown label \('3'; there are 1, 2\)"):
        finetune.run(made)


def test_several_dev_files(encoder: Path, tmp_path: Path, data_dir: Path) -> None:
    first = str(data_dir / "sst2.tsv")
    other = write_sst2(tmp_path / "other.tsv", SENTENCES[:3])
    made = recipe(encoder, tmp_path / "o", first, epochs=1.0)
    metrics = finetune.run(dataclasses.replace(made, dev=(first, other)))
    assert metrics["dev"]["rows"] == 8
    assert {path: scores["rows"] for path, scores in metrics["dev"]["also"].items()} == {other: 3}
    assert metrics["data"].keys() == {first, other}


def test_metrics_file(sentiment_run: Path, data_dir: Path, encoder: Path) -> None:
    metrics = json.loads((sentiment_run / "metrics.json").read_text())
    path = str(data_dir / "sst2.tsv")
    assert metrics["data"] == {path: hashlib.sha256(Path(path).read_bytes()).hexdigest()}
    assert metrics["recipe"] == json.loads(json.dumps(dataclasses.asdict(recipe(encoder, sentiment_run, path))))
    assert (metrics["examples"], metrics["rows"], metrics["bad_records"]) == (8, 8, 0)
    assert metrics["unknown_tokens"] == 0
    assert metrics["tokens"] == sum(len(text.split()) + 2 for text, _ in SENTENCES)
    assert metrics["versions"]["torch"] == torch.__version__.split("+")[0] or torch.__version__.startswith(
        metrics["versions"]["torch"]
    )
    assert {"transformers", "tokenizers", "datasets", "numpy"} < metrics["versions"].keys()
    assert metrics["train"]["train_loss"] < 0.5
    assert json.loads((sentiment_run / "final" / RECIPE_FILE).read_text()) == metrics


def test_logs_and_tokenizer(sentiment_run: Path, encoder: Path) -> None:
    assert list(sentiment_run.rglob("events.out.tfevents.*"))
    ours, theirs = (json.loads((p / "tokenizer.json").read_text()) for p in (sentiment_run / "final", encoder))
    assert ours == theirs  # the service's settings are not saved with the checkpoint


# ---- --resume -------------------------------------------------------------------------------------------------------


def check_resume(base: Recipe, folder: Path, keep: int) -> None:
    """Runs to the end, then again from the checkpoint at step `keep`: nothing may differ."""
    whole, cut = folder / "whole", folder / "cut"
    finetune.run(dataclasses.replace(base, output=str(whole)))
    cut.mkdir()
    shutil.copytree(whole / f"checkpoint-{keep}", cut / f"checkpoint-{keep}")
    torch.manual_seed(999)  # what the process did before must not matter
    finetune.run(dataclasses.replace(base, output=str(cut)), resume=True)
    assert losses(cut) == losses(whole)
    assert len(losses(whole)) == len({loss for _, loss, _ in losses(whole)}) > keep
    expected, resumed = weights(whole), weights(cut)
    assert expected.keys() == resumed.keys()
    for name, tensor in expected.items():
        assert torch.equal(tensor, resumed[name]), name
    kept = load_file(cut / f"checkpoint-{keep}" / "model.safetensors")
    assert any(not torch.equal(tensor, expected[name]) for name, tensor in kept.items())


@pytest.mark.parametrize(
    ("changes", "keep"),
    [
        ({}, 5),  # in the middle of the second epoch of three: 3 batches each, the last one short
        ({"precision": "bf16", "attention": "bf16_eager"}, 6),
        ({"gradient_accumulation_steps": 2, "epochs": 5.0}, 5),
        ({"epochs": 2.5, "batch_size": 2, "label_smoothing": 0.1, "freeze_word_embeddings": True}, 8),
    ],
)
def test_resume_continues_exactly(encoder: Path, tmp_path: Path, changes: dict[str, Any], keep: int) -> None:
    train = write_sst2(tmp_path / "train.tsv", [*SENTENCES, ("a fun code", "1"), ("it is poor", "0")])
    base = recipe(encoder, tmp_path, train, epochs=3.0, dropout=0.3, save_steps=keep, logging_steps=1)
    check_resume(dataclasses.replace(base, **changes), tmp_path, keep)


def test_resume_of_options(encoder: Path, tmp_path: Path, data_dir: Path) -> None:
    base = recipe(
        encoder, tmp_path, str(data_dir / "race.jsonl"), task="multiple_choice", batch_size=2, epochs=3.0, dropout=0.2,
        save_steps=3, logging_steps=1,
    )  # fmt: skip
    check_resume(base, tmp_path, 3)


def test_resume_of_span_windows(encoder: Path, tmp_path: Path) -> None:
    train = write_squad(tmp_path / "t.json", unanswerable=True, padding="the dog and the cat . " * 9)
    base = recipe(
        encoder, tmp_path, train, task="span", max_length=40, epochs=2.0, dropout=0.2, empty_windows=0.5, save_steps=5,
        logging_steps=1,
    )  # fmt: skip
    check_resume(base, tmp_path, 5)


def test_dropout_shows_in_the_losses(encoder: Path, tmp_path: Path, data_dir: Path) -> None:
    """Or the equality above would prove less than it says."""
    base = recipe(encoder, tmp_path, str(data_dir / "sst2.tsv"), epochs=2.0, logging_steps=1, save_steps=2)
    runs = {}
    for dropout in (0.0, 0.3):
        runs[dropout] = tmp_path / str(dropout)
        finetune.run(dataclasses.replace(base, dropout=dropout, output=str(runs[dropout])))
    assert losses(runs[0.0]) != losses(runs[0.3])


def test_an_earlier_runs_checkpoints_are_not_mixed_with_new_ones(
    sentiment_run: Path, encoder: Path, data_dir: Path
) -> None:
    """A later --resume would take the highest step, which may be the older run's."""
    before = sorted(sentiment_run.iterdir())
    with pytest.raises(CheckpointError, match="holds the checkpoints of an earlier run: --resume it, or remove them"):
        finetune.run(recipe(encoder, sentiment_run, str(data_dir / "sst2.tsv")))
    assert sorted(sentiment_run.iterdir()) == before


@contextlib.contextmanager
def small_files(limit: int) -> Iterator[None]:
    """The system refuses to let a file grow beyond `limit` bytes: a write fails in its middle, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt", "rng_state.pth", "trainer_state.json"])
def test_a_torn_checkpoint_is_skipped(
    encoder: Path, tmp_path: Path, data_dir: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The run goes on from the one before it, to the same end. A kill leaves the files after the torn one unwritten."""
    base = recipe(encoder, tmp_path / "o", str(data_dir / "sst2.tsv"), epochs=3.0, dropout=0.3, save_steps=2)
    finetune.run(base)
    expected = weights(tmp_path / "o")
    shutil.rmtree(tmp_path / "o" / "final")
    torn = tmp_path / "o" / "checkpoint-6"
    content = (torn / name).read_bytes()
    (torn / name).write_bytes(content[: len(content) // 2])
    if name == "optimizer.pt":
        (torn / "trainer_state.json").unlink()
        (torn / "sealed.json").unlink()
    with caplog.at_level(logging.WARNING, "training.finetune.checkpoints"):
        finetune.run(base, resume=True)
    assert "checkpoint-6 is torn and is skipped" in caplog.text
    assert all(torch.equal(tensor, expected[key]) for key, tensor in weights(tmp_path / "o").items())


def test_a_full_disk_loses_nothing(encoder: Path, tmp_path: Path, data_dir: Path) -> None:
    base = recipe(encoder, tmp_path / "o", str(data_dir / "sst2.tsv"), epochs=3.0, dropout=0.3, save_steps=2)
    whole = dataclasses.replace(base, output=str(tmp_path / "whole"))
    finetune.run(whole)
    with (
        small_files(40_000),
        pytest.raises(CheckpointError, match=r"checkpoint-2 cannot be written .*; there is none before it"),
    ):
        finetune.run(base)
    finetune.run(dataclasses.replace(base, max_steps=2))
    shutil.rmtree(tmp_path / "o" / "final")
    with (
        small_files(40_000),
        pytest.raises(CheckpointError, match=r"checkpoint-4 cannot be written .*the last good one is .*checkpoint-2"),
    ):
        finetune.run(base, resume=True)
    assert [path.name for path in sealed.found(tmp_path / "o")] == ["checkpoint-2"]
    assert not (tmp_path / "o" / "final").exists()


def test_final_weights_that_cannot_be_written(
    encoder: Path, tmp_path: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(model: object, folder: Path) -> None:
        raise OSError(28, "No space left on device")

    base = recipe(encoder, tmp_path / "o", str(data_dir / "sst2.tsv"), epochs=1.0)
    with monkeypatch.context() as patch:
        patch.setattr(finetune, "save_tokenizer", full)
        with pytest.raises(CheckpointError, match=r"final cannot be written .*No space left.*--resume tries again"):
            finetune.run(base)
    assert not list((tmp_path / "o").glob("*final*"))
    assert finetune.run(base, resume=True)["dev"]["rows"] == 8
    assert (tmp_path / "o" / "final" / "config.json").is_file()


def test_checkpoints_of_earlier_versions_have_no_seal(encoder: Path, tmp_path: Path, data_dir: Path) -> None:
    base = recipe(encoder, tmp_path / "o", str(data_dir / "sst2.tsv"), epochs=1.0)
    finetune.run(base)
    (tmp_path / "o" / "checkpoint-2" / "sealed.json").unlink()
    assert checkpoints.newest(tmp_path / "o").name == "checkpoint-2"


# ---- --resume with another recipe, or other data --------------------------------------------------------------------


@pytest.fixture
def begun(encoder: Path, tmp_path: Path) -> Recipe:
    """A run that has a checkpoint."""
    path = write_sst2(tmp_path / "train.tsv")
    made = recipe(encoder, tmp_path / "o", path, write_sst2(tmp_path / "dev.tsv"), epochs=1.0)
    finetune.run(made)
    return made


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 2}, "seed was 1 and is 2"),
        ({"labels": ("positive", "negative")}, r"labels was \['negative', 'positive'\] and is \['positive', 'neg"),
        ({"batch_size": 2, "max_length": 40}, "max_length was 48 and is 40; batch_size was 4 and is 2"),
        ({"train_limit": 3}, "train_limit was 0 and is 3"),
    ],
)
def test_another_run_is_not_resumed(begun: Recipe, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=f"checkpoint-2 is of another run: {message}"):
        finetune.run(dataclasses.replace(begun, **changes), resume=True)


def test_other_data_under_the_same_name_is_not_resumed(begun: Recipe, caplog: pytest.LogCaptureFixture) -> None:
    write_sst2(Path(begun.dev[0]), SENTENCES[:6])
    assert finetune.run(begun, resume=True)["dev"]["rows"] == 6
    assert f"continues, and not as it would have: the sha256 of {begun.dev[0]} was " in caplog.text
    write_sst2(Path(begun.train[0]), SENTENCES[::-1])
    with pytest.raises(
        CheckpointError, match=r"is of another run: the sha256 of .*train\.tsv was \w{64} and is \w{64}$"
    ):
        finetune.run(begun, resume=True)


def test_what_changes_on_the_way_is_told(
    begun: Recipe, data_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    quiet = {"save_steps": 7, "logging_steps": 3, "dev_limit": 4, "dev": (str(data_dir / "sst2.tsv"),)}
    finetune.run(dataclasses.replace(begun, **quiet), resume=True)
    assert "not as it would have" not in caplog.text
    finetune.run(dataclasses.replace(begun, epochs=2.0, learning_rate=1e-3), resume=True)
    assert "not as it would have: epochs was 1.0 and is 2.0; learning_rate was 0.003 and is 0.001" in caplog.text


def test_a_checkpoint_of_an_earlier_version_says_not_what_run_it_is_of(
    begun: Recipe, caplog: pytest.LogCaptureFixture
) -> None:
    folder = Path(begun.output) / "checkpoint-2"
    for name in (checkpoints.RUN, checkpoints.SEAL):
        (folder / name).unlink()
    finetune.run(dataclasses.replace(begun, seed=2), resume=True)
    assert "checkpoint-2 does not say what run it is of" in caplog.text


def test_every_checkpoint_is_torn(encoder: Path, tmp_path: Path, data_dir: Path) -> None:
    base = recipe(encoder, tmp_path / "o", str(data_dir / "sst2.tsv"), epochs=1.0)
    finetune.run(base)
    (tmp_path / "o" / "checkpoint-2" / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"nothing to resume from in .*: every checkpoint is torn"):
        finetune.run(base, resume=True)


def test_nothing_to_resume_from(encoder: Path, tmp_path: Path, data_dir: Path) -> None:
    for output in (tmp_path / "absent", tmp_path):
        with pytest.raises(CheckpointError, match="nothing to resume from"):
            finetune.run(recipe(encoder, output, str(data_dir / "sst2.tsv")), resume=True)


def test_runs_repeat_and_seeds_differ(encoder: Path, tmp_path: Path, data_dir: Path) -> None:
    base = recipe(encoder, tmp_path, str(data_dir / "sst2.tsv"), epochs=2.0, dropout=0.3)
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        finetune.run(dataclasses.replace(base, output=str(tmp_path / name), seed=seed))
    a, b, c = (weights(tmp_path / name) for name in "abc")
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(a["classifier.weight"], c["classifier.weight"])


# ---- the recipe's keys do what they say -----------------------------------------------------------------------------


@pytest.mark.parametrize("attention", ["sdpa", "eager", "bf16_eager"])
def test_bf16_fits_too(encoder: Path, tmp_path: Path, data_dir: Path, attention: str) -> None:
    made = recipe(encoder, tmp_path, str(data_dir / "sst2.tsv"), precision="bf16", attention=attention)
    assert finetune.run(made)["dev"]["accuracy"] == 100.0
    assert {tensor.dtype for tensor in weights(tmp_path).values()} == {torch.float32}  # autocast: the weights stay


def test_final_scores_are_of_fp32(
    encoder: Path, tmp_path: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the weights are exported, whatever they were trained in."""
    trained = []
    scores = finetune._scores
    monkeypatch.setattr(
        finetune, "_scores", lambda task, model, *rest: trained.append(model) or scores(task, model, *rest)
    )
    made = recipe(encoder, tmp_path / "o", str(data_dir / "sst2.tsv"), precision="bf16", epochs=2.0)
    finetune.run(made)
    ids = torch.arange(5, 25).view(2, 10)
    written = AutoModelForSequenceClassification.from_pretrained(tmp_path / "o" / "final").eval()
    torch.testing.assert_close(trained[-1](input_ids=ids).logits, written(input_ids=ids).logits, atol=1e-6, rtol=0)


def test_frozen_word_embeddings_stay(encoder: Path, tmp_path: Path, data_dir: Path) -> None:
    before = load_file(encoder / "model.safetensors")["embeddings.word_embeddings.weight"]
    for frozen in (True, False):
        output = tmp_path / str(frozen)
        finetune.run(recipe(encoder, output, str(data_dir / "sst2.tsv"), epochs=1.0, freeze_word_embeddings=frozen))
        after = weights(output)["bert.embeddings.word_embeddings.weight"]
        assert torch.equal(before, after) is frozen


def test_warm_up_and_decay(encoder: Path, tmp_path: Path, data_dir: Path) -> None:
    made = recipe(
        encoder, tmp_path, str(data_dir / "sst2.tsv"), epochs=10.0, warmup_ratio=0.2, learning_rate=1e-3,
        logging_steps=1, save_steps=20,
    )  # fmt: skip
    finetune.run(made)
    rates = [rate for _, _, rate in losses(tmp_path)]
    assert len(rates) == 20
    assert rates[:5] == pytest.approx([0, 2.5e-4, 5e-4, 7.5e-4, 1e-3])
    assert rates[-1] == pytest.approx(1e-3 / 16)


def test_steps_instead_of_epochs(encoder: Path, tmp_path: Path, data_dir: Path) -> None:
    made = recipe(
        encoder, tmp_path, str(data_dir / "sst2.tsv"), epochs=100.0, max_steps=5, warmup_steps=2, learning_rate=1e-3,
        logging_steps=1, save_steps=5,
    )  # fmt: skip
    finetune.run(made)
    assert [rate for _, _, rate in losses(tmp_path)] == pytest.approx([0, 5e-4, 1e-3, 2e-3 / 3, 1e-3 / 3])


@pytest.mark.parametrize(
    ("family", "task", "name"),
    [
        ("Albert", "classification", "classifier_dropout_prob"),
        ("Bert", "multiple_choice", "classifier_dropout"),
        ("Electra", "multiple_choice", "summary_last_dropout"),
        ("DistilBert", "classification", "seq_classif_dropout"),
    ],
)
def test_classifier_dropout_is_the_heads_alone(tmp_path: Path, family: str, task: str, name: str) -> None:
    folder = save_checkpoint(tmp_path / "encoder", family=family)
    made = recipe(folder, tmp_path / "o", "t", task=task, dropout=0.0, classifier_dropout=0.4)
    config = finetune._load_config(made)
    assert getattr(config, name) == 0.4
    assert {getattr(config, dropout) for dropout in families.of(config).dropouts} == {0.0}
    model, _ = finetune._load_model(made, config)
    encoder = getattr(model, model.base_model_prefix)
    rates = {m.p for n, m in model.named_modules() if isinstance(m, torch.nn.Dropout)}
    inside = {m.p for m in encoder.modules() if isinstance(m, torch.nn.Dropout)}
    assert (rates - inside, inside) == ({0.4}, {0.0})


@pytest.fixture(scope="module")
def short_run(encoder: Path, data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What three plain epochs give."""
    output = tmp_path_factory.mktemp("short")
    finetune.run(recipe(encoder, output, str(data_dir / "sst2.tsv"), epochs=3.0))
    return output


@pytest.mark.parametrize(
    "changes",
    [
        {"learning_rate": 1e-3}, {"weight_decay": 0.5}, {"max_grad_norm": 0.1}, {"scheduler": "constant_with_warmup"},
        {"label_smoothing": 0.3}, {"precision": "bf16"}, {"dropout": None}, {"gradient_accumulation_steps": 2},
        {"batch_size": 8},
    ],
    ids=lambda changes: next(iter(changes)),
)  # fmt: skip
def test_every_knob_is_connected(
    short_run: Path, encoder: Path, tmp_path: Path, data_dir: Path, changes: dict[str, Any]
) -> None:
    made = recipe(encoder, tmp_path, str(data_dir / "sst2.tsv"), epochs=3.0)
    finetune.run(dataclasses.replace(made, **changes))
    assert not torch.equal(weights(tmp_path)["classifier.weight"], weights(short_run)["classifier.weight"])


def test_accumulated_gradients_are_a_mean(encoder: Path, tmp_path: Path) -> None:
    """The Trainer would take the heads' mean loss for one that was divided already, and add the batches up."""
    train = write_sst2(tmp_path / "t.tsv", [SENTENCES[0]] * 8)
    norms = []
    for batch_size, steps in ((8, 1), (2, 4)):
        made = recipe(
            encoder, tmp_path / str(batch_size), train, epochs=1.0, dropout=0.0, batch_size=batch_size,
            gradient_accumulation_steps=steps, logging_steps=1, save_steps=1,
        )  # fmt: skip
        finetune.run(made)
        state = json.loads((tmp_path / str(batch_size) / "checkpoint-1" / "trainer_state.json").read_text())
        norms.append(state["log_history"][0]["grad_norm"])
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)


def test_rows_come_in_the_samplers_order(
    encoder: Path, tmp_path: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    samplers = []

    class Spied(LengthGroupedSampler):
        def __init__(self, rows: Rows, batch_size: int, seed: int) -> None:
            super().__init__(rows, batch_size, seed)
            samplers.append(LengthGroupedSampler(rows, batch_size, seed))

    def spied(rows: Rows, index: int) -> dict[str, Any]:
        seen.append(index)
        return get(rows, index)

    get = Rows.__getitem__
    monkeypatch.setattr(Rows, "__getitem__", spied)
    monkeypatch.setattr(loop, "LengthGroupedSampler", Spied)
    finetune.run(recipe(encoder, tmp_path, str(data_dir / "sst2.tsv"), epochs=3.0, batch_size=2))
    expected = []
    for epoch in range(3):
        samplers[0].set_epoch(epoch)
        expected += list(samplers[0])
    assert seen == expected
    assert seen[:8] != seen[8:16]


def test_is_scored_without_dropout(
    encoder: Path, tmp_path: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes = []

    def outcomes(task: Any, engine: Any, *rest: Any) -> list[Any]:
        modes.append(engine._model.training)
        return real(task, engine, *rest)

    real = finetune.evaluate.outcomes
    monkeypatch.setattr(finetune.evaluate, "outcomes", outcomes)
    finetune.run(recipe(encoder, tmp_path, str(data_dir / "sst2.tsv"), epochs=1.0, dropout=0.5))
    assert modes == [False]


def test_unanswerable_questions_are_scored_with_the_threshold_that_export_fits(
    encoder: Path, tmp_path: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At 0.0, every question of this model would be called unanswerable."""
    real = finetune.evaluate.outcomes

    def shifted(*given: Any) -> list[Any]:
        found = [o for o in real(*given) if isinstance(o, SpanOutcome)]
        return [dataclasses.replace(o, margin=50.0 + i, text="", exact=0.0, f1=1.0) for i, o in enumerate(found)]

    monkeypatch.setattr(finetune.evaluate, "outcomes", shifted)
    data = str(data_dir / "squad-v2.json")
    made = recipe(encoder, tmp_path, data, task="span", epochs=2.0, dev_steps=2)
    written = finetune.run(made)
    assert written["dev_threshold"] > 50.0
    assert written["dev"]["f1"] >= 100 * 4 / 6
    assert [score for _, score in written["dev_by_step"]] == [written["dev"]["f1"]] * len(written["dev_by_step"])
    answerable = recipe(encoder, tmp_path / "1", str(data_dir / "squad-v1.json"), task="span", epochs=1.0)
    assert finetune.run(answerable)["dev_threshold"] is None


def test_data_are_hashed_as_they_are_read(encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is written anew during the training is not the one that was trained on."""
    path = Path(write_sst2(tmp_path / "train.tsv"))
    read = hashlib.sha256(path.read_bytes()).hexdigest()
    real = finetune._load_model

    def load(*given: Any) -> Any:
        write_sst2(path, SENTENCES[:2])
        return real(*given)

    monkeypatch.setattr(finetune, "_load_model", load)
    assert finetune.run(recipe(encoder, tmp_path / "o", str(path), epochs=1.0))["data"] == {str(path): read}


def test_source_weights(encoder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [
        {"premise": p, "hypothesis": h, "label": y, "source": s} for (p, h, y), s in zip(PAIRS, "aabc", strict=True)
    ]
    train = write_nli(tmp_path / "t.jsonl", rows)
    made = recipe(encoder, tmp_path / "o", train, epochs=1.0, source_weights={"a": 3, "b": 0, "typo": 2}, **NLI)
    with caplog.at_level(logging.WARNING, "training.finetune.runner"):
        metrics = finetune.run(made)
    assert (metrics["examples"], metrics["rows"]) == (4, 2 * 3 + 0 + 1)
    assert metrics["dev"]["rows"] == 4
    assert "source_weights names sources that the data has not: typo" in caplog.text


def test_limits_take_a_seeded_sample(encoder: Path, tmp_path: Path) -> None:
    paths = tuple(write_sst2(tmp_path / f"{i}.tsv") for i in range(2))
    made = recipe(encoder, tmp_path / "o", paths[0], epochs=1.0, train_limit=3, dev_limit=2)
    metrics = finetune.run(dataclasses.replace(made, train=paths))
    assert (metrics["examples"], metrics["dev"]["rows"]) == (6, 2)
    assert metrics["data"].keys() == set(paths)


def test_hub_data(encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    rows = [{"sentence": text, "label": int(label)} for text, label in SENTENCES]
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: datasets.Dataset.from_list(rows))
    metrics = finetune.run(recipe(encoder, tmp_path, "hub:nyu-mll/glue:sst2#train", epochs=1.0))
    assert metrics["examples"] == 8
    assert metrics["data"] == {"hub:nyu-mll/glue:sst2#train": None}


# ---- what is refused, before the first step -------------------------------------------------------------------------


def test_bad_data_fails_unless_allowed(encoder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train = write_sst2(tmp_path / "t.tsv", [*SENTENCES, ("what", "7"), ("", "1")])
    made = recipe(encoder, tmp_path / "o", train, write_sst2(tmp_path / "d.tsv"), epochs=1.0)
    with pytest.raises(DataError, match=r"2 bad records(.|\n)*t\.tsv:10: unknown label(.|\n)*t\.tsv:11: 'sentence'"):
        finetune.run(made)
    assert not (tmp_path / "o").exists()
    metrics = finetune.run(made, allow_bad_data=True)
    assert (metrics["examples"], metrics["bad_records"]) == (8, 2)
    assert "t.tsv:10: unknown label ('7'; there are negative, positive)" in caplog.text
    both = dataclasses.replace(made, dev=made.train, output=str(tmp_path / "both"))
    assert finetune.run(both, allow_bad_data=True)["bad_records"] == 2  # not twice over


def test_unknown_tokens_are_told(encoder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train = write_sst2(tmp_path / "t.tsv", [(f"{text} 中文 ☃", label) for text, label in SENTENCES])
    metrics = finetune.run(recipe(encoder, tmp_path / "o", train, epochs=1.0))
    assert metrics["unknown_tokens"] == 3 * len(SENTENCES)
    share = 100.0 * metrics["unknown_tokens"] / metrics["tokens"]
    assert f"{share:.1f} % of the tokens of the training text are unknown to the tokenizer" in caplog.text


def test_no_data_at_all(encoder: Path, tmp_path: Path, data_dir: Path) -> None:
    empty, full = write_text(tmp_path / "e.tsv", "sentence\tlabel\n"), str(data_dir / "sst2.tsv")
    with pytest.raises(DataError, match="no training rows"):
        finetune.run(recipe(encoder, tmp_path / "o", empty, full))
    with pytest.raises(DataError, match="no dev examples"):
        finetune.run(recipe(encoder, tmp_path / "o", full, empty))


def test_encoder_that_cannot_be_loaded(tmp_path: Path, data_dir: Path) -> None:
    train = str(data_dir / "sst2.tsv")
    with pytest.raises(CheckpointError, match="absent"):
        finetune.run(recipe(tmp_path / "absent", tmp_path / "o", train))
    truncated = save_checkpoint(tmp_path / "truncated")
    content = (truncated / "model.safetensors").read_bytes()
    (truncated / "model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match="truncated"):
        finetune.run(recipe(truncated, tmp_path / "o", train))
    pickled = save_checkpoint(tmp_path / "pickled")
    (pickled / "model.safetensors").unlink()
    torch.save(make_model(), pickled / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin wants transformers\."):
        finetune.run(recipe(pickled, tmp_path / "o", train))


def test_encoder_without_a_tokenizer(tmp_path: Path, data_dir: Path) -> None:
    folder = save_checkpoint(tmp_path / "bare")
    for file in folder.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(CheckpointError, match="there is no tokenizer"):
        finetune.run(recipe(folder, tmp_path / "o", str(data_dir / "sst2.tsv")))


@pytest.mark.parametrize(
    ("family", "name", "sizes"),
    [
        ("Deberta", "deberta", {}),
        ("T5", "t5", {"d_model": 32, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 4}),
    ],
)
def test_family_that_could_not_be_exported(
    tmp_path: Path, data_dir: Path, family: str, name: str, sizes: dict[str, int]
) -> None:
    folder = tmp_path / "other"
    make_model(family=family, **sizes).save_pretrained(folder)
    save_tokenizer(folder)
    with pytest.raises(CheckpointError, match=f"'{name}' is not one of"):
        finetune.run(recipe(folder, tmp_path / "o", str(data_dir / "sst2.tsv")))


def test_a_vocabulary_that_the_embedding_has_not(tmp_path: Path, data_dir: Path) -> None:
    folder = save_checkpoint(tmp_path / "small", vocab_size=20)
    with pytest.raises(CheckpointError, match=r"the tokenizer has ids up to \d+, the embedding 20 rows"):
        finetune.run(recipe(folder, tmp_path / "o", str(data_dir / "sst2.tsv")))


def test_code_of_its_own_is_never_run(tmp_path: Path, data_dir: Path) -> None:
    folder = save_checkpoint(tmp_path / "own")
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | {"auto_map": {"AutoModel": "modeling.Model"}}))
    (folder / "modeling.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(CheckpointError, match=r"it wants code of its own \(auto_map\), which is never run"):
        finetune.run(recipe(folder, tmp_path / "o", str(data_dir / "sst2.tsv")))
    assert not (tmp_path / "ran").exists()


def test_lengths_that_the_encoder_has_not(encoder: Path, tmp_path: Path, data_dir: Path) -> None:
    train = str(data_dir / "squad-v1.json")
    for key in ("max_length", "serve_max_length"):
        with pytest.raises(RecipeError, match=f"^{key} 81 is more than the encoder's 80"):
            finetune.run(recipe(encoder, tmp_path / "o", train, task="span", **{key: 81}))
    with pytest.raises(RecipeError, match="a doc_stride of 24 leaves no room in a max_length of 48"):
        finetune.run(recipe(encoder, tmp_path / "o", train, task="span", doc_stride=24))


def test_an_encoder_that_lacks_weights(tmp_path: Path, data_dir: Path) -> None:
    """A config of more layers than the file has; and a file with the names of another family."""
    folder = save_checkpoint(tmp_path / "shallow")
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | {"num_hidden_layers": 3}))
    with pytest.raises(CheckpointError, match=r"weights of the encoder are missing \(bert\.encoder\.layer\.2\.att"):
        finetune.run(recipe(folder, tmp_path / "o", str(data_dir / "sst2.tsv")))
    folder = save_checkpoint(tmp_path / "albert", "ForMaskedLM", "Albert")
    (folder / "config.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=r"its config says bert, and its \d+ weights are another model's \("):
        finetune.run(recipe(folder, tmp_path / "o", str(data_dir / "sst2.tsv")))
    assert not (tmp_path / "o").exists()


def test_a_checkpoint_in_half_precision_is_trained_in_fp32(tmp_path: Path, data_dir: Path) -> None:
    """AdamW's steps are mostly lost in fp16, and transformers would take the file's precision for the model's."""
    folder = tmp_path / "half"
    make_model().half().save_pretrained(folder)
    save_tokenizer(folder)
    assert {tensor.dtype for tensor in load_file(folder / "model.safetensors").values()} == {torch.float16}
    metrics = finetune.run(recipe(folder, tmp_path / "o", str(data_dir / "sst2.tsv")))
    assert metrics["dev"]["accuracy"] == 100.0
    assert {tensor.dtype for tensor in weights(tmp_path / "o").values()} == {torch.float32}
    assert json.loads((tmp_path / "o" / "final" / "config.json").read_text())["dtype"] == "float32"


def test_from_a_checkpoint_with_other_labels(tmp_path: Path, data_dir: Path) -> None:
    three = save_checkpoint(tmp_path / "three", "ForSequenceClassification", num_labels=3)
    made = recipe(three, tmp_path / "qa", str(data_dir / "squad-v1.json"), task="span", epochs=1.0)
    assert finetune.run(made)["dev"]["total"] == 4
    two = recipe(three, tmp_path / "two", str(data_dir / "sst2.tsv"))
    assert finetune.run(two)["dev"]["rows"] == 8
    kept, given = (load_file(f / "model.safetensors") for f in (tmp_path / "two" / "final", three))
    assert kept["classifier.weight"].shape[0] == 2
    # The encoder went on from where it was: nothing of it was newly initialized.
    name = "bert.embeddings.word_embeddings.weight"
    assert (kept[name] - given[name]).abs().max() < 0.1


def test_weights_of_other_shapes_than_the_configs(tmp_path: Path, data_dir: Path) -> None:
    folder = save_checkpoint(tmp_path / "broken")
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | {"intermediate_size": 96}))
    with pytest.raises(CheckpointError, match=r"weights do not have the shapes that its config says: bert\.encoder"):
        finetune.run(recipe(folder, tmp_path / "o", str(data_dir / "sst2.tsv")))
