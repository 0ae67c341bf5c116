"""A bundle back to a checkpoint: the same answers, the same codes, and a checkpoint like any other."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.training.export.test_families import FAMILIES
from tests.training.samples import make_model, save_tokenizer
from tests.training.tiny import rows, torch_logits
from training.__main__ import main
from training.checkpoints.configs import recorded
from training.checkpoints.source import Source
from training.errors import CheckpointError, TrainingError
from training.export import restore
from training.export import runner as export
from training.export.runner import Request
from training.tokenizers.loading import load_tokenizer

HEADS = {"classification": "SequenceClassification", "multiple_choice": "MultipleChoice", "span": "QuestionAnswering"}


def encoder_of(family: str, vocabularies: dict[str, Path], folder: Path, head: str = "Model", **more: Any) -> Path:
    """A random checkpoint of a family, every weight of it telling."""
    kind = FAMILIES[family]
    shutil.copytree(vocabularies[kind.vocabulary], folder)
    size = load_tokenizer(folder).get_vocab_size()
    model = make_model(head, kind.model, vocab_size=size, **(kind.sizes | more))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    return folder


def exported(checkpoint: Path, output: Path, *precisions: str) -> Path:
    export.run(Request(checkpoint, output, precisions=precisions, doc_stride=16, without_dev=True))
    return output


@pytest.mark.parametrize("family", FAMILIES)
def test_a_bundle_in_fp32_gives_the_checkpoint_back(family: str, vocabularies: dict[str, Path], tmp_path: Path) -> None:
    task = FAMILIES[family].task
    named = {"id2label": {0: "no", 1: "yes"}, "label2id": {"no": 0, "yes": 1}} if task == "classification" else {}
    checkpoint = encoder_of(family, vocabularies, tmp_path / "c", f"For{HEADS[task]}", **named)
    encoder = encoder_of(family, vocabularies, tmp_path / "e", seed=1)
    bundle = exported(checkpoint, tmp_path / "b", "fp32")
    assert restore.run(bundle, encoder, tmp_path / "r") == "fp32"
    (before, kind), (after, found) = export.load_model(Source(checkpoint)), export.load_model(Source(tmp_path / "r"))
    assert found.name == kind.name == task
    for count, tokens in ((1, 7), (4, 40)):
        batch = rows(before, count, tokens)
        for old, new in zip(torch_logits(before, batch), torch_logits(after, batch), strict=True):
            real = batch["attention_mask"].astype(bool) if task == "span" else np.full(old.shape, fill_value=True)
            np.testing.assert_allclose(new[real], old[real], atol=2e-6)
    if named:
        assert after.config.id2label == {0: "no", 1: "yes"}
    assert load_tokenizer(tmp_path / "r").to_str() == load_tokenizer(checkpoint).to_str()


@pytest.mark.parametrize("family", ["albert", "bert-cased", "roberta", "deberta-v2"])
def test_a_bundle_in_int8_is_exported_again_as_it_was(
    family: str, vocabularies: dict[str, Path], tmp_path: Path
) -> None:
    named = {"id2label": {0: "no", 1: "yes"}, "label2id": {"no": 0, "yes": 1}}
    checkpoint = encoder_of(family, vocabularies, tmp_path / "c", "ForSequenceClassification", **named)
    first = exported(checkpoint, tmp_path / "one", "int8", "w8a16")
    assert restore.run(first, checkpoint, tmp_path / "r") == "int8"
    second = exported(tmp_path / "r", tmp_path / "two", "int8", "w8a16")
    (_, before), (_, after) = (restore._stored(restore.bundles.load(each)) for each in (first, second))
    assert before.keys() == after.keys()
    for name, value in before.items():
        if value.dtype == np.int8:
            assert np.array_equal(value, after[name]), name
        else:
            np.testing.assert_allclose(after[name], value, rtol=3e-7, atol=1e-9, err_msg=name)


def test_it_is_a_checkpoint_like_any_other(
    trained_models: Path, encoder: Path, data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the command; exported it scores as before, and it teaches and is trained on."""
    assert main(["restore", str(trained_models / "sentiment"), str(encoder), str(tmp_path / "r")]) == 0
    assert "those of the fp32 graph" in capsys.readouterr().out
    written = recorded(tmp_path / "r")
    manifest = restore.bundles.load(trained_models / "sentiment").manifest
    assert written["recipe"]["labels"] == list(manifest.labels)
    assert written["restored"]["precision"] == "fp32"
    dev = str(data_dir / "sst2.tsv")
    again = export.run(Request(tmp_path / "r", tmp_path / "sentiment", dev=(dev,)))
    assert again.max_length == manifest.max_length
    assert [graph.scores for graph in again.graphs] == [graph.scores for graph in manifest.graphs]


def refused(bundle: Path, encoder: Path, output: Path, match: str) -> None:
    with pytest.raises(TrainingError, match=match):
        restore.run(bundle, encoder, output)
    assert not output.exists()


def test_another_encoder_is_refused(trained_models: Path, vocabularies: dict[str, Path], tmp_path: Path) -> None:
    bundle, out = trained_models / "sentiment", tmp_path / "r"
    refused(bundle, encoder_of("albert", vocabularies, tmp_path / "a"), out, "of the family albert, the bundle bert")
    refused(bundle, encoder_of("bert", vocabularies, tmp_path / "v"), out, "another vocabulary")
    for name, shape, match in (
        ("wide", {"intermediate_size": 128}, r"intermediate.dense.weight is \[64, 32\] in the bundle, \[128, 32\]"),
        ("deep", {"num_hidden_layers": 3}, "has no bert.encoder.layer.2"),
    ):
        make_model(**shape).save_pretrained(tmp_path / name)
        save_tokenizer(tmp_path / name)
        refused(bundle, tmp_path / name, out, match)


def test_nothing_is_replaced(trained_models: Path, encoder: Path, tmp_path: Path) -> None:
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "mine.json").write_text(json.dumps(1))
    with pytest.raises(CheckpointError, match="exists: it will not be replaced"):
        restore.run(trained_models / "sentiment", encoder, tmp_path / "r")
    assert [path.name for path in (tmp_path / "r").iterdir()] == ["mine.json"]
