"""Figures and their ratios."""

import json

import pytest

from bench.compare.results import Comparison
from bench.report.figure import Figure


def test_a_slow_round_does_not_bend_a_ratio() -> None:
    mine, theirs = Figure((1.0, 10.0, 1.0, 1.1)), Figure((2.0, 20.0, 2.0, 2.2))
    assert mine.over(theirs) == pytest.approx(0.5)
    drifting = Figure((1.0, 2.0, 4.0)), Figure((1.0, 4.0, 8.0))
    assert drifting[0].over(drifting[1]) == 0.5  # by rounds: 1, 0.5, 0.5


def test_without_common_rounds_the_medians_are_compared() -> None:
    assert Figure((6.0,), estimated=True).over(Figure((1.0, 2.0, 9.0))) == 3.0


def test_json_holds_rounds_and_medians(tiny_comparison: Comparison) -> None:
    loaded = json.loads(tiny_comparison.to_json())
    row = loaded["rows"][1]
    assert row["name"] == "albert-base"
    assert row["parameters"]["total"] == tiny_comparison.rows[1].parameters.total
    latency = row["latency"]["int8"]["16"]
    assert len(latency["values"]) == 2
    assert min(latency["values"]) <= latency["median"] <= max(latency["values"])
    assert latency["estimated"] is False
    assert len(loaded["grid"]) == 8
    total = row["parameters"]["total"]
    assert row["over_weights"]["sizes"]["int8"] == pytest.approx(row["sizes"]["int8"]["median"] / total)
    assert row["over_weights"]["growth"]["fp32"] == pytest.approx(row["growth"]["fp32"]["median"] / (4 * total))
    assert row["int8_over_fp32"]["latency"]["16"] > 0
