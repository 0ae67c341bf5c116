"""Signals (fault 13)."""

from pathlib import Path

from bench.chaos import signals


def test_sigterm_stops_a_service_that_loads_as_process_1_too(bundled_models: Path) -> None:
    result = signals.while_loading(bundled_models, delays=(0.4,))
    assert result["at 0.4 s"] in ("exit 0", "exit 143", "exit -15"), result.measured()


def test_sigint_twice_ends_cleanly(bundled_models: Path) -> None:
    result = signals.interrupted_twice(bundled_models, times=1)
    assert set(result["exit statuses"]) <= {0, 130}, result.measured()
    assert result["after at most"] < 9, result.measured()
    assert result["tracebacks"] == 0


def test_sighup_drains(models_dir: Path) -> None:
    result = signals.hung_up(models_dir)
    assert result["exit status"] == 0
    assert result["the request got"] == 200
