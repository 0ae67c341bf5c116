from pathlib import Path

import pytest

from bench.capacity.costs import Costs, Curve
from bench.errors import BenchError
from tests.bench.capacity.samples import COSTS


def test_a_curve_is_found_again_from_its_points() -> None:
    true = Curve(1e-3, 5e-5, 1e-7)
    points = [(rows, length, true.seconds(rows, length)) for rows in (1, 4) for length in (8, 64, 256)]
    found = Curve.fit(points)
    assert (found.call, found.token, found.square) == pytest.approx((1e-3, 5e-5, 1e-7), rel=1e-6)


def test_no_coefficient_is_below_zero() -> None:
    bent = [(1, length, 1e-4 * length - 1e-8 * length**2) for length in (8, 64, 128, 256)]
    found = Curve.fit(bent)
    assert min(found.call, found.token, found.square) >= 0
    assert found.seconds(1, 100) == pytest.approx(1e-2, rel=0.1)


def test_two_points_are_too_few() -> None:
    with pytest.raises(BenchError, match="three"):
        Curve.fit([(1, 8, 1e-3), (1, 16, 2e-3)])


def test_threads_slow_one_another_and_take_turns() -> None:
    assert COSTS.speed(1) == 1
    assert COSTS.speed(2) == pytest.approx(0.8)
    assert COSTS.speed(1.5) == pytest.approx(0.9)
    assert COSTS.speed(4) == pytest.approx(0.4)  # four share two


def test_they_are_written_and_read(tmp_path: Path) -> None:
    file = tmp_path / "runs" / "costs.json"
    COSTS.save(file)
    assert Costs.load(file) == COSTS


@pytest.mark.parametrize("content", [None, "", "{}", '{"models": {"a": {}}}', "[1]"])
def test_a_file_of_something_else_is_said(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "costs.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(BenchError, match=r"bench\.capacity measure"):
        Costs.load(file)
