"""Who is admitted while how much is in flight, and that everything is given back."""

import contextlib
import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import QueueFull, RateLimited
from service.scheduler.permits import (
    BYTES_PER_TOKEN,
    LONG_BUDGET,
    LONG_TOKENS,
    MOST_COUNTED,
    REQUEST_TOKENS,
    SHARE,
    Permit,
    Permits,
)
from service.scheduler.quota import Limits, Quota

TOKENS = 32768
"""A budget of short requests in which a long one is not the largest that is counted whole."""


def make(requests: int = 10**6, tokens: int = TOKENS, rate: float = 0.0) -> Permits:
    return Permits(requests, tokens, lambda: rate)


def holds(permits: Permits) -> dict[str, int]:
    """What is in flight, of what kinds."""
    budgets = {"requests": permits.requests, "tokens": permits.short, "long tokens": permits.long}
    return {kind: budget.held for kind, budget in budgets.items() if budget.held}


def clients(permits: Permits) -> list[Any]:
    """The amounts that clients hold, of whatever kind."""
    return [held for budget in (permits.requests, permits.short, permits.long) for held in budget.held_by.values()]


def fill(permits: Permits, body_bytes: int = 0, clients: Any = None) -> list[Permit]:
    """Permits until there are no more, each for another client or for the one that is given."""
    held = []
    for i in itertools.count():
        try:
            held.append(permits.acquire(i if clients is None else clients, body_bytes))
        except QueueFull:
            return held
    raise AssertionError


# ---- bounds ---------------------------------------------------------------------------------------------------------


def test_requests_in_flight_are_bounded() -> None:
    permits = make(requests=10)
    held = fill(permits)
    assert len(held) == 10
    with pytest.raises(QueueFull, match=r"10 requests are in flight, 0 of this client's; the limit is 10"):
        permits.acquire("another", 0)
    held[0].release()
    permits.acquire("another", 0)


def test_tokens_in_flight_are_bounded() -> None:
    """By their estimate from the body's length."""
    permits = make(tokens=10 * 116)
    assert len(fill(permits, 100 * BYTES_PER_TOKEN)) == 10
    assert holds(permits)["tokens"] == 10 * (100 + REQUEST_TOKENS)


def test_long_requests_have_a_budget_of_their_own() -> None:
    permits = make()
    books = fill(permits, (LONG_TOKENS + 1) * BYTES_PER_TOKEN)
    assert len(books) == LONG_BUDGET * TOKENS // (LONG_TOKENS + 1 + REQUEST_TOKENS)
    questions = fill(permits, 100)
    assert len(questions) > 100
    books[0].release()
    permits.acquire("another", (LONG_TOKENS + 1) * BYTES_PER_TOKEN)  # full of short ones as it is


@pytest.mark.parametrize("body_bytes", [0, 10**3, 10**9])
@pytest.mark.parametrize("tokens", [1, 100, TOKENS])
def test_what_is_alone_always_fits(body_bytes: int, tokens: int) -> None:
    permits = make(requests=1, tokens=tokens)
    permit = permits.acquire("a", body_bytes)
    permit.resize(10**9)
    permit.resize(3)
    permit.release()
    assert not holds(permits)


def test_the_longest_fits_beside_others() -> None:
    """It counts for a share of its budget at most."""
    permits = make()
    assert len(fill(permits, 10**9)) == 1 / MOST_COUNTED


# ---- fair shares ----------------------------------------------------------------------------------------------------


def test_one_client_leaves_room_for_others() -> None:
    """At most `SHARE` times what is still free: four fifths for whoever is alone."""
    permits = make(requests=1000)
    flood = fill(permits, clients="flood")
    assert len(flood) == pytest.approx(1000 * SHARE / (SHARE + 1), abs=1)
    for i in range(50):
        permits.acquire(i, 0)
    with pytest.raises(QueueFull, match=f"{len(flood)} of this client's"):
        permits.acquire("flood", 0)


def test_of_two_floods_each_gets_the_same() -> None:
    permits, held = make(requests=900), {"a": 0, "b": 0}
    for client in ["a", "b"] * 900:
        with contextlib.suppress(QueueFull):
            permits.acquire(client, 0)
            held[client] += 1
    assert held["a"] == pytest.approx(900 * SHARE / (2 * SHARE + 1), abs=2)
    assert held["b"] == pytest.approx(held["a"], abs=1)


def test_a_share_bounds_a_client_and_no_other() -> None:
    permits, quota = make(requests=100, tokens=10_000), Quota("team", Limits(share=0.1))
    for _ in range(10):
        permits.acquire("team", 0, quota)
    with pytest.raises(QueueFull, match=r"10 of this client's; the limit is 100, 10% of it for this client"):
        permits.acquire("team", 0, quota)
    for _ in range(50):
        permits.acquire("other", 0)


def test_a_share_of_the_tokens() -> None:
    permits, quota = make(tokens=10_000), Quota("team", Limits(share=0.1))
    permits.acquire("team", (500 - REQUEST_TOKENS) * BYTES_PER_TOKEN, quota)
    second = permits.acquire("team", (400 - REQUEST_TOKENS) * BYTES_PER_TOKEN, quota)
    with pytest.raises(QueueFull, match="10% of it"):
        second.resize(501)
    second.resize(500)
    assert holds(permits)["tokens"] == 1000


def test_a_share_keeps_no_client_from_its_only_request() -> None:
    permits, quota = make(requests=10, tokens=1000), Quota("team", Limits(share=0.01))
    permits.acquire("other", 0)
    held = permits.acquire("team", 10**6, quota)
    with pytest.raises(QueueFull):
        permits.acquire("team", 0, quota)
    held.release()
    permits.acquire("team", 10**6, quota)


# ---- quotas ---------------------------------------------------------------------------------------------------------


def quota(requests: float = 1e6, tokens: float = 1000) -> Quota:
    """Of a clock that stands still."""
    return Quota("team", Limits(requests, requests, tokens, tokens), clock=lambda: 5.0)


def left(quota: Quota) -> int:
    """Tokens that may be taken yet."""
    assert quota._tokens is not None
    return round(quota._tokens.level)


def test_a_quota_counts_the_estimate_then_what_runs() -> None:
    permits, team = make(), quota()
    permit = permits.acquire("team", 4 * 84, team)
    assert left(team) == 900
    permit.resize(300)
    assert left(team) == 700
    permit.count(50)
    assert left(team) == 950
    permit.release()
    assert left(team) == 950  # what ran is spent


def test_a_quota_counts_the_parts_of_a_request_together() -> None:
    """In flight is one at a time."""
    permits, team = make(), quota()
    permit = permits.acquire("team", 0, team)
    permit.count(200)
    permit.count(300)
    assert left(team) == 500
    assert holds(permits)["tokens"] == 300


@pytest.mark.parametrize("count", [False, True])
def test_more_than_the_quota_has_is_refused_when_it_is_known_and_counts_nothing(count: bool) -> None:
    permits, team = make(), quota(requests=3)
    first, second = permits.acquire("team", 0, team), permits.acquire("team", 0, team)
    first.count(700)
    with pytest.raises(RateLimited, match="this request counts 400"):
        second.count(400) if count else second.resize(400)
    assert left(team) == 300
    second.release()
    assert holds(permits) == {"requests": 1, "tokens": 700}
    permits.acquire("team", 0, team)
    with pytest.raises(RateLimited, match="requests a second"):  # one that was refused so late counts as a request
        permits.acquire("team", 0, team)


def test_who_finds_no_room_has_used_nothing_of_the_quota() -> None:
    permits, team = make(requests=1), quota()
    permits.acquire("team", 0, team)
    before = left(team)
    with pytest.raises(QueueFull):
        permits.acquire("team", 0, team)
    assert left(team) == before


def test_who_turns_out_too_long_has_used_nothing_of_the_quota() -> None:
    permits, team = make(), quota(tokens=10_000)
    books = fill(permits, 10**9)
    late = permits.acquire("team", 0, team)
    with pytest.raises(QueueFull, match="tokens of long requests are in flight"):
        late.count(LONG_TOKENS + 1)
    assert left(team) == 10_000
    assert books


def test_a_quota_that_is_used_up_refuses_before_anything_is_held() -> None:
    permits, team = make(), quota(requests=1)
    permits.acquire("team", 0, team).release()
    with pytest.raises(RateLimited):
        permits.acquire("team", 0, team)
    assert not holds(permits)
    assert not clients(permits)


# ---- resizing and releasing -----------------------------------------------------------------------------------------


def test_a_permit_follows_what_is_learnt_of_its_request() -> None:
    permits = make()
    permit = permits.acquire("a", 400)
    assert holds(permits) == {"requests": 1, "tokens": 100 + REQUEST_TOKENS}
    permit.resize(20)
    assert holds(permits) == {"requests": 1, "tokens": 20}
    permit.resize(LONG_TOKENS + 1)
    assert holds(permits) == {"requests": 1, "long tokens": LONG_TOKENS + 1}
    permit.resize(LONG_TOKENS)
    assert holds(permits) == {"requests": 1, "tokens": LONG_TOKENS}


def test_a_refused_resize_changes_nothing() -> None:
    permits = make()
    permit = permits.acquire("a", 0)
    books = fill(permits, 10**9)
    before = holds(permits)
    with pytest.raises(QueueFull, match="tokens of long requests are in flight"):
        permit.resize(LONG_TOKENS + 1)
    assert holds(permits) == before
    for each in (permit, *books):
        each.release()
    assert not holds(permits)
    assert not clients(permits)


def test_a_refused_request_holds_nothing() -> None:
    permits = make(tokens=160)
    held = fill(permits, 16)
    before = holds(permits)
    with pytest.raises(QueueFull):
        permits.acquire("another", 16)
    assert holds(permits) == before
    assert before["requests"] == len(held)


def test_releasing_twice_is_releasing_once() -> None:
    permits = make()
    first, second = permits.acquire("a", 0), permits.acquire("a", 0)
    first.release()
    first.release()
    assert holds(permits) == {"requests": 1, "tokens": REQUEST_TOKENS}
    second.release()
    assert not holds(permits)


@given(
    steps=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3), st.integers(0, 20_000)), max_size=60),
    tokens=st.integers(1, 10_000),
)
def test_any_traffic_keeps_the_bounds_and_gives_everything_back(steps: list[tuple[int, int, int]], tokens: int) -> None:
    permits, held = make(requests=5, tokens=tokens), []
    for action, client, amount in steps:
        with contextlib.suppress(QueueFull):
            if action == 0:
                held.append(permits.acquire(client, amount))
            elif held and action == 1:
                held[amount % len(held)].resize(amount)
            elif held:
                held.pop(amount % len(held)).release()
        assert holds(permits).get("requests", 0) == len(held) <= 5
        assert holds(permits).get("tokens", 0) <= tokens
        assert holds(permits).get("long tokens", 0) <= LONG_BUDGET * tokens
        assert all(amount >= 0 for amount in (*holds(permits).values(), *clients(permits)))
    for permit in held:
        permit.release()
    assert not holds(permits)
    assert not clients(permits)


# ---- when to come again ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rate", "seconds"), [(0.0, 1.0), (100.0, 3.2), (3200.0, 0.1)])
def test_retry_after_is_what_is_in_flight_over_the_rate(rate: float, seconds: float) -> None:
    permits = make(requests=20, rate=rate)
    assert len(fill(permits)) == 20
    with pytest.raises(QueueFull) as error:
        permits.acquire("another", 0)
    assert error.value.retry_after == pytest.approx(seconds)
