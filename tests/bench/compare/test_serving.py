"""The measuring processes: one for real, and the clock's arithmetic."""

import threading
from pathlib import Path

import numpy as np
import onnx
import pytest

from bench import child
from bench.compare import serving, steps, weights
from service.engine.batch import Batch
from tests.bench.compare.shapes import tiny
from training.export import graph


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """config.json and model.fp32.onnx of the tiny ALBERT."""
    folder = tmp_path_factory.mktemp("albert")
    tiny()["albert-base"].config.save_pretrained(folder)
    onnx.save(graph.build(weights.load(folder, None)), weights.graph_path(folder, "fp32"))
    return folder


def request(folder: Path, **changes: object) -> dict[str, object]:
    return {
        "graph": str(weights.graph_path(folder, "fp32")), "precision": "fp32", "workers": 2, "vocabulary": 97,
        "longest": 16, "tokens": [8, 16], "seconds": 0.01, "batch_tokens": 32,
    } | changes  # fmt: skip


def test_a_process_of_its_own_has_no_torch_in_memory(folder: Path) -> None:
    answer = child.call("bench.compare.serving", request(folder))
    assert 20e6 < answer["memory"] <= answer["peak"] < 250e6  # a process that imports torch has more
    assert 0 < answer["growth"] < 30e6  # what the graph added, without the libraries
    assert set(answer["cells"]) == {"8", "16"}
    assert all(figure > 0 for cell in answer["cells"].values() for figure in cell.values())


def test_a_process_that_fails_says_why(folder: Path) -> None:
    with pytest.raises(child.ChildError, match=r"absent\.onnx is no graph"):
        child.call("bench.compare.serving", request(folder, graph=str(folder / "absent.onnx")))


def test_a_process_that_is_killed_is_suspected_of_eating_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dies.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(child.KilledError, match="signal 9: probably out of memory"):
        child.call("dies", {})


class Counting:
    """An engine that takes no time and counts."""

    workers = 3

    def __init__(self) -> None:
        self.rows = 0
        self.threads: set[int] = set()
        self._lock = threading.Lock()

    def run(self, batch: Batch) -> tuple[np.ndarray, ...]:
        with self._lock:
            self.rows += batch.shape[0]
            self.threads.add(threading.get_ident())
        threading.Event().wait(0.002)
        return ()


def test_throughput_is_of_all_workers_and_rows() -> None:
    engine = Counting()
    batch = serving._batch(4, 8, 97)
    rate = serving.throughput(engine, batch, 0.1)  # type: ignore[arg-type]
    assert len(engine.threads) == 3
    assert rate == pytest.approx(engine.rows / 0.1, rel=0.35)


def test_latency_is_that_of_one_call() -> None:
    engine = Counting()
    latency = serving.latency(engine, serving._batch(1, 8, 97), 0.05)  # type: ignore[arg-type]
    assert 0.002 <= latency < 0.05
    assert engine.rows > serving.LEAST_CALLS


def test_a_step_trains_and_is_timed(folder: Path) -> None:
    answer = steps.measure(
        {"folder": str(folder), "checkpoint": None, "rows": 2, "tokens": 8, "seconds": 0.01, "threads": 1}
    )
    assert answer["tokens_per_second"] > 0
    assert answer["peak"] > 100e6  # torch is here
