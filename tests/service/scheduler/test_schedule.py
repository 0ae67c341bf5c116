"""The schedule that is measured: right for engines whose costs are known, whatever the machine."""

import threading
from collections.abc import Callable
from typing import Any

import pytest

from service.engine.batch import Batch
from service.engine.session import Outputs
from service.scheduler import schedule
from service.scheduler.schedule import Schedule, Subject, batch_tokens, lone_tokens, measure


class Priced:
    """An engine whose calls cost what they are said to: its own clock goes on by it.

    Attributes:
        shapes: of every batch that it ran.
    """

    def __init__(self, price: Callable[[int, int], float], clock: "Hands", workers: int = 1) -> None:
        self.workers = workers
        self.background = 0
        self.shapes: list[tuple[int, int]] = []
        self._price = price
        self._clock = clock

    def run(self, batch: Batch) -> Outputs:
        self.shapes.append(batch.shape)
        # Workers run side by side: together they take the time of one.
        self._clock.go_on(self._price(*batch.shape) / self.workers)
        return ()


class Hands:
    """A clock that goes on only when it is told to."""

    def __init__(self) -> None:
        self._now = 0.0
        self._lock = threading.Lock()

    def go_on(self, seconds: float) -> None:
        with self._lock:
            self._now += seconds

    def __call__(self) -> float:
        return self._now


@pytest.mark.parametrize("workers", [1, 2, 8])
@pytest.mark.parametrize(
    ("overhead", "longest", "expected"), [(0.0, 64, 256), (0.0, 16, 256), (0.001, 32, 256), (0.002, 32, 512)]
)
def test_a_batch_holds_what_runs_at_full_speed_and_no_more(
    overhead: float, longest: int, expected: int, workers: int
) -> None:
    """At 2 ms a call and 50 us a token, 512 tokens run 1.07 times as fast a token as 256, 1024 1.037 times as 512."""
    clock = Hands()
    engine = Priced(lambda rows, tokens: overhead + rows * tokens * 50e-6, clock, workers)
    assert batch_tokens(engine, longest, clock) == expected


def test_a_cache_that_overflows_ends_the_growth() -> None:
    clock = Hands()
    engine = Priced(lambda rows, tokens: 0.002 + rows * tokens * (20e-6 if rows * tokens <= 256 else 60e-6), clock)
    assert batch_tokens(engine, 64, clock) == 256
    assert max(rows * tokens for rows, tokens in engine.shapes) == 512


def test_a_slow_model_is_not_measured_for_long() -> None:
    clock = Hands()
    engine = Priced(lambda rows, tokens: rows * tokens * 0.01, clock)
    assert batch_tokens(engine, 384, clock) == 256
    assert len(engine.shapes) == 1


def test_a_card_gets_large_batches() -> None:
    clock = Hands()
    engine = Priced(lambda rows, tokens: 0.001 + rows * tokens * 1e-7, clock)
    assert batch_tokens(engine, 384, clock) >= 49152
    assert max(rows * tokens for rows, tokens in engine.shapes) <= schedule.MOST_TOKENS


@pytest.mark.parametrize(
    ("start", "longest", "expected"),
    [
        (0.0, 512, 8),  # half of the longest, and again, for as long as it gains
        (0.0005, 320, 40),  # 20 tokens: 1 ms on each
        (0.0015, 320, 160),  # 80 tokens: 3.5 ms against 4
        (0.0015, 64, None),  # not even the longest row is worth it
        (1.0, 512, None),
    ],
)
def test_all_cores_for_rows_that_are_long_enough(start: float, longest: int, expected: int | None) -> None:
    """Waking the other core costs `start`; then it does half of the work of 50 us a token."""
    clock = Hands()
    one = Priced(lambda rows, tokens: rows * tokens * 50e-6, clock)
    wide = Priced(lambda rows, tokens: start + rows * tokens * 25e-6, clock)
    assert lone_tokens(one, wide, longest, clock) == expected
    assert all(rows == 1 for rows, _ in one.shapes + wide.shapes)


def subject(
    clock: Hands, longest: int, *, kind: str = "bert", parameters: int = 1000, lone: bool = True, start: float = 0.0005
) -> Subject:
    one = Priced(lambda rows, tokens: rows * tokens * 50e-6, clock)
    wide = Priced(lambda rows, tokens: start + rows * tokens * 25e-6, clock) if lone else None
    return Subject(one, wide, longest, (kind, "int8", "cpu"), parameters)


def test_one_engine_of_a_shape_is_measured_for_all_and_each_has_its_own_lone_one() -> None:
    clock = Hands()
    few, most = subject(clock, 64), subject(clock, 320, parameters=1009)
    short, long = measure([few, most], clock=clock)
    assert not few.engine.shapes  # type: ignore[attr-defined]
    assert (short, long) == (Schedule(256, few.lone, 40), Schedule(320, most.lone, 40))


@pytest.mark.parametrize("other", [{"kind": "albert"}, {"parameters": 1011}])
def test_engines_of_other_shapes_are_measured_each(other: dict[str, Any]) -> None:
    clock = Hands()
    quick, slow = subject(clock, 320), subject(clock, 320, start=1.0, **other)
    assert measure([quick, slow], clock=clock) == [Schedule(320, quick.lone, 40), Schedule(320)]


def test_rows_too_short_to_gain_get_no_lone_engine() -> None:
    clock = Hands()
    few, most = subject(clock, 32), subject(clock, 320)
    assert measure([few, most], clock=clock)[0] == Schedule(256)


def test_a_budget_that_is_given_is_not_measured() -> None:
    clock = Hands()
    given = subject(clock, 64, lone=False)
    assert measure([given], most_tokens=512, clock=clock) == [Schedule(512)]
    assert not given.engine.shapes  # type: ignore[attr-defined]
