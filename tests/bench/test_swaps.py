"""A few swaps of a real service under load, and the verdict."""

import asyncio
import contextlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench import serving, swaps
from bench.load import Load
from bench.swaps import Round

QUIET = Load(seconds=5.0, answered=100, errors=0, p50=0.01, p95=0.02, p99=0.03)
GOOD = Round(QUIET, replace(QUIET, p99=0.036), (0.5, 0.7), 0, {"1": 50, "2": 50})


def test_a_few_swaps(models_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(swaps, "FIRST_SECONDS", 0.5)
    monkeypatch.setattr(swaps, "SETTLE_SECONDS", 0.5)
    monkeypatch.setattr(swaps, "P99_RATIO", 100.0)
    monkeypatch.setattr(swaps, "GROWTH", 1.0)
    arguments = ["--rounds", "1", "--swaps", "3", "--memory-swaps", "3", "--connections", "4"]
    assert swaps.main([*arguments, "--bundle", str(models_dir / "sentiment")]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    (measured,) = found["rounds"]
    assert len(measured["seconds"]) == len(found["resident"]) == 3
    assert measured["quiet"]["answered"] > 10
    assert measured["versions"]["1"] > 0 < measured["versions"]["2"]
    assert (measured["mixed"], measured["swapped"]["errors"]) == (0, 0)


def test_no_bundle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert swaps.main(["--bundle", str(tmp_path)]) == 1
    assert "no bundle" in capsys.readouterr().err


@contextlib.contextmanager
def nobody(*_: object, **__: object) -> Iterator[tuple[None, str]]:
    yield None, ""


@pytest.mark.parametrize(
    ("found", "resident", "status"),
    [
        (GOOD, [90, 100, 101, 104], 0),
        (replace(GOOD, swapped=replace(QUIET, p99=0.046)), [90, 100, 101, 104], 1),
        (replace(GOOD, mixed=1), [90, 100, 101, 104], 1),
        (replace(GOOD, swapped=replace(QUIET, errors=1)), [90, 100, 101, 104], 1),
        (GOOD, [90, 100, 106, 104], 1),
    ],
)
def test_verdict(
    found: Round, resident: list[int], status: int, monkeypatch: pytest.MonkeyPatch, models_dir: Path
) -> None:
    async def measured(*_: Any) -> Round:
        return found

    async def memory(*_: Any) -> list[int]:
        return resident

    async def scores(*_: Any) -> dict[bytes, dict[str, float]]:
        return {}

    monkeypatch.setattr(serving, "bertie", nobody)
    for name, made in (("_round", measured), ("_memory", memory), ("_scores", scores)):
        monkeypatch.setattr(swaps, name, made)
    assert swaps.main(["--rounds", "1", "--bundle", str(models_dir / "sentiment")]) == status


def test_a_swap_that_is_refused_ends_it(models_dir: Path, tmp_path: Path) -> None:
    swaps.make_versions(models_dir / "sentiment", tmp_path)
    with (
        serving.bertie(tmp_path, BERTIE_ADMIN_KEY=swaps.KEY) as (_, url),
        pytest.raises(swaps.BenchError, match="version 7 was not promoted: 422"),
    ):
        asyncio.run(swaps._promote(url, "7"))
