import pytest

from bench.capacity import quiet
from bench.capacity.quiet import Quiet


class Machine:
    """A machine whose other programs take so large a share of its cores, one after another."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, shares: list[float]) -> None:
        self.now = 0.0
        looked = iter(shares)

        def share(server: object, measurement: object) -> tuple[object, float]:
            found = measurement()
            self.now += 1.0
            return found, next(looked)

        monkeypatch.setattr(Quiet, "_share", staticmethod(share))
        monkeypatch.setattr(quiet.time, "sleep", lambda seconds: None)
        monkeypatch.setattr(quiet.time, "perf_counter", lambda: self.now)


def test_it_measures_again_what_was_disturbed(monkeypatch: pytest.MonkeyPatch) -> None:
    Machine(monkeypatch, [0.9, 0.02, 0.5, 0.01, 0.03])  # wait, quiet, disturbed, quiet, measured
    found = iter("ab")
    waiting = Quiet(0.05, 60.0)
    assert waiting.run(None, lambda: next(found)) == "b"
    assert waiting.worst == 0.03


def test_patience_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    Machine(monkeypatch, [0.9, 0.9, 0.9, 0.7])
    waiting = Quiet(0.05, 1.5)
    assert waiting.run(None, lambda: "a") == "a"
    assert waiting.worst == 0.7


def test_without_a_wish_the_first_one_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    Machine(monkeypatch, [0.9])
    waiting = Quiet()
    assert waiting.run(None, lambda: "a") == "a"
    assert waiting.worst == 0.9
