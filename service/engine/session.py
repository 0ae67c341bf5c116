"""The one seam between rows and hardware: a batch in, the logits of its rows out.

Owns the ONNX Runtime session and its settings. Knows nothing of text, tasks or queues.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

# From 1.29 on ONNX Runtime tells its makers of each process and session, from a thread of its own, unless this is set
# before it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime as ort

from service.engine.batch import Batch, Encoded, pad
from service.engine.processor import products_overflow
from service.errors import BundleError, ConfigurationError

Outputs = tuple[NDArray[np.float32], ...]
Provider = Literal["cpu", "cuda"]

_EXECUTION_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_WARM_UP_TOKENS = (8, 32, 128)
SEVEN_BITS: Mapping[str, np.generic] = {"activation.largest": np.float32(63), "activation.zero": np.uint8(64)}
"""Parameters of an int8 graph, and their values for activations in 7 bits. x64 processors without VNNI add two products
in 16 bits, where those of 8 bits do not fit (2 * 255 * 127), and these do (2 * 127 * 127): exact, and as quick as can
be there. Dev scores stay what they are (docs/lab.md)."""
SEVEN_BIT = "int8-7bit"
"""The arithmetic of an int8 graph that is given `SEVEN_BITS`."""


class Engine(Protocol):
    """Runs batches; `run` is called from several threads at once."""

    def run(self, batch: Batch) -> Outputs:
        """Run the graph. Returns its outputs, each of shape [rows, ...], in the graph's order."""
        ...


class OrtEngine:
    """A graph in an ONNX Runtime session.

    Attributes:
        provider: where it really runs.
        precision: of the graph.
        arithmetic: how it computes: the precision, or `SEVEN_BIT`.
        workers: calls of `run` that it is meant for side by side.
    """

    def __init__(
        self,
        path: Path,
        *,
        provider: Provider,
        precision: str = "fp32",
        workers: int,
        intra_op_threads: int,
        seven_bits: bool | None = None,
    ) -> None:
        """
        Args:
            seven_bits: whether an int8 graph's activations have 7 bits; None: as this processor wants it.

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
        self._path = path
        self._threads = intra_op_threads
        self._session = self._open(self._options())
        self._output_names = [output.name for output in self._session.get_outputs()]
        seven = precision == "int8" and (products_overflow() if seven_bits is None else seven_bits)
        self.arithmetic = SEVEN_BIT if seven else precision
        self._parameters = parameters(self._session, path) if seven else {}

    def run(self, batch: Batch) -> Outputs:
        """Run the graph, on the calling thread where it has one thread. Other Python threads go on meanwhile."""
        if self.provider == "cuda":
            return self._run_on_device(batch)
        outputs: list[NDArray[np.float32]] = self._session.run(self._output_names, _inputs(batch) | self._parameters)
        return tuple(outputs)

    def placement(self, batch: Batch) -> dict[str, dict[str, int]]:
        """Count how often each operator ran on each execution provider in a call, by ONNX Runtime's own profile.

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

    def warm_up(self, max_length: int, token: int = 0) -> Outputs:
        """Run rows on every worker, so that the first client waits for no allocation or kernel: on a GPU of several
        lengths, for each may have kernels of its own.

        Args:
            token: id that stands in each place.

        Returns:
            The outputs for a row of `max_length` tokens.
        """
        tried = _WARM_UP_TOKENS if self.provider == "cuda" else ()
        lengths = sorted({min(tokens, max_length) for tokens in (*tried, max_length)})
        with ThreadPoolExecutor(self.workers) as pool:
            for n in lengths:
                row = pad([Encoded(np.full(n, token, dtype=np.int64), np.zeros(n, dtype=np.int64))], 0)
                outputs, *_ = pool.map(self.run, [row] * self.workers)
        return outputs

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
        """Run on the GPU. Inputs go over before the call and outputs come back after it: no node waits for a copy."""
        binding = self._session.io_binding()
        for name, array in _inputs(batch).items():
            binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array, self.provider, 0))
        for name in self._output_names:
            binding.bind_output(name, self.provider)  # its shape is the batch's, so the runtime makes room for it
        self._session.run_with_iobinding(binding)
        return tuple(binding.copy_outputs_to_cpu())


def has_cuda() -> bool:
    """Whether this installation of ONNX Runtime has CUDA; whether it works is another matter."""
    return _EXECUTION_PROVIDERS["cuda"] in ort.get_available_providers()


def parameters(session: ort.InferenceSession, path: Path) -> dict[str, NDArray[Any]]:
    """Get what the int8 graph of `path` must be given beside a batch for activations in 7 bits, by input.

    Raises:
        BundleError: it has no such inputs.
    """
    if SEVEN_BITS.keys() - {each.name for each in session.get_overridable_initializers()}:
        raise BundleError(
            f"{path.parent.name}/{path.name} is of an earlier version, for processors with VNNI: export it again"
        )
    return {name: np.array(value) for name, value in SEVEN_BITS.items()}


def _inputs(batch: Batch) -> dict[str, NDArray[Any]]:
    return {
        "input_ids": batch.input_ids,
        "attention_mask": batch.attention_mask,
        "token_type_ids": batch.token_type_ids,
    }


def _preload_cuda_libraries() -> None:
    """Load the CUDA libraries of the `gpu` extra's wheels, which lie where the dynamic linker does not look."""
    preload = getattr(ort, "preload_dlls", None)
    if preload is not None:
        preload()
