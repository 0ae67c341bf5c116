from dataclasses import replace

import pytest

from bench.capacity.clients import closed, opened
from bench.capacity.replica import Clock, Cores, Loop, Replica, Request
from tests.bench.capacity.samples import COSTS, MODEL

ROWS = [("m", 100)]


def test_things_happen_in_order_of_time() -> None:
    clock, happened = Clock(), []
    for time in (2.0, 1.0, 3.0):
        clock.at(time, lambda time=time: happened.append((time, clock.now)))
    clock.run(2.5)
    assert happened == [(1.0, 1.0), (2.0, 2.0)]
    clock.run()
    assert happened[-1] == (3.0, 3.0)


def test_threads_share_the_cores() -> None:
    clock, done = Clock(), []
    cores = Cores(clock, COSTS)
    for name, seconds in (("a", 1.0), ("b", 1.0), ("c", 2.0)):
        cores.run(seconds, lambda name=name: done.append((name, clock.now)))
    clock.run()
    # Three on two cores of speed 0.8: 0.533 each; then the last one alone.
    assert [name for name, _ in done] == ["a", "b", "c"]
    assert [at for _, at in done] == pytest.approx([1.875, 1.875, 2.875])
    assert cores.busy_seconds == pytest.approx(2 * 1.875 + 1.0)


def test_a_loop_does_one_thing_after_another() -> None:
    clock, done = Clock(), []
    loop = Loop(Cores(clock, COSTS), wake=0.1)
    for seconds in (0.5, 0.25):
        loop.do(lambda seconds=seconds: seconds, lambda: done.append(clock.now))
    clock.run()
    assert done == pytest.approx([0.6, 0.85])  # woken once


def test_a_request_alone_runs_on_all_cores() -> None:
    assert closed(COSTS, ROWS, 1, 1.0).p50 == pytest.approx(1e-3 + 6e-3)
    never = replace(COSTS, models={"m": replace(MODEL, low_latency_tokens=0)})
    assert closed(never, ROWS, 1, 1.0).p50 == pytest.approx(1e-3 + 10e-3)


def test_at_its_peak_the_cores_do_all_that_they_can() -> None:
    point = closed(COSTS, ROWS, 32, 5.0)
    assert point.rate == pytest.approx(2 * 0.8 / 11e-3, rel=0.01)  # 10 ms of a worker, 1 ms of the loop
    assert point.p50 == pytest.approx(32 / point.rate, rel=0.1)  # Little's law


def test_short_rows_leave_the_loop_as_the_limit() -> None:
    point = closed(replace(COSTS, request=20e-3), [("m", 10)], 32, 5.0)
    assert 0.8 / 20e-3 < point.rate <= 1 / 20e-3


def test_under_the_peak_all_are_answered_and_over_it_the_surplus_is_refused() -> None:
    def at(rate: float) -> list[float]:
        return [i / rate for i in range(int(rate * 20))]

    below = opened(COSTS, ROWS, at(100.0))
    assert (below.refused, below.rate) == (0, pytest.approx(100, rel=0.02))
    above = opened(COSTS, ROWS, at(400.0))
    assert above.refused > 0.3
    assert above.p99 > 1
    # Refusals cost the event loop a little; goodput is near the peak.
    assert above.rate == pytest.approx(2 * 0.8 / 11e-3, rel=0.15)


def test_a_batch_holds_rows_of_like_length() -> None:
    """Batches are the service's own: long rows beside short ones cost no padding."""
    mixed = closed(COSTS, [("m", 10), ("m", 250)], 32, 5.0)
    assert mixed.rate == pytest.approx(2 * 0.8 / (130e-4 + 1e-3), rel=0.05)


def test_what_a_lost_replica_has_in_flight_is_lost() -> None:
    clock, ended = Clock(), []
    replica = Replica(clock, COSTS)
    for _ in range(3):
        replica.take(Request("m", (100,), ended.append))
    clock.run(5e-3)
    assert replica.in_flight == 3
    replica.lose()
    clock.run()
    assert [request.status for request in ended] == [0, 0, 0]


def test_the_wait_is_what_waits_over_the_rate() -> None:
    clock = Clock()
    replica = Replica(clock, COSTS)
    assert replica.wait_seconds == 0
    for _ in range(500):
        replica.take(Request("m", (100,), lambda _: None))
    clock.run(1.0)
    before = replica.wait_seconds
    assert before == pytest.approx(2.2, abs=0.5)  # some 350 of them are left, at 160 a second
    clock.run(2.0)
    assert replica.wait_seconds == pytest.approx(before - 1, abs=0.2)
