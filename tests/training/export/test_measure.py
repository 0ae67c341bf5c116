"""What is fitted and held to what: on the graph that CPUs run, over the whole of the data."""

import json
from pathlib import Path
from typing import Any

import pytest

from service.engine.tokenizer import Tokenizer
from service.repository import bundle as bundles
from service.repository.manifest import TOKENIZER
from service.tasks import MultiLabelTask, build
from tests.training.samples import SENTENCES, recipe, write_sst2, write_text
from training.evaluate import profile
from training.evaluate import runner as evaluate
from training.export import measure
from training.export import runner as export
from training.export.runner import Request
from training.finetune import runner as finetune


def many(path: Path, count: int = 120) -> str:
    """The sentences over and over, every seventh with the wrong label."""
    rows = [SENTENCES[i % len(SENTENCES)] for i in range(count)]
    wrong = {"0": "1", "1": "0"}
    return write_sst2(path, [(text, wrong[label] if i % 7 == 0 else label) for i, (text, label) in enumerate(rows)])


def test_calibrated_on_a_hundred_answers(sentiment_run: Path, tmp_path: Path) -> None:
    """The tiny model is far too sure of itself, since a seventh of these labels is wrong."""
    output = tmp_path / "models" / "sentiment"
    export.run(Request(sentiment_run / "final", output, dev=(many(tmp_path / "d" / "dev.tsv"),)))
    manifest = bundles.load(output).manifest
    calibration = manifest.calibration
    assert calibration is not None
    assert (calibration.data, calibration.rows) == ("d/dev.tsv", 120)
    assert manifest.temperature > 1.2
    assert calibration.ece_after < calibration.ece_before
    assert manifest.files.keys() >= {"README.md", "reliability.svg"}
    assert manifest.profile is not None
    assert (manifest.profile.data, manifest.profile.inputs) == (("d/dev.tsv",), 120)
    assert manifest.profile == profile.add(output, [str(tmp_path / "d" / "dev.tsv")])  # under the fitted temperature
    card = (output / "README.md").read_text()
    assert f"divided by {manifest.temperature:.3f}" in card
    assert f"{calibration.ece_before:.2f} % before, {calibration.ece_after:.2f} % after" in card
    assert "(reliability.svg)" in card


def tags(path: Path, count: int, wrong: int) -> str:
    """The sentences over and over with the labels "kind" and "film"; of those, one of `wrong` is wrong, if not 0."""
    lines = []
    for i in range(count):
        text, label = SENTENCES[i % len(SENTENCES)]
        holds = {"kind": label == "1", "film": "film" in text}
        flipped = {
            name: held ^ bool(wrong and (i // 3 + j) % wrong == 0) for j, (name, held) in enumerate(holds.items())
        }
        lines.append(json.dumps({"text": text, "label": [name for name, held in flipped.items() if held]}) + "\n")
    return write_text(path, "".join(lines))


def test_several_labels_are_calibrated_too(encoder: Path, tmp_path: Path) -> None:
    """The threshold moves with the scores: what was measured with it stands."""
    path = tags(tmp_path / "d" / "dev.jsonl", 120, wrong=6)
    train = tags(tmp_path / "d" / "train.jsonl", len(SENTENCES), wrong=0)
    table = {"data": "table", "labels": ("film", "kind"), "multi_label": True, "epochs": 40.0}
    finetune.run(recipe(encoder, tmp_path / "run", train, **table))
    output = tmp_path / "models" / "tags"
    manifest = export.run(Request(tmp_path / "run" / "final", output, dev=(path,)))
    assert manifest.calibration is not None
    assert (manifest.calibration.data, manifest.calibration.rows) == ("d/dev.jsonl", 240)
    assert manifest.temperature > 1.2  # it is far too sure of itself
    assert manifest.calibration.ece_after < manifest.calibration.ece_before
    card = (output / "README.md").read_text()
    assert "taking each label that holds as right" in card
    assert f"scored over {manifest.label_threshold:.4f}" in card
    bundle = bundles.load(output)
    task = build(bundle.manifest, Tokenizer.from_file(output / TOKENIZER))
    assert isinstance(task, MultiLabelTask)
    assert (task.temperature, task.threshold) == (manifest.temperature, manifest.label_threshold)
    scores, _ = evaluate.bundle(bundle, path, device="cpu")
    exported = next(graph.scores["d/dev.jsonl"] for graph in manifest.graphs if graph.precision == "int8")
    assert {name: scores[name] for name in exported} == exported


def test_fp32_is_run_on_as_many_as_the_limit_says(
    sentiment_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[Any] = []
    monkeypatch.setattr(measure.gate, "scores", lambda *given: compared.append(given))
    dev = many(tmp_path / "d" / "dev.tsv")
    manifest = export.run(Request(sentiment_run / "final", tmp_path / "models" / "x", dev=(dev,), gate_limit=30))
    rows = {graph.precision: graph.scores["d/dev.tsv"]["rows"] for graph in manifest.graphs}
    assert rows == {"int8": 120, "fp32": 30}
    ((reference, quantised, precision, main),) = compared
    assert (precision, main) == ("int8", "accuracy")
    assert reference["d/dev.tsv"]["rows"] == quantised["d/dev.tsv"]["rows"] == 30


def test_spread_over_the_whole() -> None:
    assert measure._spread(10, 4) == [0, 2, 5, 7]
    assert measure._spread(3, 0) == measure._spread(3, 3) == measure._spread(3, 9) == [0, 1, 2]
