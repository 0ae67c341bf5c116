"""The command line of the comparison, and the document that it fills."""

import json
import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest

from bench import child
from bench.compare.__main__ import main
from tests.bench.compare.shapes import Calls

DOCUMENT = Path(__file__).parents[3] / "docs" / "albert-vs-bert.md"


def test_parameters_only_counts_the_real_six(capsys: pytest.CaptureFixture[str], calls: Calls, tmp_path: Path) -> None:
    """And docs/albert-vs-bert.md says what it says: filling it again changes nothing."""
    copy = tmp_path / "doc.md"
    copy.write_text(DOCUMENT.read_text(encoding="utf-8"), encoding="utf-8")
    assert main(["--parameters-only", "--fill", str(copy)]) == 0
    output = capsys.readouterr().out
    counts = json.loads(output.splitlines()[-1])
    assert counts == {
        "bert-base": 109_482_240, "albert-base": 11_683_584, "bert-large": 335_141_888, "albert-large": 17_683_968,
        "albert-xlarge": 58_724_864, "albert-xxlarge": 222_595_584,
    }  # fmt: skip
    row = next(line.split() for line in output.splitlines() if line.split()[:1] == ["albert-xxlarge"])
    assert row[-2:] == ["222.6", "235"]
    assert calls == []
    assert copy.read_text(encoding="utf-8") == DOCUMENT.read_text(encoding="utf-8")


@pytest.mark.usefixtures("tiny_sizes", "calls")
def test_a_run_writes_json_and_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "deep" / "out"
    arguments = [
        "--sizes", "albert-base,bert-base", "--out", str(out), "--lengths", "16,8", "--precisions", "int8",
        "--rounds", "1", "--seconds", "0.01", "--workers", "1", "--training-batch", "2x8",
    ]  # fmt: skip
    assert main(arguments) == 0
    output = capsys.readouterr().out
    assert output.splitlines()[-2:] == [str(out / "compare.json"), str(out / "compare.html")]
    loaded = json.loads((out / "compare.json").read_text())
    assert [row["name"] for row in loaded["rows"]] == ["bert-base", "albert-base"]
    assert list(loaded["rows"][0]["latency"]["int8"]) == ["8", "16"]
    assert loaded["settings"]["training_tokens"] == 8
    assert (out / "compare.html").read_text().startswith("<!doctype html>")
    assert sorted(path.name for path in out.iterdir()) == ["compare.html", "compare.json"]
    assert re.search(r"albert-base +int8 +8 ", output)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sizes", "bert-basic"], "did you mean 'bert-base'?"),
        (["--measure", "files,heat"], "--measure 'heat' is not one of files, memory, speed, training"),
        (["--measure", "trainings"], "did you mean 'training'?"),
        (["--fill", "absent.md"], "--fill absent.md is no file"),
        (["--precisions", "int4"], "--precisions 'int4' is not one of fp32, int8"),
        (["--checkpoint", "a=x", "--checkpoint", "a=y"], "names a model twice"),
        (["--checkpoint", "a=absent"], "absent is no folder"),
        (["--lengths", "600", "--sizes", "bert-base"], "more than the 512 positions"),
    ],
)
def test_errors_are_one_line(
    arguments: list[str], message: str, tmp_path: Path, calls: Calls, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--out", str(tmp_path), *arguments]) == 1
    assert message in capsys.readouterr().err
    assert calls == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rounds", "0"], "'0' is no whole number above 0"),
        (["--rounds", "many"], "'many' is no whole number above 0"),
        (["--lengths", "8,-1"], "'-1' is no whole number above 0"),
        (["--lengths", ","], "names nothing"),
        (["--measure", ""], "names nothing"),
        (["--seconds", "0"], "'0' is no number above 0"),
        (["--minutes", "nan"], "'nan' is no number above 0"),
        (["--memory", "8GB"], "'8GB' is no number above 0"),
        (["--training-batch", "8"], "'8' is not ROWSxTOKENS"),
        (["--checkpoint", "bert-base"], "'bert-base' is not NAME=FOLDER"),
    ],
)
def test_usage_errors(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([*arguments])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert "usage: python -m bench.compare" in error
    assert message in error


QUICK = ["--sizes", "bert-base", "--lengths", "8", "--precisions", "int8", "--rounds", "1", "--seconds", "0.01"]


@pytest.mark.usefixtures("tiny_sizes", "calls")
def test_the_figures_are_kept_where_filling_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "page.md").write_text("no markers\n")
    arguments = [*QUICK, "--measure", "files", "--out", str(tmp_path / "out"), "--fill", str(tmp_path / "page.md")]
    assert main([*arguments]) == 1
    assert "has no marker" in capsys.readouterr().err
    assert json.loads((tmp_path / "out" / "compare.json").read_text())["rows"][0]["sizes"]["int8"]


@pytest.mark.usefixtures("tiny_sizes")
def test_sigterm_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGTERM)

    def told_to_end(module: str, request: dict[str, Any]) -> dict[str, Any]:
        assert [path.name[:9] for path in tmp_path.iterdir()] == [".compare-"]
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("it did not end")

    monkeypatch.setattr(child, "call", told_to_end)
    with pytest.raises(SystemExit) as stop:
        main([*QUICK, "--measure", "files", "--out", str(tmp_path)])
    assert stop.value.code == 143
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(signal.SIGTERM) is before
