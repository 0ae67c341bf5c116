"""ONNX Runtime sessions: where they run, with how many threads, and that they hold no memory."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from service.engine import session as module
from service.engine.batch import Batch, Encoded, pad
from service.engine.session import SEVEN_BIT, SEVEN_BITS, OrtEngine
from service.errors import BundleError, ConfigurationError
from tests import cards

THIS_PROCESSORS = module.products_overflow


@pytest.fixture(autouse=True)
def with_vnni(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever processor this is: what tests call int8 is mostly fp32 under another name."""
    monkeypatch.setattr(module, "products_overflow", lambda: False)


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Attention of a kind over an embedding: every token looks at all of its row, [rows, tokens, tokens]."""
    random = np.random.default_rng(0)
    table = numpy_helper.from_array(random.normal(size=(100, 32)).astype(np.float32), "table")
    axes = numpy_helper.from_array(np.array([1, 2]), "axes")
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["x"]),
        helper.make_node("Transpose", ["x"], ["t"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["x", "t"], ["s"]),
        helper.make_node("Softmax", ["s"], ["p"]),
        helper.make_node("MatMul", ["p", "x"], ["y"]),
        helper.make_node("ReduceSum", ["y", "axes"], ["sum"], keepdims=0),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Cast", ["token_type_ids"], ["types"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["mask", "types"], ["second"]),
    ]
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["rows", "tokens"])
        for name in ("input_ids", "attention_mask", "token_type_ids")
    ]
    outputs = [
        helper.make_tensor_value_info("sum", TensorProto.FLOAT, ["rows"]),
        helper.make_tensor_value_info("second", TensorProto.FLOAT, ["rows", "tokens"]),
    ]
    model = helper.make_model(
        helper.make_graph(nodes, "attention", inputs, outputs, [table, axes]),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    path = tmp_path_factory.mktemp("graph") / "model.onnx"
    onnx.save(model, path)
    return path


def batch(rows: int, tokens: int, seed: int = 0) -> Batch:
    random = np.random.default_rng(seed)
    return pad([Encoded(random.integers(0, 100, tokens), np.arange(tokens) % 2) for _ in range(rows)], 0)


def cpu(path: Path, workers: int = 1) -> OrtEngine:
    return OrtEngine(path, provider="cpu", workers=workers, intra_op_threads=1)


# ---- running --------------------------------------------------------------------------------------------------------


def test_run_gives_every_output_in_the_graphs_order(graph: Path) -> None:
    given = batch(3, 7)
    sums, second = cpu(graph).run(given)
    assert sums.shape == (3,)
    assert second.tolist() == (given.attention_mask + given.token_type_ids).tolist()
    assert sums.dtype == second.dtype == np.float32


def test_concurrent_calls_agree_with_one_after_another(graph: Path) -> None:
    engine = cpu(graph, workers=4)
    batches = [batch(1 + i % 5, 1 + 7 * i % 60, seed=i) for i in range(64)]
    expected = [engine.run(b) for b in batches]
    with ThreadPoolExecutor(4) as pool:
        for one, other in zip(expected, pool.map(engine.run, batches, timeout=60), strict=True):
            for a, b in zip(one, other, strict=True):
                np.testing.assert_array_equal(a, b)


def test_warm_up_runs_rows_up_to_the_longest(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, seen = cpu(graph, workers=2), []
    monkeypatch.setattr(engine, "run", lambda batch: seen.append(batch.shape))
    engine.warm_up(40)
    assert seen == [(1, 40)] * 2  # once a worker
    monkeypatch.setattr(engine, "provider", "cuda")
    seen.clear()
    engine.warm_up(40)
    assert sorted(seen) == [(1, 8)] * 2 + [(1, 32)] * 2 + [(1, 40)] * 2


def test_memory_stays_flat_while_shapes_change(graph: Path) -> None:
    engine = cpu(graph)
    options = engine._session.get_session_options()
    assert not options.enable_cpu_mem_arena
    assert not options.enable_mem_pattern
    random = np.random.default_rng(1)

    def traffic(calls: int) -> None:
        for _ in range(calls):
            engine.run(batch(int(random.integers(1, 9)), int(random.integers(1, 129))))

    traffic(300)
    before = resident_megabytes()
    traffic(2000)
    assert resident_megabytes() - before < 40


def resident_megabytes() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def test_threads_reach_the_session(graph: Path) -> None:
    engine = OrtEngine(graph, provider="cpu", workers=1, intra_op_threads=3)
    assert engine._session.get_session_options().intra_op_num_threads == 3
    assert engine.run(batch(4, 30))[0].shape == (4,)


@pytest.mark.parametrize("content", [b"", b"no graph at all", b"\x08\x08"])
def test_a_file_that_is_no_graph_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.int8.onnx").write_bytes(content)
    with pytest.raises(BundleError, match=r"model\.int8\.onnx is no graph that ONNX Runtime can run"):
        cpu(tmp_path / "model.int8.onnx")


# ---- int8 without VNNI ----------------------------------------------------------------------------------------------


LARGEST, ZERO = SEVEN_BITS


def int8(path: Path) -> OrtEngine:
    return OrtEngine(path, provider="cpu", precision="int8", workers=1, intra_op_threads=1)


def write_shared(path: Path, *, parameters: bool = True) -> None:
    """An int8 graph as bundles have them, in which two layers use one weight (ALBERT), of the largest codes there are.
    Each number of the mask goes in as a vector of 8."""
    constants = [
        numpy_helper.from_array(np.full((8, 8), 127, np.int8), "codes"),
        numpy_helper.from_array(np.ones(8, np.float32), "scales"),
        numpy_helper.from_array(np.float32(1), "one"),
        numpy_helper.from_array(np.float32(127), LARGEST),
        numpy_helper.from_array(np.uint8(128), ZERO),
        numpy_helper.from_array(np.ones((1, 8), np.float32), "ones"),
        numpy_helper.from_array(np.array([2]), "axis"),
        numpy_helper.from_array(np.float32(8 * 127), "sum"),
    ]
    nodes = [
        helper.make_node("Unsqueeze", ["attention_mask", "axis"], ["column"]),
        helper.make_node("Cast", ["column"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["float", "ones"], ["layer.0"]),
    ]
    for i in range(2):
        nodes += [
            helper.make_node("Mul", [f"layer.{i}", LARGEST], [f"scaled.{i}"]),
            helper.make_node("QuantizeLinear", [f"scaled.{i}", "one", ZERO], [f"codes.{i}"]),
            helper.make_node(
                "MatMulIntegerToFloat", [f"codes.{i}", "codes", "one", "scales", ZERO], [f"product.{i}"],
                domain="com.microsoft",
            ),
            helper.make_node("Div", [f"product.{i}", LARGEST], [f"rescaled.{i}"]),
            helper.make_node("Div", [f"rescaled.{i}", "sum"], [f"layer.{i + 1}"]),
        ]  # fmt: skip
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["rows", "tokens"])
        for name in ("input_ids", "attention_mask", "token_type_ids")
    ]
    if parameters:
        inputs.append(helper.make_tensor_value_info(LARGEST, TensorProto.FLOAT, []))
        inputs.append(helper.make_tensor_value_info(ZERO, TensorProto.UINT8, []))
    outputs = [helper.make_tensor_value_info("layer.2", TensorProto.FLOAT, ["rows", "tokens", 8])]
    model = helper.make_model(
        helper.make_graph(nodes, "shared", inputs, outputs, constants),
        opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)],
        ir_version=8,
    )
    onnx.save(model, path)


@pytest.mark.parametrize("overflow", [THIS_PROCESSORS, lambda: True], ids=["this processor", "seven bits"])
def test_the_largest_products_are_exact(
    overflow: Callable[[], bool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """On whatever processor this runs, and in 7 bits on every one; of weights that layers share, too."""
    write_shared(tmp_path / "model.int8.onnx")
    monkeypatch.setattr(module, "products_overflow", overflow)
    (out,) = int8(tmp_path / "model.int8.onnx").run(batch(2, 3))
    np.testing.assert_allclose(out, np.ones((2, 3, 8)), rtol=1e-6)
    assert capfd.readouterr().err == ""  # the runtime writes nothing between the lines of a log


@pytest.mark.parametrize("overflow", [True, False])
def test_parameters_are_for_processors_whose_products_overflow(
    overflow: bool, graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "products_overflow", lambda: overflow)
    write_shared(tmp_path / "model.int8.onnx")
    engine = int8(tmp_path / "model.int8.onnx")
    assert engine._parameters == (SEVEN_BITS if overflow else {})
    assert engine.arithmetic == (SEVEN_BIT if overflow else "int8")
    assert not cpu(graph)._parameters  # it has none
    assert cpu(graph).arithmetic == "fp32"


def test_seven_bits_may_be_asked_for(tmp_path: Path) -> None:
    """So a processor with VNNI knows what one without comes to."""
    write_shared(path := tmp_path / "model.int8.onnx")
    engine = OrtEngine(path, provider="cpu", precision="int8", workers=1, intra_op_threads=1, seven_bits=True)
    assert (engine.arithmetic, engine._parameters) == (SEVEN_BIT, SEVEN_BITS)


def test_a_graph_without_parameters_is_refused_where_products_overflow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_shared(tmp_path / "model.int8.onnx", parameters=False)
    monkeypatch.setattr(module, "products_overflow", lambda: True)
    with pytest.raises(BundleError, match=r"/model\.int8\.onnx is of an earlier version.*export it again"):
        int8(tmp_path / "model.int8.onnx")
    monkeypatch.setattr(module, "products_overflow", lambda: False)
    int8(tmp_path / "model.int8.onnx")


# ---- where nodes run ------------------------------------------------------------------------------------------------


def test_placement_counts_every_node_once(graph: Path) -> None:
    placed = cpu(graph).placement(batch(2, 5))
    assert set(placed) == {"CPUExecutionProvider"}
    assert placed["CPUExecutionProvider"]["Gather"] == 1
    assert placed["CPUExecutionProvider"]["Softmax"] == 1


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """CUDA, played; the devices that arrays are sent to."""
    return cards.play(monkeypatch)


def test_on_cuda_inputs_and_outputs_are_bound_to_the_device(graph: Path, card: list[tuple[str, int]]) -> None:
    given = batch(3, 7)
    engine = OrtEngine(graph, provider="cuda", workers=1, intra_op_threads=1)
    sums, second = engine.run(given)
    assert card == [("cuda", 0)] * 3
    inputs = ("input_ids", "attention_mask", "token_type_ids")
    assert engine._session.bound == [*((name, "in") for name in inputs), ("sum", "cuda"), ("second", "cuda")]
    assert engine._session.providers[0][0] == "CUDAExecutionProvider"
    arrays = {name: getattr(given, name) for name in inputs}
    expected = cards.SESSION(str(graph), providers=["CPUExecutionProvider"]).run(None, arrays)
    for ours, theirs in zip((sums, second), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_graph_that_cuda_cannot_open_is_refused_there(tmp_path: Path, card: list[tuple[str, int]]) -> None:
    (tmp_path / "model.fp16.onnx").write_bytes(b"no graph")
    with pytest.raises(ConfigurationError, match=r"no session on CUDA for model\.fp16\.onnx"):
        OrtEngine(tmp_path / "model.fp16.onnx", provider="cuda", workers=1, intra_op_threads=1)
