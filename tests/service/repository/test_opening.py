"""Which graph is opened where, with how many threads; and what is said when it is not what was wished."""

import hashlib
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from service.engine import session
from service.engine.batch import Encoded, pad
from service.engine.session import OrtEngine
from service.errors import BundleError, ConfigurationError
from service.metrics import Metrics
from service.repository import bundle as bundles
from service.repository import loading, opening
from service.repository.bundle import Bundle
from service.repository.manifest import MANIFEST, Graph
from service.repository.opening import open_engine
from service.settings import Settings
from tests import cards

Factory = Callable[..., Path]
ONLY_CPU = "CUDAExecutionProvider" not in onnxruntime.get_available_providers()
BATCH = pad([Encoded(np.arange(5, 10), np.zeros(5, np.int64))] * 2, 0)


@pytest.fixture(autouse=True)
def with_vnni(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever processor this is: what tests call int8 is fp32 under another name."""
    monkeypatch.setattr(session, "products_overflow", lambda: False)


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """CUDA, played; the devices that arrays are sent to."""
    return cards.play(monkeypatch)


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
    (logits,) = engine.run(BATCH)
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
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: both)
    bundle = bundles.load(models_dir / "qa")
    with pytest.raises(ConfigurationError, match=r"CUDA|cuda"):
        choose(bundle, "cuda")


@pytest.mark.skipif(not ONLY_CPU, reason="this installation of ONNX Runtime has CUDA")
@pytest.mark.filterwarnings("ignore:Specified provider")
async def test_auto_says_why_cuda_is_not_taken(
    models_dir: Path, metrics: Metrics, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Asked for nothing, it may take what there is: with a warning for each model, and a metric."""
    both = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: both)
    with caplog.at_level(logging.WARNING, logger="service"):
        predictor = loading.load(Settings(models_dir=models_dir, models=("qa", "nli"), low_latency=False), metrics)
    assert {model.provider for model in predictor.models.values()} == {"cpu"}
    assert len(caplog.messages) == 2
    assert "'qa' runs on the CPU: CUDA is installed and does not work: asked for cuda, but" in caplog.messages[0]
    assert metrics.registry.get_sample_value("bertie_provider_fallback_total") == 2
    assert await predictor.drain(5)


def test_auto_without_cuda_is_no_fallback(models_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    bundle, told = bundles.load(models_dir / "qa"), []
    options = {"workers": 1, "intra_op_threads": 1, "cores": 1}
    engine, graph = open_engine(bundle, device="auto", **options, on_fallback=lambda: told.append(1))
    assert (engine.provider, graph.precision, told) == ("cpu", "fp32", [])


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
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: both)
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
    monkeypatch.setattr(opening, "OrtEngine", lambda path, **options: seen.append(options))
    choose(bundles.load(models_dir / "qa"), "cpu", workers=workers, threads=threads, cores=cores)
    assert (seen[0]["workers"], seen[0]["intra_op_threads"]) == expected


def test_a_graph_of_the_bundle_that_is_broken_is_refused(bundle_factory: Factory) -> None:
    bundle = bundles.load(bundle_factory("sentiment"))
    (bundle.folder / "model.fp32.onnx").write_bytes(b"\x00" * 10)
    with pytest.raises(BundleError, match=r"bundle 'sentiment': model\.fp32\.onnx has sha256"):
        choose(bundle, "cpu")


def test_a_graph_that_cannot_be_run_is_refused_in_one_line(bundle_factory: Factory) -> None:
    folder = bundle_factory("sentiment")
    (folder / "model.fp32.onnx").write_bytes(b"no graph")
    values = json.loads((folder / MANIFEST).read_text())
    values["files"]["model.fp32.onnx"] = hashlib.sha256(b"no graph").hexdigest()
    (folder / MANIFEST).write_text(json.dumps(values))
    with pytest.raises(BundleError, match=r"^bundle 'sentiment': model\.fp32\.onnx is no graph") as error:
        choose(bundles.load(folder), "cpu")
    assert "\n" not in error.value.detail


def test_a_copy_that_cannot_be_written_is_the_machines_fault(
    models_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "absent"))
    with pytest.raises(ConfigurationError, match="'qa': its graph cannot be copied"):
        choose(bundles.load(models_dir / "qa"), "cpu")


def test_on_cuda_one_call_at_a_time_by_default(bundle_factory: Factory, card: list[tuple[str, int]]) -> None:
    engine, graph = choose(with_graphs(bundle_factory("sentiment"), "fp16", "int8"), "auto", cores=8)
    assert (engine.provider, engine.workers, graph.precision) == ("cuda", 1, "fp16")
    assert engine.run(BATCH)[0].shape == (2, 2)
