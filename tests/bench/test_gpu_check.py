"""`make gpu-check` as far as a machine without a GPU can go: the same path on the CPU, and the refusal."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from bench import gpu_check
from bench.graphs import full
from service.engine.batch import Batch
from service.repository import bundle as bundles

HAS_GPU = torch.cuda.is_available()


@pytest.fixture(scope="module")
def told() -> tuple[int, str]:
    """The exit status and what is printed; run once, since it exports and serves."""
    patch = pytest.MonkeyPatch()
    patch.setattr(gpu_check, "SHAPES", 20)
    lines: list[str] = []
    patch.setattr("builtins.print", lambda *words, **_: lines.append(" ".join(map(str, words))))
    with patch.context():
        status = gpu_check.main(["--device", "cpu", "--quick"])
    patch.undo()
    return status, "\n".join(lines)


def test_the_whole_path_on_a_cpu(told: tuple[int, str]) -> None:
    status, shown = told
    assert status == 0
    report = json.loads(shown.splitlines()[-1])
    assert report["passed"]
    found = {(row["precision"], row["packed"]): row for row in report["rows"]}
    assert set(found) == {("fp32", False), ("fp32", True), ("int8", False)}
    assert all(found["fp32", packed]["difference"] <= 1e-4 for packed in (False, True))
    assert all(row["provider"] == "cpu" and row["rows_per_second"] > 0 for row in report["rows"])


@pytest.mark.skipif(HAS_GPU, reason="this machine has a GPU")
def test_without_a_gpu_it_fails_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu_check.main([]) == 1
    assert "no GPU" in capsys.readouterr().err


@pytest.mark.skipif(not HAS_GPU, reason="this machine has no GPU")
def test_on_a_gpu() -> None:
    assert gpu_check.main([]) == 0


def test_it_tells_where_nodes_ran_and_how_memory_grew(told: tuple[int, str]) -> None:
    status, shown = told
    assert status == 0
    engines = {
        gpu_check._name(engine["precision"], packed=engine["packed"]): engine
        for engine in json.loads(shown.splitlines()[-1])["engines"]
    }
    assert set(engines) == {"fp32", "fp32 packed", "int8"}
    for engine in engines.values():
        assert engine["astray"] == []
        assert engine["nodes"]["CPUExecutionProvider"]["MultiHeadAttention"] == 2  # one a layer
        assert abs(engine["growth_bytes"]) < 50e6
    assert engines["int8"]["nodes"]["CPUExecutionProvider"]["MatMulIntegerToFloat"] > 0


def test_it_sets_the_service_beside_the_session(told: tuple[int, str]) -> None:
    _, shown = told
    report = json.loads(shown.splitlines()[-1])
    service, aims = report["service"], report["aims"]
    session = next(row["rows_per_second"] for row in report["rows"] if row["precision"] == "int8")
    assert service["rows_per_second"] > 0
    assert service["share_of_session"] == pytest.approx(service["rows_per_second"] / session)
    assert [aim["wanted"] for aim in aims] == [0.5, 0.8]
    assert aims[1]["reached"] == service["share_of_session"]
    assert all(aim["met"] == (aim["reached"] >= aim["wanted"]) for aim in aims)
    assert "service over the session, 32 rows a request, int8, 32 tokens" in shown


def test_it_sets_packed_beside_padded(told: tuple[int, str]) -> None:
    _, shown = told
    (both,) = json.loads(shown.splitlines()[-1])["mixed"]
    assert both["precision"] == "fp32"
    assert both["packed_over_padded"] == both["packed_rows_per_second"] / both["padded_rows_per_second"] > 0
    assert both["padding"] == pytest.approx(1 - (16 + 53 + 90 + 128) / (4 * 128))
    assert both["apart"] <= 1e-3
    assert "fp32, 4 rows of 16 to 128 tokens, 44% padding: " in shown


class Fixed:
    """An engine that answers each row with the same logits, in an order of its own."""

    def __init__(self, order: list[int]) -> None:
        self.order = order

    def run(self, batch: Batch) -> tuple[np.ndarray]:
        return (np.array([[0.01, 0.02], [0.02, 0.01], [0.03, 0.03], [0.04, 0.0]], dtype=np.float32)[self.order],)


@pytest.mark.parametrize(("order", "fails"), [([0, 1, 2, 3], False), ([1, 0, 2, 3], True)])
def test_packed_rows_that_are_mixed_up_are_seen_however_small_logits_are(order: list[int], fails: bool) -> None:
    model = gpu_check._model(True)
    both = gpu_check._side_by_side(Fixed([0, 1, 2, 3]), Fixed(order), model, "fp16", quick=True)  # type: ignore[arg-type]
    assert (both["apart"] > gpu_check.APART) is fails


def test_packed_logits_that_are_off_fail_the_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_check, "SHAPES", 1)
    monkeypatch.setattr(gpu_check, "_service", lambda *given, **options: {})
    assert gpu_check.check("cpu", quick=True)["passed"]
    monkeypatch.setattr(gpu_check, "_side_by_side", lambda *given, **options: {"apart": 1.0})
    assert not gpu_check.check("cpu", quick=True)["passed"]


@pytest.mark.parametrize(("rates", "packed"), [((100.0, 90.0), False), ((100.0, 110.0), True)])
def test_the_service_runs_the_quicker_graph(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rates: tuple[float, float], packed: bool
) -> None:
    asked = []
    monkeypatch.setattr(full, "bundle", lambda *given, packed: asked.append(packed) or tmp_path)
    monkeypatch.setattr(full, "rows_per_second", lambda *given, **options: 55.0)
    session = [
        {"precision": "fp16", "packed": bool(i), "tokens": 128, "rows_per_second": rate, "share_of_matrix_rate": 0.6}
        for i, rate in enumerate(rates)
    ]
    found = gpu_check._service(gpu_check._model(True), tmp_path, session, "cuda", quick=False)
    assert asked == [found["service"]["packed"]] == [packed]
    assert found["service"]["share_of_session"] == 55.0 / max(rates)
    assert ("fp16 packed, 128 tokens" in found["aims"][0]["text"]) is packed


@pytest.mark.parametrize("packed", [False, True])
def test_the_service_has_the_graph_that_it_is_to_run(tmp_path: Path, packed: bool) -> None:
    path = full.bundle(gpu_check._model(True), tmp_path, "fp16", 32, packed=packed)
    assert bundles.load(path).graph_for("cuda").packed is packed


PACKED = ["PackedMultiHeadAttention", "RemovePadding", "RestorePadding"]


class Astray:
    """An engine on CUDA whose matrix products went to the CPU."""

    def __init__(self, *names: str) -> None:
        self.names = names

    def placement(self, _: Batch) -> dict[str, dict[str, int]]:
        return {
            "CUDAExecutionProvider": {"MultiHeadAttention": 12},
            "CPUExecutionProvider": dict.fromkeys(self.names, 3),
        }


@pytest.mark.parametrize(
    ("names", "astray"),
    [
        (("Shape", "MatMul"), ["MatMul"]),
        (("Shape", "Range"), []),
        (("RestorePadding", "RemovePadding", "PackedMultiHeadAttention", "Slice"), PACKED),
    ],
)
def test_heavy_operators_on_the_cpu_are_astray(
    names: tuple[str, ...], astray: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    found = gpu_check._placed(Astray(*names), "fp16", "cuda")  # type: ignore[arg-type]
    assert found["astray"] == astray
    shown = capsys.readouterr().out
    assert f"{3 * len(names)} on CPUExecutionProvider" in shown
    assert (f"ASTRAY: {', '.join(astray)}" in shown) == bool(astray)


def test_rows_of_the_service_have_the_length_that_is_asked_for() -> None:
    """The vocabulary's words are whole tokens, so a text of n - 2 of them makes a row of n."""
    assert len(full.SPECIAL) == 5
    assert full.CONNECTIONS * full.ROWS * gpu_check.AT <= 65536, "more than the queue admits would be refused"
