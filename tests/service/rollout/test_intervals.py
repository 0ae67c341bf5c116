"""Intervals, McNemar's test and the sketch, held to published examples and to plain computations."""

import math
import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.rollout.intervals import ACCURACY, LEAST, MOST, Mean, Sketch, mcnemar, ratio, wilson


@pytest.mark.parametrize(
    ("hits", "of", "low", "high"),
    [  # Newcombe 1998 (Statistics in Medicine 17:857), table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson(hits: int, of: int, low: float, high: float) -> None:
    assert wilson(hits, of) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))
    assert wilson(of - hits, of) == (pytest.approx(1 - high, abs=5e-5), pytest.approx(1 - low, abs=5e-5))


def test_wilson_of_nothing_and_at_the_ends() -> None:
    assert wilson(0, 0) == (0.0, 1.0)
    assert wilson(0, 3)[0] == 0.0
    assert wilson(3, 3)[1] == 1.0


def test_mcnemar_of_a_published_example() -> None:
    """Fagerland et al. 2013, section "Examples": 1 and 7 discordant pairs; 0.070 exact, 0.039 mid-p."""
    assert mcnemar(1, 7) == mcnemar(7, 1) == pytest.approx(10 / 256)


def binomial(k: int, n: int) -> float:
    return math.comb(n, k) / 2**n


@pytest.mark.parametrize(("first", "second"), [(0, 5), (3, 4), (10, 20), (0, 1), (200, 260), (1000, 1100)])
def test_mcnemar_is_the_sum_of_the_tails(first: int, second: int) -> None:
    n, k = first + second, min(first, second)
    exact = 2 * sum(binomial(i, n) for i in range(k + 1))
    assert mcnemar(first, second) == pytest.approx(exact - binomial(k, n), rel=1e-9)


def test_mcnemar_without_a_difference() -> None:
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(50, 50) == pytest.approx(1.0)
    assert 0 <= mcnemar(0, 100_000) < 1e-300


def test_mean_and_its_interval() -> None:
    mean = Mean()
    mean.add(2.0)
    assert (mean.value, mean.interval) == (2.0, None)
    values = [2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0]
    for value in values[1:]:
        mean.add(value)
    half = 1.959963984540054 * statistics.stdev(values) / math.sqrt(len(values))
    assert mean.value == pytest.approx(5.0)
    assert mean.interval == (pytest.approx(5.0 - half), pytest.approx(5.0 + half))


@given(st.lists(st.floats(LEAST * 1.01, MOST), min_size=1, max_size=60), st.sampled_from([0.0, 0.5, 0.95, 0.99, 1.0]))
def test_a_quantile_is_as_accurate_as_is_said(values: list[float], share: float) -> None:
    sketch = Sketch()
    for value in values:
        sketch.add(value)
    wanted = sorted(values)[max(1, math.ceil(share * len(values))) - 1]
    assert sketch.quantile(share) == pytest.approx(wanted, rel=1.05 * ACCURACY)
    assert sketch.quantile(share) <= sketch.most == max(values)


def test_what_is_out_of_range_is_counted_still() -> None:
    sketch = Sketch()
    assert sketch.quantile(0.5) == 0.0
    for value in (0.0, LEAST / 2, 1e9):
        sketch.add(value)
    assert sketch.quantile(0.5) == 0.0
    assert sketch.quantile(1.0) == pytest.approx(MOST, rel=0.02)
    assert sketch.most == 1e9


def test_a_sketch_is_bounded() -> None:
    sketch, draw = Sketch(), random.Random(1)
    for _ in range(100_000):
        sketch.add(math.exp(draw.uniform(-20, 20)))
    assert len(sketch._buckets) <= 1400


def test_the_interval_of_a_quantile_holds_it_as_often_as_is_said() -> None:
    draw, held, tries = random.Random(7), 0, 300
    true = -math.log(0.05)  # the 95th percentile of the exponential distribution
    for _ in range(tries):
        sketch = Sketch()
        for _ in range(400):
            sketch.add(draw.expovariate(1.0))
        interval = sketch.interval(0.95)
        assert interval is not None
        held += interval[0] * (1 - ACCURACY) <= true <= interval[1] * (1 + ACCURACY)
    assert 0.92 <= held / tries <= 1.0


def test_too_few_values_have_no_interval() -> None:
    sketch = Sketch()
    for value in range(1, 40):
        sketch.add(value)
    assert sketch.interval(0.95) is None
    assert sketch.interval(0.5) is not None


def test_the_ratio_of_two_quantiles() -> None:
    draw, first, second = random.Random(3), Sketch(), Sketch()
    assert ratio(first, second, 0.95) == (0.0, None)
    for _ in range(3000):
        value = draw.lognormvariate(-4, 0.3)
        first.add(value)
        second.add(value * 1.3)
    found, interval = ratio(first, second, 0.95)
    assert found == pytest.approx(1.3, rel=0.03)
    assert interval is not None
    assert 1.1 < interval[0] < 1.3 < interval[1] < 1.5
    assert found == pytest.approx(math.sqrt(interval[0] * interval[1]))
    few = Sketch()
    few.add(0.01)
    assert ratio(few, second, 0.95)[1] is None


def test_the_interval_of_a_ratio_holds_it_as_often_as_is_said() -> None:
    draw, held, tries = random.Random(11), 0, 200
    for _ in range(tries):
        first, second = Sketch(), Sketch()
        for _ in range(300):
            first.add(draw.expovariate(1.0))
            second.add(draw.expovariate(0.5))
        _, interval = ratio(first, second, 0.95)
        assert interval is not None
        held += interval[0] <= 2.0 <= interval[1]
    assert held / tries >= 0.9
