"""Rates hold in the long run, bursts at once, and a wait that is told is true."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import QueueFull, RateLimited
from service.scheduler.quota import Limits, Quota


class Clock:
    """A clock that tests set."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def make(clock: Clock, before: Quota | None = None, **limits: Any) -> Quota:
    return Quota("team", Limits(**limits), before, clock)


def admitted(quota: Quota, tokens: int = 1, most: int = 1000) -> int:
    """How many requests are admitted one after the other."""
    for count in range(most):
        try:
            quota.take(tokens)
        except RateLimited:
            return count
    return most


def wait(quota: Quota, tokens: int = 1) -> float:
    """What a request that is refused is told."""
    with pytest.raises(RateLimited) as error:
        quota.take(tokens)
    return error.value.retry_after


def test_a_burst_passes_at_once_and_then_the_rate(clock: Clock) -> None:
    quota = make(clock, requests_per_second=5, requests_burst=20)
    assert admitted(quota) == 20
    clock.now += 1
    assert admitted(quota) == 5
    clock.now += 3600
    assert admitted(quota) == 20


@pytest.mark.parametrize(("rate", "burst"), [(5, 5), (0.1, 1)])
def test_a_burst_is_a_seconds_worth_where_none_is_given(clock: Clock, rate: float, burst: int) -> None:
    assert admitted(make(clock, requests_per_second=rate)) == burst


def test_tokens_are_limited_as_requests_are(clock: Clock) -> None:
    quota = make(clock, tokens_per_second=100, tokens_burst=300)
    assert admitted(quota, tokens=60) == 5
    clock.now += 0.6
    assert admitted(quota, tokens=60) == 1


def test_what_is_larger_than_the_burst_passes_when_it_is_full_and_is_paid_off(clock: Clock) -> None:
    quota = make(clock, tokens_per_second=100, tokens_burst=200)
    quota.take(1000)
    assert wait(quota, 1000) == pytest.approx(10.0)
    assert wait(quota, 1) == pytest.approx(8.01)
    clock.now += 10
    quota.take(1000)


def test_who_is_refused_has_taken_nothing(clock: Clock) -> None:
    """Of neither rate: or a client that asks too often would never be let in."""
    quota = make(clock, requests_per_second=1, tokens_per_second=10, tokens_burst=10)
    quota.take(10)
    for _ in range(100):
        assert wait(quota, 10) == pytest.approx(1.0)
    clock.now += 1
    quota.take(10)


@given(
    rates=st.tuples(st.floats(0.01, 1e5), st.floats(1, 1e5), st.floats(0.01, 1e6), st.floats(1, 1e6)),
    taken=st.lists(st.tuples(st.integers(1, 10**6), st.floats(0, 10)), min_size=1, max_size=30),
)
def test_a_wait_that_is_told_is_true(rates: tuple[float, float, float, float], taken: list[tuple[int, float]]) -> None:
    """After it the same request is admitted, and not much earlier."""
    clock = Clock()
    limits = Limits(*rates)
    quota = Quota("team", limits, clock=clock)
    for tokens, pause in taken:
        clock.now += pause
        try:
            quota.take(tokens)
        except RateLimited as error:
            clock.now += 0.9 * error.retry_after - 1e-3
            if error.retry_after > 0.1:
                with pytest.raises(RateLimited):
                    quota.take(tokens)
            clock.now += 0.1 * error.retry_after + 2e-3
            quota.take(tokens)


@given(taken=st.lists(st.tuples(st.integers(1, 400), st.floats(0, 3)), max_size=60))
def test_no_more_passes_in_the_long_run_than_burst_and_rate(taken: list[tuple[int, float]]) -> None:
    clock = Clock()
    quota, began, passed, largest = make(clock, tokens_per_second=100, tokens_burst=200), clock.now, 0, 0
    for tokens, pause in taken:
        clock.now += pause
        try:
            quota.take(tokens)
        except RateLimited:
            continue
        passed, largest = passed + tokens, max(largest, tokens)
        assert passed <= 200 + 100 * (clock.now - began) + max(0, largest - 200) + 1e-3


def test_what_is_given_back_can_be_taken_again(clock: Clock) -> None:
    quota = make(clock, requests_per_second=1, tokens_per_second=10, tokens_burst=100)
    quota.take(100)
    quota.give_back(100)
    assert wait(quota, 100) == pytest.approx(1.0)  # the request counts
    quota.take(100, requests=0)
    with pytest.raises(RateLimited, match="requests a second") as error:
        quota.take(5, requests=0)  # half a second for the tokens, but a whole one for such a request
    assert error.value.retry_after == pytest.approx(1.0)


def test_no_more_than_the_burst_is_ever_there(clock: Clock) -> None:
    quota = make(clock, tokens_per_second=10, tokens_burst=50)
    quota.give_back(1000)
    quota.take(50)
    assert wait(quota, 10) == pytest.approx(1.0)


def test_without_limits_all_passes(clock: Clock) -> None:
    quota = make(clock, share=0.5)
    assert admitted(quota, tokens=10**9) == 1000
    assert not quota.limits.unlimited
    assert Limits().unlimited


def test_new_limits_do_not_forget_what_was_taken(clock: Clock) -> None:
    """Or a client would have a new burst at each change of the file."""
    before = make(clock, requests_per_second=10, tokens_per_second=100, tokens_burst=100)
    before.take(500)
    after = make(clock, before, requests_per_second=10, tokens_per_second=200, tokens_burst=1000)
    assert wait(after, 1) == pytest.approx(401 / 200)
    assert admitted(make(clock, before, requests_per_second=10)) == 9
    assert admitted(make(clock, before, requests_per_second=3)) == 3


def test_the_refusal_says_which_limit_and_is_one_of_too_many_requests(clock: Clock) -> None:
    quota = make(clock, requests_per_second=2, requests_burst=1, tokens_per_second=50)
    quota.take(10)
    with pytest.raises(RateLimited, match=r"team may send 2 requests a second: try again in 0\.5 seconds") as error:
        quota.take(10)
    assert (error.value.status, error.value.reason) == (429, "rate_limit")
    assert isinstance(error.value, QueueFull)  # to protocols that know one kind of 429
    clock.now += 1
    quota.take(50)
    with pytest.raises(RateLimited, match="team may send 50 tokens a second, and this request counts 40"):
        quota.take(40)


def test_each_of_several_processes_has_its_part() -> None:
    whole = Limits(requests_per_second=10, tokens_per_second=300, tokens_burst=90, share=0.5)
    assert whole.of_each(3) == Limits(10 / 3, None, 100, 30, 0.5)
    assert whole.of_each(1) == whole.of_each(0) == whole
