"""A log that nobody reads (fault 6)."""

from pathlib import Path

from bench.chaos import logs


def test_a_log_that_nobody_reads_stops_nothing(models_dir: Path) -> None:
    result = logs.unread_log(models_dir, requests=5000)
    assert result["answered"] == 5000, result.measured()
    assert result["lines dropped"] > 0, result.measured()
    assert result["SIGTERM: exit status"] == 0, result.measured()
    assert result["SIGTERM: took"] < 10, result.measured()
