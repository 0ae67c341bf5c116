"""The one seam between rows and hardware: a batch in, the logits of its rows out.

Owns the ONNX Runtime session and its settings. Knows nothing of text, tasks or queues.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from service.engine.batch import Batch, Encoded, pad
from service.errors import BundleError, ConfigurationError
from service.repository.bundle import Bundle, Graph, Provider

Outputs = tuple[NDArray[np.float32], ...]

_EXECUTION_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
CPUINFO = Path("/proc/cpuinfo")
_WARM_UP_TOKENS = (8, 32, 128)
SEVEN_BITS: Mapping[str, np.generic] = {"activation.largest": np.float32(63), "activation.zero": np.uint8(64)}
"""Parameters of an int8 graph, and their values for activations in 7 bits. x64 processors without VNNI add two products
in 16 bits, where those of 8 bits do not fit (2 * 255 * 127), and these do (2 * 127 * 127): exact, and as quick as can
be there. Dev scores stay what they are (docs/lab.md)."""


class Engine(Protocol):
    """Runs batches. `run` is called from `workers` threads at once, and from `background` ones beside them.

    Attributes:
        workers: how many calls of `run` go side by side.
        background: how many more of threads that leave the cores to those; 0 where they would gain nothing by it.
    """

    workers: int
    background: int

    def run(self, batch: Batch) -> Outputs:
        """The graph's outputs, each of shape [rows, ...], in the graph's order."""
        ...


class OrtEngine:
    """A graph in an ONNX Runtime session.

    Attributes:
        provider: where it really runs.
        precision: of the graph.
        workers: calls of `run` that go side by side.
        background: as many more on CPUs; on a GPU a thread's niceness is nothing to the device.
    """

    def __init__(
        self, path: Path, *, provider: Provider, precision: str = "fp32", workers: int, intra_op_threads: int
    ) -> None:
        """
        Raises:
            BundleError: the file is no graph that ONNX Runtime can run, or run exactly on this processor.
            ConfigurationError: the provider is not to be had on this machine.
        """
        if _EXECUTION_PROVIDERS[provider] not in ort.get_available_providers():
            raise ConfigurationError(
                f"this installation of ONNX Runtime has no {_EXECUTION_PROVIDERS[provider]} "
                "(pip install 'bertie[gpu]', or the gpu image)"
            )
        self.provider: Provider = provider
        self.precision = precision
        self.workers = workers
        self.background = workers if provider == "cpu" else 0
        self._path = path
        self._threads = intra_op_threads
        self._session = self._open(self._options())
        self._output_names = [output.name for output in self._session.get_outputs()]
        self._parameters = parameters(self._session, path) if precision == "int8" else {}

    def run(self, batch: Batch) -> Outputs:
        """Runs the graph, on the calling thread where it has one thread. Other Python threads go on meanwhile."""
        if self.provider == "cuda":
            return self._run_on_device(batch)
        outputs: list[NDArray[np.float32]] = self._session.run(self._output_names, _inputs(batch) | self._parameters)
        return tuple(outputs)

    def placement(self, batch: Batch) -> dict[str, dict[str, int]]:
        """How often each operator ran on each execution provider in a call, by ONNX Runtime's own profile.

        A provider that is asked for takes the nodes that it has kernels for; the others silently go to the CPU. Opens a
        session for this alone.
        """
        with tempfile.TemporaryDirectory(prefix="bertie-profile-") as folder:
            options = self._options()
            options.enable_profiling = True
            options.profile_file_prefix = str(Path(folder) / "nodes")
            session = self._open(options)
            session.run(self._output_names, _inputs(batch) | self._parameters)
            events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        ran: dict[str, Counter[str]] = {}
        for event in events:
            if event.get("cat") == "Node" and (place := event["args"].get("provider")):
                ran.setdefault(place, Counter())[event["args"]["op_name"]] += 1
        return {place: dict(operators) for place, operators in ran.items()}

    def reopened(self, *, workers: int, intra_op_threads: int) -> OrtEngine:
        """The same graph in a session of its own, with other threads. Its weights are in memory once more."""
        return OrtEngine(
            self._path,
            provider=self.provider,
            precision=self.precision,
            workers=workers,
            intra_op_threads=intra_op_threads,
        )

    def warm_up(self, max_length: int) -> None:
        """Runs rows on every worker, so that the first caller waits for no allocation or kernel: on a GPU of several
        lengths, for each may have kernels of its own."""
        tried = _WARM_UP_TOKENS if self.provider == "cuda" else ()
        lengths = sorted({min(tokens, max_length) for tokens in (*tried, max_length)})
        rows = [Encoded(np.zeros(n, dtype=np.int64), np.zeros(n, dtype=np.int64)) for n in lengths]
        with ThreadPoolExecutor(self.workers) as pool:
            for row in rows:
                list(pool.map(self.run, [pad([row], 0)] * self.workers))

    def _options(self) -> ort.SessionOptions:
        options = ort.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        # Every batch has another shape. An arena that keeps its largest blocks and a memory plan cached for each shape
        # grow without bound under such traffic; malloc stays flat, and is as quick (`service.engine.allocator`).
        options.enable_mem_pattern = False
        options.enable_cpu_mem_arena = False
        # Threads of a call wake for each of its hundreds of operators: spinning between those makes a call on two cores
        # 1.2 to 1.5 times as quick. Between calls they sleep: a container's CPU quota is not for spinning.
        options.add_session_config_entry("session.intra_op.allow_spinning", "1" if self.workers == 1 else "0")
        options.add_session_config_entry("session.force_spinning_stop", "1")
        # On CPUs what is an error to it is raised too, and told here in one line; why there is no CUDA it only logs.
        options.log_severity_level = 3 if self.provider == "cuda" else 4
        return options

    def _open(self, options: ort.SessionOptions) -> ort.InferenceSession:
        wanted = _EXECUTION_PROVIDERS[self.provider]
        if self.provider == "cuda":
            _preload_cuda_libraries()
            providers: list[object] = [(wanted, {"arena_extend_strategy": "kSameAsRequested"}), "CPUExecutionProvider"]
        else:
            providers = [wanted]
        try:
            session = ort.InferenceSession(str(self._path), options, providers=providers)
        except Exception as error:  # ONNX Runtime has a dozen kinds, none of them public
            if self.provider == "cuda":
                raise ConfigurationError(f"no session on CUDA for {self._path.name}: {error}") from error
            raise BundleError(f"{self._path.name} is no graph that ONNX Runtime can run: {error}") from error
        # Asked for CUDA without a usable driver, ONNX Runtime logs a line and runs on the CPU.
        if session.get_providers()[0] != wanted:
            raise ConfigurationError(
                f"asked for {self.provider}, but ONNX Runtime fell back to the CPU: no usable GPU here"
            )
        return session

    def _run_on_device(self, batch: Batch) -> Outputs:
        """Inputs go over before the call and outputs come back after it: no node in between waits for a copy."""
        binding = self._session.io_binding()
        for name, array in _inputs(batch).items():
            binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array, self.provider, 0))
        for name in self._output_names:
            binding.bind_output(name, self.provider)  # its shape is the batch's, so the runtime makes room for it
        self._session.run_with_iobinding(binding)
        return tuple(binding.copy_outputs_to_cpu())


def open_engine(
    bundle: Bundle, *, device: str, workers: int, intra_op_threads: int, cores: int
) -> tuple[OrtEngine, Graph]:
    """The engine for a bundle's best graph on `device` (`auto`, `cpu` or `cuda`).

    `auto` takes CUDA where ONNX Runtime can really run there and the bundle has a graph for it. On the CPU, by default,
    each core makes calls of its own with one thread inside a call: twice the rows a second of one call on all cores,
    because short rows leave those waiting for one another.

    Raises:
        BundleError: the bundle has no graph for the device.
        ConfigurationError: `cuda` was asked for and is not to be had.
    """
    if device == "cuda" or (device == "auto" and _has_cuda_graph(bundle) and _has_cuda_provider()):
        graph = bundle.graph_for("cuda")
        try:
            return _open(bundle, graph, "cuda", workers or 1, intra_op_threads or 1), graph
        except ConfigurationError:
            if device == "cuda":
                raise
    graph = bundle.graph_for("cpu")
    workers = workers or max(1, cores // max(1, intra_op_threads))
    threads = intra_op_threads or max(1, cores // workers)
    return _open(bundle, graph, "cpu", workers, threads), graph


def parameters(session: ort.InferenceSession, path: Path) -> dict[str, NDArray[Any]]:
    """What the int8 graph of `path` must be given beside a batch for exact products on this processor, by input.

    Raises:
        BundleError: it has no such inputs.
    """
    if not _products_overflow():
        return {}
    if SEVEN_BITS.keys() - {each.name for each in session.get_overridable_initializers()}:
        raise BundleError(
            f"{path.parent.name}/{path.name} is of an earlier version, for processors with VNNI: export it again"
        )
    return {name: np.array(value) for name, value in SEVEN_BITS.items()}


def _open(bundle: Bundle, graph: Graph, provider: Provider, workers: int, intra_op_threads: int) -> OrtEngine:
    return OrtEngine(
        bundle.folder / graph.file,
        provider=provider,
        precision=graph.precision,
        workers=workers,
        intra_op_threads=intra_op_threads,
    )


def _inputs(batch: Batch) -> dict[str, NDArray[Any]]:
    return {
        "input_ids": batch.input_ids,
        "attention_mask": batch.attention_mask,
        "token_type_ids": batch.token_type_ids,
    }


def _has_cuda_graph(bundle: Bundle) -> bool:
    try:
        bundle.graph_for("cuda")
    except BundleError:
        return False
    return True


def _has_cuda_provider() -> bool:
    return _EXECUTION_PROVIDERS["cuda"] in ort.get_available_providers()


def _products_overflow() -> bool:
    """Whether this is an x64 processor without VNNI, whose kernels add 8-bit products in 16 bits and may overflow."""
    try:
        flags = next(line for line in CPUINFO.read_text(encoding="ascii").splitlines() if line.startswith("flags"))
    except (OSError, StopIteration):  # no Linux, or no x64
        return False
    return "vnni" not in flags


def _preload_cuda_libraries() -> None:
    """Loads the CUDA libraries of the `gpu` extra's wheels, which lie where the dynamic linker does not look."""
    preload = getattr(ort, "preload_dlls", None)
    if preload is not None:
        preload()
