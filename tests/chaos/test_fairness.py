"""Polite clients beside greedy ones (faults 4 and 5)."""

from pathlib import Path

from bench.chaos import fairness


def test_who_obeys_retry_after_is_admitted_beside_a_flood(bundled_models: Path) -> None:
    result = fairness.polite(bundled_models, clients=8, connections=64, seconds=20.0)
    assert result["answered"] == 8, result.measured()
    assert result["by the third"] == 8, result.measured()


def test_long_documents_keep_no_short_question_out_or_waiting(bundled_models: Path) -> None:
    result = fairness.short_beside_long(bundled_models, windows=16, seconds=3.0, rounds=1)
    assert result["short answered"] > 20, result.measured()
    assert result["short refused"] == 0, result.measured()
    assert result["short with neither"] == 0, result.measured()
    assert result["documents answered"] > 0, result.measured()
    assert result["ratio"] < 6, result.measured()
