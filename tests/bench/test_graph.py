"""The graphs' claims: the whole program on tiny shapes, and what its parts must not miss."""

import json
from pathlib import Path

import pytest

from bench import child, graph
from tests.bench.compare.shapes import run_here
from tests.training.samples import save_checkpoint


def test_everything_on_tiny_shapes(models_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = {"num_labels": 2, "id2label": {0: "negative", 1: "positive"}, "max_position_embeddings": 200}
    checkpoint = save_checkpoint(tmp_path / "checkpoint", "ForSequenceClassification", **labels)
    bundles = [str(models_dir / name) for name in ("sentiment", "qa")]
    arguments = ["--quick", "--checkpoint", str(checkpoint), "--bundle", *bundles, "--shapes", "albert-base"]
    assert graph.main(arguments) == 0
    shown = capsys.readouterr().out
    found = json.loads(shown.splitlines()[-1])

    speed = found["speed"]
    assert set(speed["rates"]) == {"fp32", "int8"}
    assert set(speed["rates"]["int8"]) == {"one by one", "as they come", "sorted batches of 4"}
    assert all(rate > 0 for by_name in speed["rates"].values() for rates in by_name.values() for rate in rates)
    fp32, int8 = (speed["rates"][precision][speed["best"][precision]][0] for precision in ("fp32", "int8"))
    assert speed["ratio"] == pytest.approx(int8 / fp32)
    assert "int8 over fp32, each at its best" in shown

    assert [row["bundle"] for row in found["rows"]] == ["sentiment", "qa"]
    assert all(row["difference"] <= 1e-4 and row["shortest"] < row["longest"] for row in found["rows"])

    (albert,) = found["shapes"]
    assert albert["fused"] == {"fp32": 3, "int8": 3}
    assert set(albert["file"]) == {"fp32", "fp16", "int8"}
    assert set(albert["milliseconds"]) == {"fp32", "int8", "stock fp32", "stock int8"}
    assert albert["gain"] > 0
    # The stock tools store the shared query, key and value once a layer, and miss a layer's attention.
    assert albert["stock"]["fused"] < 3
    assert albert["stock"]["bytes"]["fp32"] > albert["bytes"]["fp32"]
    assert "albert-base, stock" in shown


def test_stock_tools_that_fail_are_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run_here(monkeypatch)
    call = child.call

    def without_stock(module: str, request: dict[str, object]) -> dict[str, object]:
        if module == "bench.graphs.stock":
            raise child.ChildError("ModuleNotFoundError: No module named 'onnxscript'")
        return call(module, request)

    monkeypatch.setattr(child, "call", without_stock)
    assert graph.main(["--quick", "--part", "shapes", "--shapes", "albert-base"]) == 0
    shown = capsys.readouterr().out
    assert "It failed for albert-base: ModuleNotFoundError: No module named 'onnxscript'" in shown
    assert json.loads(shown.splitlines()[-1])["shapes"][0]["gain"] > 0


def test_an_unknown_shape_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert graph.main(["--part", "shapes", "--shapes", "albert-bse"]) == 1
    assert "'albert-bse' is not one of" in capsys.readouterr().err


def test_a_folder_without_a_bundle_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert graph.main(["--part", "rows", "--bundle", str(tmp_path)]) == 1
    assert "manifest.json is missing" in capsys.readouterr().err
