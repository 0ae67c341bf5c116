"""The protocols measured beside Bertie's own, on small bundles: every one is asked and answered."""

import json
from pathlib import Path

import pytest

from bench import protocols


def test_each_is_measured(models_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert protocols.main(["--models", str(models_dir), "--requests", "3"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["p50_ms"].keys() == found["over_by_turn_ms"].keys() | {"text", "question"}
    assert all(value > 0 for value in found["p50_ms"].values())


def test_one_that_does_not_answer_is_named(
    models_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(protocols.OWN, "text", ("/classify", {"text": ""}))
    assert protocols.main(["--models", str(models_dir), "--requests", "1"]) == 1
    assert capsys.readouterr().err.startswith("error: text: 422 ")


def test_a_call_that_fails_is_named(
    models_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocols, "messages", lambda sentiment: {"oip grpc": b""})
    assert protocols.main(["--models", str(models_dir), "--requests", "1"]) == 1
    assert capsys.readouterr().err.startswith("error: oip grpc: INVALID_ARGUMENT ")
