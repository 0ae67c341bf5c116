"""An engine that throws, hangs or dies, and a batch with one guilty row (faults 8 and 9)."""

from pathlib import Path

from bench.chaos import engine_faults


def test_an_engine_that_throws_turns_readiness_off_until_it_works_again(models_dir: Path) -> None:
    result = engine_faults.throwing(models_dir)
    assert result["before"] == (200, 200)
    assert set(result["statuses"]) <= {500, 503}
    assert result["not ready after"] is not None, result.measured()
    assert result["live"] == 200
    assert result["ready again after"] is not None, result.measured()
    assert result["then"] == 200


def test_an_engine_that_hangs_turns_readiness_off_and_then_liveness(models_dir: Path) -> None:
    result = engine_faults.hanging(models_dir, timeout_seconds=1.0)
    assert result["status"] == 504
    assert result["answered after"] < 3.0, result.measured()
    assert result["not ready after"] is not None, result.measured()
    assert result["not live after"] is not None, result.measured()
    assert result["workers lost"] >= 1, result.measured()
    assert result["SIGTERM: exit status"] == 0, result.measured()


def test_a_worker_that_hangs_is_replaced(models_dir: Path) -> None:
    result = engine_faults.hanging_once(models_dir, timeout_seconds=1.0)
    assert result["status"] == 504
    _replaced(result)


def test_a_worker_that_dies_is_replaced(models_dir: Path) -> None:
    result = engine_faults.dying_once(models_dir)
    assert result["status"] in (200, 500, 503)  # 200: the row was run again by another
    _replaced(result)


def _replaced(result: engine_faults.Result) -> None:
    assert result["answered again after"] is not None, result.measured()
    assert result["ready again after"] is not None, result.measured()
    assert result["live"] == 200
    assert result["workers lost"] >= 1, result.measured()


def test_workers_that_die_again_and_again_turn_liveness_off(models_dir: Path) -> None:
    result = engine_faults.dying(models_dir)
    assert result["not live after"] is not None, result.measured()
    assert result["ready"] == 503
    assert 1 <= result["workers lost"] <= 30, result.measured()
    assert set(result["statuses"]) <= {500, 503, 504}, result.measured()


def test_only_the_guilty_row_of_a_batch_fails(models_dir: Path) -> None:
    result = engine_faults.guilty_row(models_dir, others=7)
    assert result["the guilty one"] == 500
    assert result["others answered"] == 7, result.measured()
    assert result["ready"] == 200
