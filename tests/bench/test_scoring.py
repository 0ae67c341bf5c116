"""Scoring against loops: each way answers all rows, and all are printed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bench import scoring


def test_each_way_is_measured(models_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert scoring.main(["--model", str(models_dir / "sentiment"), "--rows", "64", "--rounds", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [re.split(r"  +", line)[0] for line in lines] == ["row by row", "one list", "score"]
    for line in lines:
        found = re.search(r"(\d+) rows/s +([\d.]+) CPU ms a row +score is ([\d.]+) x", line)
        assert found
        assert all(float(each) > 0 for each in found.groups())
    assert lines[-1].endswith("score is 1.00 x")
