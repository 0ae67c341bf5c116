"""What `make gpu-check` tells beyond the logits, on a CPU: where nodes ran, memory, and the whole service."""

import json

import pytest

from bench import full, gpu_check
from service.batch import Batch


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


def test_it_tells_where_nodes_ran_and_how_memory_grew(told: tuple[int, str]) -> None:
    status, shown = told
    assert status == 0
    engines = {engine["precision"]: engine for engine in json.loads(shown.splitlines()[-1])["engines"]}
    assert set(engines) == {"fp32", "int8"}
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


class Astray:
    """An engine on CUDA whose matrix products went to the CPU."""

    def __init__(self, *names: str) -> None:
        self.names = names

    def placement(self, _: Batch) -> dict[str, dict[str, int]]:
        return {
            "CUDAExecutionProvider": {"MultiHeadAttention": 12},
            "CPUExecutionProvider": dict.fromkeys(self.names, 3),
        }


@pytest.mark.parametrize(("names", "astray"), [(("Shape", "MatMul"), ["MatMul"]), (("Shape", "Range"), [])])
def test_a_matrix_product_on_the_cpu_is_astray(
    names: tuple[str, ...], astray: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    found = gpu_check._placed(Astray(*names), "fp16", "cuda")  # type: ignore[arg-type]
    assert found["astray"] == astray
    shown = capsys.readouterr().out
    assert "6 on CPUExecutionProvider" in shown
    assert ("ASTRAY: MatMul" in shown) == bool(astray)


def test_rows_of_the_service_have_the_length_that_is_asked_for() -> None:
    """The vocabulary's words are whole tokens, so a text of n - 2 of them makes a row of n."""
    assert len(full.SPECIAL) == 5
    assert full.CONNECTIONS * full.ROWS * gpu_check.AT <= 65536, "more than the queue admits would be refused"
