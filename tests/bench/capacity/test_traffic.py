import random
from collections import Counter
from itertools import islice

import pytest

from bench.capacity.traffic import Mix, arrivals
from bench.errors import BenchError


def test_a_mix_is_drawn_by_its_weights() -> None:
    mix = Mix.of("a:16=3, a:64=1,b:8=4")
    assert mix.shares == {("a", 16): 0.375, ("a", 64): 0.125, ("b", 8): 0.5}
    drawn = Counter(islice(mix.draw(random.Random(0)), 20_000))
    assert {key: n / 20_000 for key, n in drawn.items()} == pytest.approx(dict(mix.shares), abs=0.02)


@pytest.mark.parametrize("text", ["", "a", "a:x", "a:0", "a:8=-1", "a:8=0", "a:8=x", "a:8,,b:8"])
def test_what_is_no_mix_is_said(text: str) -> None:
    with pytest.raises(BenchError):
        Mix.of(text)


def test_arrivals_follow_the_rate() -> None:
    moments = list(arrivals(lambda now: 200.0 if now < 50 else 20.0, 200.0, 100.0, random.Random(0)))
    assert moments == sorted(moments)
    first = sum(moment < 50 for moment in moments)
    assert (first, len(moments) - first) == (pytest.approx(10_000, rel=0.05), pytest.approx(1000, rel=0.15))
    assert moments[-1] < 100
