"""Probes beside a flood (fault 3)."""

from pathlib import Path

from bench.chaos import probes


def test_probes_never_queue_behind_a_flood(bundled_models: Path) -> None:
    result = probes.probes(bundled_models, connections=500, seconds=5.0)
    assert result["port of their own"]
    for name in ("live", "ready", "metrics"):
        assert result[f"{name}: good"] >= 8, result.measured()
        assert result[f"{name}: bad"] == 0, result.measured()
        assert result[f"{name}: p99"] < 750, result.measured()
