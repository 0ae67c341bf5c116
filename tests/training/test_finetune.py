"""Runs on a tiny encoder: they fit, they continue exactly, and what they write is whole."""

import dataclasses
import hashlib
import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForQuestionAnswering, AutoModelForSequenceClassification, AutoTokenizer

from tests.training.checkpoints import (
    PAIRS,
    SENTENCES,
    make_model,
    recipe,
    save_checkpoint,
    save_tokenizer,
    write_nli,
    write_squad,
    write_sst2,
    write_text,
)  # fmt: skip
from training import finetune
from training.errors import CheckpointError, DataError, RecipeError
from training.features import LengthGroupedSampler, Rows
from training.recipe import Recipe

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


def test_metrics_file(sentiment_run: Path, data_dir: Path, encoder: Path) -> None:
    metrics = json.loads((sentiment_run / "metrics.json").read_text())
    path = str(data_dir / "sst2.tsv")
    assert metrics["data"] == {path: hashlib.sha256(Path(path).read_bytes()).hexdigest()}
    assert metrics["recipe"] == json.loads(json.dumps(dataclasses.asdict(recipe(encoder, sentiment_run, path))))
    assert (metrics["examples"], metrics["rows"], metrics["bad_records"]) == (8, 8, 0)
    assert metrics["tokens"] == sum(len(text.split()) + 2 for text, _ in SENTENCES)
    assert metrics["versions"]["torch"] == torch.__version__.split("+")[0] or torch.__version__.startswith(
        metrics["versions"]["torch"]
    )
    assert {"transformers", "tokenizers", "datasets", "numpy"} < metrics["versions"].keys()
    assert metrics["train"]["train_loss"] < 0.5
    assert json.loads((sentiment_run / "final" / finetune.RECIPE_FILE).read_text()) == metrics


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
    monkeypatch.setattr(finetune, "LengthGroupedSampler", Spied)
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

    def score(task: Any, engine: Any, *rest: Any) -> dict[str, float]:
        modes.append(engine._model.training)
        return real(task, engine, *rest)

    real = finetune.evaluate.score
    monkeypatch.setattr(finetune.evaluate, "score", score)
    finetune.run(recipe(encoder, tmp_path, str(data_dir / "sst2.tsv"), epochs=1.0, dropout=0.5))
    assert modes == [False]


def test_source_weights(encoder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [
        {"premise": p, "hypothesis": h, "label": y, "source": s} for (p, h, y), s in zip(PAIRS, "aabc", strict=True)
    ]
    train = write_nli(tmp_path / "t.jsonl", rows)
    made = recipe(encoder, tmp_path / "o", train, epochs=1.0, source_weights={"a": 3, "b": 0, "typo": 2}, **NLI)
    with caplog.at_level(logging.WARNING, "training.finetune"):
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
    assert "t.tsv:10: unknown label ('7')" in caplog.text


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
    torch.save(make_model().state_dict(), pickled / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="pickled"):
        finetune.run(recipe(pickled, tmp_path / "o", train))


def test_encoder_without_a_tokenizer(tmp_path: Path, data_dir: Path) -> None:
    folder = save_checkpoint(tmp_path / "bare")
    for file in folder.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(CheckpointError, match="there is no tokenizer"):
        finetune.run(recipe(folder, tmp_path / "o", str(data_dir / "sst2.tsv")))


def test_family_that_could_not_be_exported(tmp_path: Path, data_dir: Path) -> None:
    folder = tmp_path / "distil"
    make_model(family="DistilBert", dim=32, n_layers=1, n_heads=4, hidden_dim=32).save_pretrained(folder)
    save_tokenizer(folder)
    with pytest.raises(CheckpointError, match="'distilbert' is not one of"):
        finetune.run(recipe(folder, tmp_path / "o", str(data_dir / "sst2.tsv")))


def test_lengths_that_the_encoder_has_not(encoder: Path, tmp_path: Path, data_dir: Path) -> None:
    train = str(data_dir / "squad-v1.json")
    for key in ("max_length", "serve_max_length"):
        with pytest.raises(RecipeError, match=f"^{key} 81 is more than the encoder's 80"):
            finetune.run(recipe(encoder, tmp_path / "o", train, task="span", **{key: 81}))
    with pytest.raises(RecipeError, match="a doc_stride of 24 leaves no room in a max_length of 48"):
        finetune.run(recipe(encoder, tmp_path / "o", train, task="span", doc_stride=24))


def test_from_a_checkpoint_with_other_labels(tmp_path: Path, data_dir: Path) -> None:
    three = save_checkpoint(tmp_path / "three", "ForSequenceClassification", num_labels=3)
    made = recipe(three, tmp_path / "qa", str(data_dir / "squad-v1.json"), task="span", epochs=1.0)
    assert finetune.run(made)["dev"]["total"] == 4
    with pytest.raises(CheckpointError, match="its head does not fit the recipe's labels"):
        finetune.run(recipe(three, tmp_path / "two", str(data_dir / "sst2.tsv")))
