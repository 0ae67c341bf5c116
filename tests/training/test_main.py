"""The command line: tables and JSON on standard output, errors in one line, nothing started that cannot be finished."""

import json
from pathlib import Path

import pytest
from safetensors import SafetensorError

from service.repository import bundle as bundles
from tests.training.samples import QUESTIONS, save_checkpoint, write_sst2
from training.__main__ import main
from training.checkpoints import average


def last_json(text: str) -> dict[str, object]:
    loaded: dict[str, object] = json.loads(text.rstrip("\n").splitlines()[-1])
    return loaded


def test_evaluate_prints_a_table_and_json(
    trained_models: Path, data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(trained_models / "sentiment"), str(data_dir / "sst2.tsv"), "--limit", "6"]) == 0
    output = capsys.readouterr().out
    scores = last_json(output)
    assert (scores["accuracy"], scores["rows"]) == (100.0, 6)
    assert scores["graph"] == "model.int8.onnx"
    lines = output.splitlines()
    assert lines[0] == "sentiment on sst2.tsv"
    assert any(line.split() == ["accuracy", "100.0000"] for line in lines)
    assert any(line.split() == ["rows", "6"] for line in lines)


def test_evaluate_writes_the_official_predictions(
    trained_models: Path, data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "predictions.json"
    arguments = ["evaluate", str(trained_models / "qa"), str(data_dir / "squad-v2.json"), "--predictions", str(out)]
    assert main(arguments) == 0
    scores = last_json(capsys.readouterr().out)
    assert (scores["exact"], scores["f1"], scores["total"]) == (100.0, 100.0, 6)
    assert json.loads(out.read_text()) == {i: answer for i, _, _, answer in QUESTIONS} | {"q5": "", "q6": ""}


def test_evaluate_minds_the_predictions_folder_first(
    trained_models: Path, data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "absent" / "p.json"
    assert (
        main(["evaluate", str(trained_models / "qa"), str(data_dir / "squad-v2.json"), "--predictions", str(out)]) == 1
    )
    captured = capsys.readouterr()
    assert "absent is no folder" in captured.err
    assert not captured.out


def test_export(sentiment_run: Path, data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "models" / "mine"
    arguments = [
        "export", str(sentiment_run / "final"), str(output), "--precision", "int8", "--precision", "int8",
        "--labels", "bad, good", "--max-length", "40", "--without-dev", "--licence", "MIT", "--base-model", "theirs",
    ]  # fmt: skip
    assert main(arguments) == 0
    manifest = bundles.load(output).manifest
    assert (manifest.labels, manifest.max_length, manifest.licence) == (("bad", "good"), 40, "MIT")
    assert (manifest.base_model, len(manifest.graphs)) == ("theirs", 1)
    assert last_json(capsys.readouterr().out) == {"int8": {}}


def test_export_packed(sentiment_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "models" / "mine"
    arguments = [
        "export", str(sentiment_run / "final"), str(output), "--without-dev", "--packed", "--precision", "int8",
    ]  # fmt: skip
    assert main(arguments) == 1
    assert "error: no packed graph is made in int8: they are for GPUs" in capsys.readouterr().err
    assert not output.exists()
    assert main([*arguments, "--precision", "w8a16"]) == 0
    assert "model.int8.onnx, model.w8a16.onnx, model.w8a16.packed.onnx" in capsys.readouterr().out


def test_export_says_why_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = save_checkpoint(tmp_path / "c", "ForSequenceClassification")
    assert main(["export", str(checkpoint), str(tmp_path / "models" / "c"), "--without-dev"]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: the checkpoint's labels are LABEL_0, LABEL_1")
    assert "--labels" in error
    assert not (tmp_path / "models" / "c").exists()


def test_finetune(encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_sst2(tmp_path / "t.tsv", [("good film", "1"), ("bad film", "0"), ("what", "?")])
    path = tmp_path / "r.toml"
    path.write_text(
        f'task = "classification"\ndata = "sst2"\nlabels = ["negative", "positive"]\nmodel = "{encoder}"\n'
        f'train = "{data}"\ndev = "{data}"\noutput = "{tmp_path / "o"}"\nmax_length = 16\n'
    )
    quick = ["finetune", str(path), "--set", "epochs=1", "--set", "batch_size=2"]
    assert main(quick) == 1
    assert "t.tsv:4: unknown label" in capsys.readouterr().err
    assert main([*quick, "--resume", "--allow-bad-data"]) == 1
    assert "nothing to resume from" in capsys.readouterr().err
    assert main([*quick, "--allow-bad-data"]) == 0
    assert last_json(capsys.readouterr().out)["rows"] == 2
    assert json.loads((tmp_path / "o" / "metrics.json").read_text())["recipe"]["batch_size"] == 2
    assert main([*quick, "--set", "epoch=3"]) == 1
    assert "did you mean 'epochs'?" in capsys.readouterr().err


def test_missing_bundle_and_file(trained_models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(tmp_path / "nothing"), "x.tsv"]) == 1
    assert "error: bundle 'nothing'" in capsys.readouterr().err
    assert main(["evaluate", str(trained_models / "sentiment"), str(tmp_path / "x.tsv")]) == 1
    assert "No such file" in capsys.readouterr().err


@pytest.mark.parametrize(
    "raised",
    [
        PermissionError(13, "Permission denied", "/x/y"),
        OSError(28, "No space left on device"),
        SafetensorError("a\n b"),
    ],
)
def test_what_the_system_says_is_one_line(
    raised: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*given: object) -> None:
        raise raised

    monkeypatch.setattr(average, "run", fail)
    assert main(["average", str(tmp_path / "o"), "a", "b"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert " ".join(str(raised).split()) in error


def test_predictions_that_cannot_be_written(
    trained_models: Path, data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle, data = trained_models / "sentiment", data_dir / "sst2.tsv"
    assert main(["evaluate", str(bundle), str(data), "--predictions", str(tmp_path)]) == 1
    assert f"error: [Errno 21] Is a directory: '{tmp_path}'" in capsys.readouterr().err.splitlines()


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nonsense"],
        ["finetune"],
        ["evaluate", "b", "f", "--limit", "-1"],
        ["evaluate", "b", "f", "--limit", "many"],
        ["export", "c", "b", "--precision", "int4"],
        ["export", "c", "b", "--doc-stride", "-1"],
    ],
)
def test_usage_errors(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert "usage: bertie-train" in capsys.readouterr().err
