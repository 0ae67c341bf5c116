"""What fits."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from bench.compare import budget, subjects


def test_the_most_expensive_are_left_out_first() -> None:
    costs = {"a": 5.0, "b": 1.0, "c": 3.0}
    assert budget.affordable(costs, 9) == {"a", "b", "c"}
    assert budget.affordable(costs, 8.9) == {"b", "c"}
    assert budget.affordable(costs, 0.5) == set()
    assert budget.affordable({}, 0) == set()


def test_memory_is_bounded_by_the_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, content in (
        ("CGROUP_MAX", "3000000\n"),
        ("CGROUP_NOW", "1000000\n"),
        ("CGROUP_STAT", "anon 700000\ninactive_file 250000\n"),
    ):
        (tmp_path / name).write_text(content)
        monkeypatch.setattr(budget, name, tmp_path / name)
    monkeypatch.setattr(budget.psutil, "virtual_memory", lambda: SimpleNamespace(available=5_120_000))
    assert budget.available_memory() == 2_250_000  # the cache of files is given back when memory is wanted
    (tmp_path / "CGROUP_MAX").write_text("max\n")
    assert budget.available_memory() == 5_120_000
    (tmp_path / "CGROUP_MAX").unlink()
    assert budget.available_memory() == 5_120_000


def test_sharing_saves_states_and_not_activations() -> None:
    bert, albert = (subject.config for subject in subjects.choose(("bert-base", "albert-base")))
    assert budget.train_bytes(bert, 0, 8, 128) == budget.train_bytes(albert, 0, 8, 128)
    assert budget.train_bytes(bert, 1000, 8, 128) - budget.train_bytes(bert, 0, 8, 128) == 16_000
    assert budget.train_bytes(bert, 0, 8, 256) > 2 * (budget.train_bytes(bert, 0, 8, 128) - budget.LIBRARIES)
