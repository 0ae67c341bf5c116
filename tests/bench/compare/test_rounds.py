"""A comparison from shapes to figures: what is run, in which order, and what becomes of what does not fit."""

from pathlib import Path
from typing import Any

import pytest

from bench import child
from bench.compare import rounds
from bench.compare.options import Options
from bench.compare.results import Comparison
from bench.errors import BenchError
from tests.bench.compare.shapes import Calls, tiny

QUICK = Options(
    lengths=(8, 16), precisions=("int8",), rounds=1, seconds=0.01, workers=1, training_rows=2, training_tokens=8
)


def quick(**changes: Any) -> Options:
    return Options(**{name: getattr(QUICK, name) for name in QUICK.__slots__} | changes)


def run(tmp_path: Path, *names: str, **changes: Any) -> Comparison:
    chosen = tuple(subject for name, subject in tiny().items() if name in names)
    return rounds.run(chosen, quick(**changes), tmp_path)


def test_everything_is_measured(tiny_comparison: Comparison) -> None:
    assert tiny_comparison.left_out == ()
    bert, albert, wide = tiny_comparison.rows
    for row in tiny_comparison.rows:
        assert set(row.sizes) == {"checkpoint", "fp32", "int8"}
        assert set(row.memory) == set(row.growth) == {"fp32", "int8"}
        assert all(row.growth[p].median < row.memory[p].median for p in row.memory)
        for figures in (row.latency, row.throughput):
            assert {p: set(by_length) for p, by_length in figures.items()} == {p: {8, 16, 32} for p in ("fp32", "int8")}
            assert all(len(f.values) == 2 and min(f.values) > 0 for by in figures.values() for f in by.values())
        assert row.training is not None
        assert row.training.median > 0
        assert row.training_memory is not None
    assert (bert.reference, albert.reference, wide.reference) == ("bert-base", "bert-base", "bert-base")
    for row in tiny_comparison.rows:  # four bytes a parameter, shared ones once, and the tensors' names
        assert 4 * row.parameters.total < row.sizes["checkpoint"].median < 4 * row.parameters.total + 12_000
    assert albert.parameters.total < bert.parameters.total / 2


def test_only_what_is_asked_for_is_run(tmp_path: Path, calls: Calls) -> None:
    comparison = run(tmp_path, "bert-base", measures=("files",))
    assert [kind for kind, _ in calls] == ["weights"]
    row = comparison.rows[0]
    assert row.sizes
    assert (row.memory, row.growth, row.latency, row.training) == ({}, {}, {}, None)
    calls.clear()
    comparison = run(tmp_path, "bert-base", measures=("memory",), rounds=3)
    assert [(kind, request.get("tokens")) for kind, request in calls] == [("weights", None), ("serving", [])]
    calls.clear()
    comparison = run(tmp_path, "bert-base", measures=("training",))
    assert {kind for kind, _ in calls} == {"steps"}  # which needs no files
    assert comparison.rows[0].sizes == {}
    calls.clear()
    comparison = run(tmp_path, "bert-base", measures=())
    assert calls == []
    assert comparison.rows[0].parameters.total > 0


def test_rounds_go_forth_and_back(tmp_path: Path, calls: Calls) -> None:
    run(tmp_path, "bert-base", "albert-base", measures=("speed",), rounds=2, lengths=(8,))
    served = [Path(request["graph"]).parent.name for kind, request in calls if kind == "serving"]
    # the trial for the machine's speed, then the rounds
    assert served == ["bert-base", "bert-base", "albert-base", "albert-base", "bert-base"]


def test_nothing_is_left_behind(tmp_path: Path, calls: Calls) -> None:
    run(tmp_path, "bert-base", measures=("files",))
    assert list(tmp_path.iterdir()) == []


def test_expensive_lengths_are_estimated_when_time_is_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of exactly 1 MFLOP/s, so that everything can be reckoned."""
    speed = 1e6
    flops_of = {name: subject.config for name, subject in tiny().items()}

    def call(module: str, request: dict[str, Any]) -> dict[str, Any]:
        if module.endswith("weights"):
            return {"checkpoint": 100, "int8": 50}
        config = flops_of[Path(request["graph"]).parent.name]
        per_row = {t: rounds.flops.forward(config, t) / speed for t in request["tokens"]}
        return {
            "memory": 1, "growth": 1, "peak": 1,
            "cells": {str(t): {"latency": s, "throughput": 1 / s} for t, s in per_row.items()},
        }  # fmt: skip

    monkeypatch.setattr(child, "call", call)
    config = flops_of["bert-base"]
    row8, row64 = (rounds.flops.forward(config, t) / speed for t in (8, 64))
    # a cell costs a warming call, a call, and a batch of 64 tokens
    short = row8 * (2 + 8) + 0.1
    comparison = run(
        tmp_path, "bert-base", measures=("speed",), lengths=(8, 64), batch_tokens=64, minutes=short / 60, seconds=0.001
    )
    row = comparison.rows[0]
    measured, estimated = row.latency["int8"][8], row.latency["int8"][64]
    assert (measured.estimated, estimated.estimated) == (False, True)
    assert estimated.median == pytest.approx(row64)
    assert row.throughput["int8"][64].median == pytest.approx(1 / row64)
    assert len(comparison.left_out) == 1
    assert comparison.left_out[0].startswith(
        f"bert-base, int8, 64 tokens: about {row64:.1f} s for a row, by bert-base's"
    )


def test_no_time_at_all(tmp_path: Path, calls: Calls) -> None:
    comparison = run(tmp_path, "bert-base", measures=("speed", "training"), minutes=0.0)
    assert comparison.rows[0].latency == {}
    assert len(comparison.left_out) == 3
    assert all("the time does not allow a call" in sentence for sentence in comparison.left_out)


def test_what_does_not_fit_in_memory_is_said_and_not_run(tmp_path: Path, calls: Calls) -> None:
    comparison = run(tmp_path, "bert-base", "albert-base", memory=1_000_000)
    assert calls == []
    assert comparison.left_out[0] == ("bert-base: writing its files would take about 0.6 GB of memory; there is 0.0 GB")
    for row in comparison.rows:
        assert all(figure.estimated for figure in (*row.sizes.values(), *row.memory.values()))
        assert row.training_memory is not None
        assert row.training_memory.estimated
    assert any("a training step would take about" in sentence for sentence in comparison.left_out)


def test_a_model_too_large_to_serve_is_estimated_from_the_others(
    tmp_path: Path, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {row.name: row.sizes for row in run(tmp_path, "albert-base", "albert-xlarge", measures=("files",)).rows}
    monkeypatch.setattr(rounds.budget, "LIBRARIES", 0)
    monkeypatch.setattr(rounds.budget, "serve_bytes", lambda file: file * 100)
    limit = 100 * int(files["albert-base"]["int8"].median)
    comparison = run(tmp_path, "albert-base", "albert-xlarge", measures=("memory", "speed"), memory=limit)
    small, large = comparison.rows
    assert not large.sizes["int8"].estimated
    assert large.memory["int8"].estimated
    assert not small.latency["int8"][16].estimated
    assert large.latency["int8"][16].estimated
    assert large.latency["int8"][16].median == pytest.approx(
        small.latency["int8"][16].median * large.flops[16] / small.flops[16]
    )


@pytest.mark.parametrize("error", [child.KilledError, child.ChildError])
def test_a_process_that_ends_badly_costs_its_own_figures_alone(
    tmp_path: Path, calls: Calls, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    call = child.call

    def killed(module: str, request: dict[str, Any]) -> dict[str, Any]:
        if "albert" in str(request.get("graph", "")):
            calls.append(("killed", request))
            raise error("signal 9")
        return call(module, request)

    monkeypatch.setattr(child, "call", killed)
    comparison = run(tmp_path, "bert-base", "albert-base", measures=("speed",), rounds=3)
    bert, albert = comparison.rows
    assert len(bert.latency["int8"][8].values) == 3
    assert albert.latency == {}
    assert comparison.left_out == ("albert-base, int8, round 1: signal 9",)
    assert [kind for kind, _ in calls].count("killed") == 1


def test_a_length_beyond_the_positions_is_refused(tmp_path: Path, calls: Calls) -> None:
    with pytest.raises(BenchError, match="rows of 65 tokens are more than the 64 positions of bert-base"):
        run(tmp_path, "bert-base", lengths=(8, 65))
    with pytest.raises(BenchError, match="rows of 70 tokens"):
        run(tmp_path, "bert-base", measures=("training",), training_tokens=70)
    assert calls == []


def test_a_length_that_nothing_runs_is_not_refused(tmp_path: Path, calls: Calls) -> None:
    comparison = run(tmp_path, "bert-base", lengths=(8, 65), measures=("files", "memory"), training_tokens=70)
    assert comparison.rows[0].flops.keys() == {8, 65}


def test_a_full_disk_is_said_before_anything_is_written(
    tmp_path: Path, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds.shutil, "disk_usage", lambda path: rounds.shutil._ntuple_diskusage(9, 9, 0))
    with pytest.raises(BenchError, match=r"0\.0 GB is free there"):
        run(tmp_path, "bert-base")
    assert calls == []
