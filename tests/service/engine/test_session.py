"""ONNX Runtime sessions: where they run, with how many threads, and that they hold no memory."""

import json
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from service.engine import session as module
from service.engine.batch import Batch, Encoded, pad
from service.engine.session import SEVEN_BITS, OrtEngine, open_engine
from service.errors import BundleError, ConfigurationError
from service.repository import bundle as bundles
from service.repository.bundle import MANIFEST, Bundle, Graph

Factory = Callable[..., Path]
THIS_PROCESSORS = module._products_overflow
ONLY_CPU = "CUDAExecutionProvider" not in onnxruntime.get_available_providers()


@pytest.fixture(autouse=True)
def with_vnni(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever processor this is: what tests call int8 is mostly fp32 under another name."""
    monkeypatch.setattr(module, "_products_overflow", lambda: False)


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


@pytest.mark.parametrize("content", [b"", b"no graph at all", b"\x08\x08"])
def test_a_file_that_is_no_graph_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.int8.onnx").write_bytes(content)
    with pytest.raises(BundleError, match=r"model\.int8\.onnx is no graph that ONNX Runtime can run"):
        cpu(tmp_path / "model.int8.onnx")


# ---- choosing -------------------------------------------------------------------------------------------------------


def with_graphs(folder: Path, *precisions: str) -> Bundle:
    """The bundle with its one graph under each of these names."""
    for precision in precisions:
        if precision != "fp32":
            shutil.copy(folder / "model.fp32.onnx", folder / f"model.{precision}.onnx")
    values = json.loads((folder / MANIFEST).read_text())
    sha = values["files"]["model.fp32.onnx"]
    values["files"] |= {f"model.{precision}.onnx": sha for precision in precisions}
    values["graphs"] = [{"file": f"model.{precision}.onnx", "precision": precision} for precision in precisions]
    (folder / MANIFEST).write_text(json.dumps(values))
    return bundles.load(folder)


def choose(
    bundle: Bundle, device: str, *, workers: int = 0, threads: int = 0, cores: int = 1
) -> tuple[OrtEngine, Graph]:
    return open_engine(bundle, device=device, workers=workers, intra_op_threads=threads, cores=cores)


@pytest.mark.parametrize("device", ["cpu", "auto"])
def test_int8_runs_before_fp32_on_the_cpu(
    bundle_factory: Factory, monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    engine, graph = choose(with_graphs(bundle_factory("sentiment"), "fp32", "int8"), device)
    assert (engine.provider, engine.precision, graph.file) == ("cpu", "int8", "model.int8.onnx")
    (logits,) = engine.run(batch(2, 5))
    assert logits.shape == (2, 2)


def test_cuda_without_cuda_is_refused(models_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(ConfigurationError, match=r"no CUDAExecutionProvider .*bertie\[gpu\]"):
        choose(bundles.load(models_dir / "qa"), "cuda")


@pytest.mark.skipif(not ONLY_CPU, reason="this installation of ONNX Runtime has CUDA")
@pytest.mark.filterwarnings("ignore:Specified provider")
def test_cuda_that_falls_back_to_the_cpu_is_refused(models_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The gpu wheel on a machine without a driver lists CUDA, logs a line, and runs on the CPU."""
    both = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(module.ort, "get_available_providers", lambda: both)
    bundle = bundles.load(models_dir / "qa")
    with pytest.raises(ConfigurationError, match=r"CUDA|cuda"):
        choose(bundle, "cuda")
    engine, graph = choose(bundle, "auto")  # asked for nothing, it may take what there is
    assert (engine.provider, graph.precision) == ("cpu", "fp32")


def test_a_bundle_for_gpus_alone_is_refused_on_the_cpu(bundle_factory: Factory) -> None:
    bundle = with_graphs(bundle_factory("sentiment"), "fp16")
    with pytest.raises(BundleError, match=r"'sentiment' has fp16 and no graph for cpu .*python -m training export"):
        choose(bundle, "cpu")


def test_a_bundle_for_the_cpu_alone_is_refused_on_cuda(bundle_factory: Factory) -> None:
    bundle = with_graphs(bundle_factory("sentiment"), "int8")
    with pytest.raises(BundleError, match="no graph for cuda"):
        choose(bundle, "cuda")


def test_auto_takes_the_cpu_for_a_bundle_without_a_cuda_graph(
    bundle_factory: Factory, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(module.ort, "get_available_providers", lambda: both)
    engine, _ = choose(with_graphs(bundle_factory("sentiment"), "int8"), "auto")
    assert engine.provider == "cpu"


@pytest.mark.parametrize(
    ("workers", "threads", "cores", "expected"),
    [
        (0, 0, 1, (1, 1)),
        (0, 0, 4, (4, 1)),  # a call a core
        (2, 0, 8, (2, 4)),
        (0, 4, 8, (2, 4)),
        (0, 8, 2, (1, 8)),  # what is asked for is done, wise or not
        (3, 5, 2, (3, 5)),
        (4, 0, 2, (4, 1)),
    ],
)
def test_workers_and_threads_follow_the_cores(
    models_dir: Path, monkeypatch: pytest.MonkeyPatch, workers: int, threads: int, cores: int, expected: tuple[int, int]
) -> None:
    seen = []
    monkeypatch.setattr(module, "OrtEngine", lambda path, **options: seen.append(options))
    choose(bundles.load(models_dir / "qa"), "cpu", workers=workers, threads=threads, cores=cores)
    assert (seen[0]["workers"], seen[0]["intra_op_threads"]) == expected


def test_threads_reach_the_session(graph: Path) -> None:
    engine = OrtEngine(graph, provider="cpu", workers=1, intra_op_threads=3)
    assert engine._session.get_session_options().intra_op_num_threads == 3
    assert engine.run(batch(4, 30))[0].shape == (4,)


def test_a_graph_of_the_bundle_that_is_broken_is_refused(bundle_factory: Factory) -> None:
    bundle = bundles.load(bundle_factory("sentiment"))
    (bundle.folder / "model.fp32.onnx").write_bytes(b"\x00" * 10)
    with pytest.raises(BundleError):
        choose(bundle, "cpu")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("processor\t: 0\nflags\t\t: fpu avx2 avx512f\n", True),
        ("processor\t: 0\nflags\t\t: fpu avx2 avx_vnni\n", False),
        ("processor\t: 0\nflags\t\t: fpu avx512_vnni\n", False),
        ("processor\t: 0\nFeatures\t: fp asimd\n", False),  # Arm
        (None, False),  # no Linux
    ],
)
def test_seven_bits_are_for_processors_whose_products_overflow(
    text: str | None, expected: bool, graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "cpuinfo"
    if text is not None:
        path.write_text(text)
    monkeypatch.setattr("service.engine.session.CPUINFO", path)
    monkeypatch.setattr(module, "_products_overflow", THIS_PROCESSORS)
    write_shared(tmp_path / "model.int8.onnx")
    assert int8(tmp_path / "model.int8.onnx")._parameters == (SEVEN_BITS if expected else {})
    assert not cpu(graph)._parameters  # it has none


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
    monkeypatch.setattr(module, "_products_overflow", overflow)
    (out,) = int8(tmp_path / "model.int8.onnx").run(batch(2, 3))
    np.testing.assert_allclose(out, np.ones((2, 3, 8)), rtol=1e-6)
    assert capfd.readouterr().err == ""  # the runtime writes nothing between the lines of a log


def test_a_graph_without_parameters_is_refused_where_products_overflow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_shared(tmp_path / "model.int8.onnx", parameters=False)
    monkeypatch.setattr(module, "_products_overflow", lambda: True)
    with pytest.raises(BundleError, match=r"/model\.int8\.onnx is of an earlier version.*export it again"):
        int8(tmp_path / "model.int8.onnx")
    monkeypatch.setattr(module, "_products_overflow", lambda: False)
    int8(tmp_path / "model.int8.onnx")


# ---- where nodes run ------------------------------------------------------------------------------------------------


def test_placement_counts_every_node_once(graph: Path) -> None:
    placed = cpu(graph).placement(batch(2, 5))
    assert set(placed) == {"CPUExecutionProvider"}
    assert placed["CPUExecutionProvider"]["Gather"] == 1
    assert placed["CPUExecutionProvider"]["Softmax"] == 1


class Card:
    """A CPU session that says it is CUDA's: it notes what is bound to the device, and does the work here."""

    def __init__(self, path: str, options: object, providers: list[object]) -> None:
        self.providers = providers
        self.bound: list[tuple[str, str]] = []
        self._session = SESSION(path, options, providers=["CPUExecutionProvider"])

    def get_providers(self) -> list[str]:
        return ["CUDAExecutionProvider", "CPUExecutionProvider"]

    def get_outputs(self) -> list[object]:
        return list(self._session.get_outputs())

    def io_binding(self) -> "Card":
        self._binding = self._session.io_binding()
        return self

    def bind_ortvalue_input(self, name: str, value: onnxruntime.OrtValue) -> None:
        self.bound.append((name, "in"))
        self._binding.bind_ortvalue_input(name, value)

    def bind_output(self, name: str, device: str) -> None:
        self.bound.append((name, device))
        self._binding.bind_output(name, "cpu")

    def run_with_iobinding(self, binding: "Card") -> None:
        self._session.run_with_iobinding(binding._binding)

    def copy_outputs_to_cpu(self) -> list[np.ndarray]:
        outputs: list[np.ndarray] = self._binding.copy_outputs_to_cpu()
        return outputs


SESSION = onnxruntime.InferenceSession


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """CUDA, as far as a CPU can play it. Lists the devices that arrays are sent to."""
    sent: list[tuple[str, int]] = []
    send = onnxruntime.OrtValue.ortvalue_from_numpy

    def to_device(array: np.ndarray, device: str, number: int) -> onnxruntime.OrtValue:
        sent.append((device, number))
        return send(array)

    both = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(module.ort, "get_available_providers", lambda: both)
    monkeypatch.setattr(module.ort, "InferenceSession", Card)
    monkeypatch.setattr(module.ort.OrtValue, "ortvalue_from_numpy", to_device)
    return sent


def test_on_cuda_inputs_and_outputs_are_bound_to_the_device(graph: Path, card: list[tuple[str, int]]) -> None:
    given = batch(3, 7)
    engine = OrtEngine(graph, provider="cuda", workers=1, intra_op_threads=1)
    sums, second = engine.run(given)
    assert card == [("cuda", 0)] * 3
    inputs = ("input_ids", "attention_mask", "token_type_ids")
    assert engine._session.bound == [*((name, "in") for name in inputs), ("sum", "cuda"), ("second", "cuda")]
    assert engine._session.providers[0][0] == "CUDAExecutionProvider"
    arrays = {name: getattr(given, name) for name in inputs}
    expected = SESSION(str(graph), providers=["CPUExecutionProvider"]).run(None, arrays)
    for ours, theirs in zip((sums, second), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_on_cuda_one_call_at_a_time_by_default(bundle_factory: Factory, card: list[tuple[str, int]]) -> None:
    engine, graph = choose(with_graphs(bundle_factory("sentiment"), "fp16", "int8"), "auto", cores=8)
    assert (engine.provider, engine.workers, graph.precision) == ("cuda", 1, "fp16")
    assert engine.run(batch(2, 5))[0].shape == (2, 2)


def test_a_graph_that_cuda_cannot_open_is_refused_there(tmp_path: Path, card: list[tuple[str, int]]) -> None:
    (tmp_path / "model.fp16.onnx").write_bytes(b"no graph")
    with pytest.raises(ConfigurationError, match=r"no session on CUDA for model\.fp16\.onnx"):
        OrtEngine(tmp_path / "model.fp16.onnx", provider="cuda", workers=1, intra_op_threads=1)
