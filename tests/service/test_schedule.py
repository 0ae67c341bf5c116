"""The schedule that is measured: right for engines whose costs are known, whatever the machine."""

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from service import schedule
from service.batch import Batch, Encoded, pad
from service.engine import OrtEngine, Outputs
from service.schedule import Schedule, batch_tokens, lone_tokens


class Priced:
    """An engine whose calls cost what they are said to: its own clock goes on by it.

    Attributes:
        shapes: of every batch that it ran.
    """

    def __init__(self, price: Callable[[int, int], float], clock: "Hands", workers: int = 1) -> None:
        self.workers = workers
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
@pytest.mark.parametrize(("overhead", "longest", "expected"), [(0.0, 64, 64), (0.001, 32, 512), (0.001, 512, 512)])
def test_a_batch_holds_what_runs_at_full_speed_and_no_more(
    overhead: float, longest: int, expected: int, workers: int
) -> None:
    """At 1 ms a call and 50 us a token, 512 tokens run 1.04 times as fast a token as 256, 1024 1.019 times as 512."""
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
    assert batch_tokens(engine, 384, clock) == 384
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


# ---- with a real session --------------------------------------------------------------------------------------------


@pytest.fixture
def engine(models_dir: Path) -> OrtEngine:
    return OrtEngine(models_dir / "sentiment" / "model.fp32.onnx", provider="cpu", workers=1, intra_op_threads=1)


def test_a_lone_session_is_opened_only_where_it_gains(engine: OrtEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedule, "lone_tokens", lambda *_: 48)
    found = schedule.measure(engine, 64, cores=2, most_tokens=512)
    assert (found.batch_tokens, found.lone_tokens) == (512, 48)
    batch = pad([Encoded(np.arange(9), np.zeros(9, dtype=np.int64))], 0)
    assert found.lone is not None
    for ours, theirs in zip(engine.run(batch), found.lone.run(batch), strict=True):
        np.testing.assert_array_equal(ours, theirs)

    monkeypatch.setattr(schedule, "lone_tokens", lambda *_: None)
    assert schedule.measure(engine, 64, cores=2, most_tokens=512) == Schedule(512)


@pytest.mark.parametrize(("cores", "lone"), [(1, True), (2, False)])
def test_no_second_copy_of_the_weights_where_it_is_not_wanted(
    engine: OrtEngine, monkeypatch: pytest.MonkeyPatch, cores: int, lone: bool
) -> None:
    monkeypatch.setattr(OrtEngine, "reopened", lambda *_, **__: pytest.fail("a second session was opened"))
    assert schedule.measure(engine, 64, cores=cores, most_tokens=512, lone=lone).lone is None


def test_the_measured_tokens_hold_the_longest_row(engine: OrtEngine) -> None:
    for longest in (16, 64, 384):
        assert schedule.measure(engine, longest, cores=1).batch_tokens >= longest
