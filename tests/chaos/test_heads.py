"""Heads without end, slow ones and silence (faults 1 and 7)."""

from pathlib import Path

from bench.chaos import heads
from bench.chaos.result import Result


def test_an_endless_head_is_cut_off_and_costs_nobody_else(models_dir: Path) -> None:
    result = heads.endless_heads(models_dir, size=30_000_000, seconds=2.0, peers=1)
    for name in ("64 KB in one head", "101 lines"):
        assert result[f"{name}: status"] == 431, result.measured()
        assert result[f"{name}: closed"], result.measured()
    for kind in heads.HEADS:
        assert result[f"{kind}: taken at most"] < 16, result.measured()
    _harmless(result, heads.HEADS)


def test_an_endless_trailer_or_extension_is_cut_off_and_costs_nobody_else(models_dir: Path) -> None:
    result = heads.endless_trailers(models_dir, seconds=4.0, peers=1)
    _harmless(result, heads.TRAILERS)


def _harmless(result: Result, kinds: heads.Kinds) -> None:
    for kind in kinds:
        assert not result[f"{kind}: left open"], result.measured()
    assert result["RSS grown by"] < 100, result.measured()
    assert result["others unanswered"] == 0, result.measured()
    assert result["others' p99 beside"] < 6 * result["others' p99 alone"] + 50, result.measured()


def test_heads_within_the_limits_are_answered(models_dir: Path) -> None:
    result = heads.heads_within(models_dir)
    assert result.met, result.measured()


def test_slow_clients_and_silent_ones_are_closed_in_time(models_dir: Path) -> None:
    result = heads.slow_clients(
        models_dir, heads=150, bodies=60, silent=30, head_seconds=1.0, timeout_seconds=2.0, drain_seconds=1.0
    )
    for kind, seconds in (("slow heads", 1.0), ("silent", 1.0), ("half bodies", 2.0)):
        assert result[f"{kind}: opened"], result.measured()
        assert not result[f"{kind}: left open"], result.measured()
        assert result[f"{kind}: last after"] < 3 * seconds + heads.LINGER_SECONDS, result.measured()
    assert result["others unanswered"] == 0, result.measured()
    assert result["at SIGTERM: connections open"] > 100
    assert result["SIGTERM: exit status"] == 0
    assert result["SIGTERM: took"] < 3.0, result.measured()


def test_half_bodies_hold_little_memory(models_dir: Path) -> None:
    result = heads.slow_clients(models_dir, heads=0, silent=0, head_seconds=1.0, timeout_seconds=2.0, stop=False)
    assert result["half bodies: opened"] == 300
    assert result["RSS grown by"] < 200, result.measured()


def test_clients_that_read_no_answer_are_closed(models_dir: Path) -> None:
    result = heads.unread_answers(models_dir, timeout_seconds=1.0, drain_seconds=1.0)
    assert result["answers unread"] > 20
    assert not result["left open"], result.measured()
    assert result["RSS grown by"] < 150, result.measured()
    assert result["SIGTERM: exit status"] == 0
    assert result["SIGTERM: took"] < 3.0, result.measured()
