"""The mean of checkpoints: to the digit, of what can be averaged at all, and a checkpoint like any other."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from service.repository import bundle as bundles
from tests.backends import backend
from tests.training.samples import (
    SENTENCES,
    make_model,
    recipe,
    save_checkpoint,
    save_tokenizer,
    write_sst2,
)
from training.__main__ import main
from training.checkpoints import average, stored
from training.checkpoints.configs import RECIPE_FILE
from training.errors import CheckpointError
from training.export import runner as export
from training.finetune import runner as finetune

LABELS = {"id2label": {0: "negative", 1: "positive"}, "label2id": {"negative": 0, "positive": 1}}


def checkpoint(folder: Path, seed: int = 0, **changes: Any) -> Path:
    return save_checkpoint(folder, "ForSequenceClassification", seed=seed, **(LABELS | changes))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> Path:
    tensors = weights(folder)
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture
def three(tmp_path: Path) -> list[Path]:
    return [checkpoint(tmp_path / f"c{seed}", seed) for seed in range(3)]


def test_uniform_mean(three: list[Path], tmp_path: Path) -> None:
    average.run(tmp_path / "mean", three)
    given, mean = [weights(c) for c in three], weights(tmp_path / "mean")
    assert mean.keys() == given[0].keys()
    for name, tensor in mean.items():
        expected = sum(each[name].double() for each in given) / 3
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, expected.float()) or (tensor - expected).abs().max() < 1e-8
    assert not torch.equal(mean["classifier.weight"], given[0]["classifier.weight"])


def test_shares_are_of_any_sum(three: list[Path], tmp_path: Path) -> None:
    metrics = average.run(tmp_path / "mean", three, (7, 0, 3))
    assert [part["share"] for part in metrics["average"]] == [0.7, 0.0, 0.3]
    a, _, c = (weights(checkpoint)["classifier.weight"] for checkpoint in three)
    torch.testing.assert_close(weights(tmp_path / "mean")["classifier.weight"], 0.7 * a + 0.3 * c)


def test_many_small_differences_are_not_lost(tmp_path: Path) -> None:
    """Added up in half precision, the last of many checkpoints would count for less than the first."""
    made = checkpoint(tmp_path / "c0")
    rewrite(made, lambda tensors: tensors.update({n: torch.full_like(t, 1.0).half() for n, t in tensors.items()}))
    others = [Path(shutil.copytree(made, tmp_path / f"c{i}")) for i in range(1, 64)]
    rewrite(others[-1], lambda tensors: tensors["classifier.bias"].fill_(1.25))
    average.run(tmp_path / "mean", [made, *others])
    bias = weights(tmp_path / "mean")["classifier.bias"]
    assert bias.dtype == torch.float16
    assert bias.tolist() == [1 + 0.25 / 64] * 2


def test_tables_of_whole_numbers_stay(three: list[Path], tmp_path: Path) -> None:
    ids = torch.arange(80)[None]
    for folder in three:
        rewrite(folder, lambda tensors: tensors.update({"bert.embeddings.position_ids": ids}))
    average.run(tmp_path / "mean", three)
    assert torch.equal(weights(tmp_path / "mean")["bert.embeddings.position_ids"], ids)
    rewrite(three[2], lambda tensors: tensors["bert.embeddings.position_ids"].add_(1))
    with pytest.raises(CheckpointError, match=r"c2: bert\.embeddings\.position_ids, which holds whole numbers"):
        average.run(tmp_path / "other", three)


def test_two_runs_to_a_bundle(
    sentiment_run: Path, encoder: Path, data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From one encoder, in another order of the rows: their mean answers as they do, and teaches, and trains on."""
    data = str(data_dir / "sst2.tsv")
    finetune.run(recipe(encoder, tmp_path / "run", data, seed=7))
    runs = [sentiment_run / "final", tmp_path / "run" / "final"]
    mean = tmp_path / "mean"
    assert main(["average", str(mean), *map(str, runs), "--weights", "1", "3"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("0.7500  ")

    metrics = json.loads((mean / "metrics.json").read_text())
    assert json.loads((mean / RECIPE_FILE).read_text()) == metrics
    assert metrics["average"] == [
        {
            "checkpoint": str(run),
            "sha256": hashlib.sha256((run / "model.safetensors").read_bytes()).hexdigest(),
            "share": share,
        }
        for run, share in zip(runs, (0.25, 0.75), strict=True)
    ]
    assert metrics["recipe"]["labels"] == ["negative", "positive"]
    assert metrics["recipe"]["max_length"] == 48
    assert not {"seed", "output"} & metrics["recipe"].keys()  # in which the runs differ
    assert "dev" not in metrics  # nothing was measured

    manifest = export.run(export.Request(mean, tmp_path / "models" / "mean"))
    assert manifest.graphs[0].scores[f"{data_dir.name}/sst2.tsv"]["accuracy"] == 100.0
    assert (manifest.labels, manifest.max_length, manifest.base_model) == (("negative", "positive"), 48, "tiny-bert")
    assert manifest.data == {f"{data_dir.name}/sst2.tsv": hashlib.sha256(Path(data).read_bytes()).hexdigest()}
    assert (bundles.load(tmp_path / "models" / "mean").folder / "README.md").is_file()

    flipped = write_sst2(tmp_path / "flipped.tsv", [(text, "10"[int(label)]) for text, label in SENTENCES])
    made = recipe(mean, tmp_path / "taught", flipped, dev=data, teacher=(str(mean),), teacher_weight=1.0, epochs=1.0)
    assert finetune.run(made)["dev"]["accuracy"] == 100.0


# ---- what has no mean -----------------------------------------------------------------------------------------------


def with_config(folder: Path, **changes: Any) -> Path:
    path = checkpoint(folder) / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


def with_recipe(folder: Path, **changes: Any) -> Path:
    first = {"task": "classification", "labels": ["negative", "positive"], "multi_label": False}
    for path, written in ((folder.parent / "good", first), (checkpoint(folder), first | changes)):
        (path / RECIPE_FILE).write_text(json.dumps({"recipe": written}))
    return folder


def with_tokenizer(folder: Path) -> Path:
    checkpoint(folder, vocab_size=600)
    save_tokenizer(folder, backend("bert"))
    return with_config_of(folder, folder.parent / "good")


def with_config_of(folder: Path, other: Path) -> Path:
    shutil.copyfile(other / "config.json", folder / "config.json")
    return folder


def pickled(folder: Path) -> Path:
    (checkpoint(folder) / "model.safetensors").unlink()
    torch.save(make_model("ForSequenceClassification").state_dict(), folder / "pytorch_model.bin")
    return folder


def bare(folder: Path) -> Path:
    (checkpoint(folder) / "model.safetensors").unlink()
    return folder


def torn(folder: Path) -> Path:
    path = checkpoint(folder) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:5000])
    return folder


def stale(folder: Path) -> Path:
    """Its config is that of the others, its weights are not."""
    return with_config_of(checkpoint(folder, intermediate_size=48), folder.parent / "good")


def swapped(folder: Path) -> Path:
    return checkpoint(folder, id2label={0: "positive", 1: "negative"}, label2id={"negative": 1, "positive": 0})


def sharded(folder: Path) -> Path:
    """In torch's format, in two files."""
    path = checkpoint(folder) / "model.safetensors"
    tensors = load_file(path)
    path.unlink()
    parts = {"a.bin": list(tensors)[::2], "b.bin": list(tensors)[1::2]}
    for file, names in parts.items():
        torch.save({name: tensors[name] for name in names}, folder / file)
    index = {"weight_map": {name: file for file, names in parts.items() for name in names}}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    return folder


def test_weights_in_any_files_that_can_be_exported(tmp_path: Path) -> None:
    """Of the same numbers, whichever files they are in: the mean of all of them is each."""
    folders = [checkpoint(tmp_path / "a"), pickled(tmp_path / "b"), sharded(tmp_path / "c")]
    metrics = average.run(tmp_path / "mean", folders)
    mean = load_file(tmp_path / "mean" / "model.safetensors")
    for folder in folders:
        read = stored.read(folder)
        assert read.keys() == mean.keys()
        assert all(torch.allclose(mean[name], read[name]) for name in mean)
    digests = [part["sha256"] for part in metrics["average"]]
    assert digests[1] == hashlib.sha256((folders[1] / "pytorch_model.bin").read_bytes()).hexdigest()
    parts = [hashlib.sha256((folders[2] / name).read_bytes()).hexdigest() for name in ("a.bin", "b.bin")]
    assert digests[2] == hashlib.sha256("".join(parts).encode()).hexdigest()


REFUSED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "no folder": (lambda folder: folder, "bad is no folder"),
    "no weights": (bare, r"bad has no weights: looked for model\.safetensors, "),
    "torn": (torn, r"bad.model\.safetensors is cut off: it has 5,000 of"),
    "another family": (
        lambda folder: save_checkpoint(folder, "ForSequenceClassification", "Electra", **LABELS),
        "bad: .*'Electra",
    ),
    "another head": (
        lambda folder: save_checkpoint(folder, "ForQuestionAnswering", **LABELS),
        r"bad: architectures \['BertForQuestionAnswering'\] is not the",
    ),
    "another depth": (lambda folder: checkpoint(folder, num_hidden_layers=3), "bad: num_hidden_layers 3 is not the 2"),
    "another activation": (lambda folder: with_config(folder, hidden_act="relu"), "bad: hidden_act 'relu' is not"),
    "labels in another order": (swapped, "bad: id2label "),
    "several labels": (
        lambda folder: with_config(folder, problem_type="multi_label_classification"),
        "bad: problem_type 'multi_label_classification' is not the None",
    ),
    "another task": (lambda folder: with_recipe(folder, task="span"), "bad: the recipe's task 'span' is not the"),
    "labels of the recipe": (
        lambda folder: with_recipe(folder, labels=["positive", "negative"]),
        r"bad: the recipe's labels \['positive', 'negative'\] is not the",
    ),
    "another tokenizer": (with_tokenizer, "bad: its tokenizer is not that of .*good: "),
    "a missing weight": (
        lambda folder: rewrite(checkpoint(folder), lambda tensors: tensors.pop("classifier.bias")),
        r"bad: the weight classifier\.bias is missing, which .*good has",
    ),
    "one weight more": (
        lambda folder: rewrite(checkpoint(folder), lambda tensors: tensors.update(more=torch.ones(1))),
        "good: the weight more is missing, which .*bad has",
    ),
    "shapes": (stale, r"bad: the shape of bert\.encoder\.layer\.0\.intermediate\.dense\.bias \[48\] is not the \[64\]"),
    "types": (
        lambda folder: rewrite(
            checkpoint(folder), lambda tensors: tensors.update({"classifier.bias": torch.ones(2).half()})
        ),
        r"bad: the type of classifier\.bias torch\.float16 is not the torch\.float32",
    ),
    "no number": (
        lambda folder: rewrite(checkpoint(folder), lambda tensors: tensors["classifier.bias"].fill_(float("nan"))),
        r"bad: classifier\.bias holds what is no finite number",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_refused(tmp_path: Path, kind: str) -> None:
    make, message = REFUSED[kind]
    good = checkpoint(tmp_path / "good", seed=1)
    with pytest.raises(CheckpointError, match=message):
        average.run(tmp_path / "out" / "mean", [good, make(tmp_path / "bad")])
    assert not list((tmp_path / "out").glob("*"))


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ((1,), "--weights names 1 shares, there are 3 checkpoints"),
        ((1, -1, 1), "each is to be 0 or more"),
        ((0, 0, 0), "one above 0"),
        ((1, 1, float("nan")), "each is to be 0 or more"),
        ((1, 1, float("inf")), "each is to be 0 or more"),
    ],
)
def test_shares_that_cannot_be(three: list[Path], tmp_path: Path, shares: tuple[float, ...], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        average.run(tmp_path / "mean", three, shares)


def test_nothing_is_replaced(three: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = weights(three[2])
    assert main(["average", *map(str, (three[2], *three[:2]))]) == 1
    assert "c2 exists: it will not be replaced" in capsys.readouterr().err
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(three[2]).items())
    assert main(["average", str(tmp_path / "mean"), str(three[0])]) == 1
    assert "1 checkpoint has no mean" in capsys.readouterr().err


def test_recipes_may_say_less(three: list[Path], tmp_path: Path) -> None:
    """One is of another origin, one of a version that did not know of several labels."""
    written = {"task": "classification", "labels": ["negative", "positive"]}
    for folder, kept in ((three[1], written), (three[2], written | {"multi_label": False})):
        (folder / RECIPE_FILE).write_text(json.dumps({"recipe": kept}))
    assert average.run(tmp_path / "mean", three)["recipe"] == written


def test_dropout_may_differ(tmp_path: Path) -> None:
    """It is of the training, not of the model."""
    made = [checkpoint(tmp_path / f"c{rate}", hidden_dropout_prob=rate) for rate in (0.0, 0.3)]
    average.run(tmp_path / "mean", made)
