"""What one key's flood does to another is measured on a real service; what the gate costs, in this process."""

import json
from pathlib import Path

import pytest

from bench import keys


def test_both_parts_on_a_small_service(models_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--models", str(models_dir), "--rows", "2", "--connections", "4", "--seconds", "0.4", "--rounds", "1"]
    assert keys.main(["--part", "fairness", *arguments]) == 0
    line, last = capsys.readouterr().out.splitlines()
    (found,) = json.loads(last)["fairness"]
    assert (found["rows"], found["connections"]) == (2, 4)
    assert found["unanswered"] == 0
    assert found["p95_alone"] >= found["p50_alone"] > 0
    assert found["flood"]["200"] > 0
    assert line.startswith("4 connections of 2 rows: p50 ")


def test_the_ratio_is_of_p95() -> None:
    beside = keys.Beside(1, 32, 0.001, 0.002, 0.002, 0.005, 3, {200: 7, 429: 9})
    assert beside.ratio == 2.5
    assert beside.words() == (
        "32 connections of 1 rows: p50 1.0 ms alone, 2.0 beside; p95 2.0 alone, 5.0 beside, 2.50 x (wanted ≤ 1.5 x); "
        "3 unanswered; the flood got 7 x 200, 9 x 429"
    )


def test_what_the_gate_takes_is_measured_with_keys_and_without() -> None:
    found = keys.cost(times=3, rounds=2)
    assert len(found) == 4
    assert all(0 < seconds < 0.1 for seconds in found.values())
