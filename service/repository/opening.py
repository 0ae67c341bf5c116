"""A bundle's graph to an engine: the choice of graph and provider, and of threads."""

from __future__ import annotations

import logging
from collections.abc import Callable

from service.engine.session import OrtEngine, Provider, has_cuda
from service.errors import BundleError, ConfigurationError
from service.repository.bundle import Bundle
from service.repository.manifest import Graph

logger = logging.getLogger(__name__)

LOW_LATENCY_THREADS = 8
"""Most threads inside a call: each session has its own, and the layers of a row give work to no more."""


def open_engine(
    bundle: Bundle,
    *,
    device: str,
    workers: int,
    intra_op_threads: int,
    cores: int,
    on_fallback: Callable[[], None] = lambda: None,
) -> tuple[OrtEngine, Graph]:
    """Open the engine for a bundle's best graph on `device` (`auto`, `cpu` or `cuda`).

    `auto` takes CUDA where ONNX Runtime can really run there and the bundle has a graph for it. On the CPU, by default,
    each core makes calls of its own with one thread inside a call: twice the rows a second of one call on all cores,
    because short rows leave those waiting for one another.

    Args:
        on_fallback: called when `auto` takes the CPU because CUDA does not work.

    Raises:
        BundleError: the bundle has no graph for the device.
        ConfigurationError: `cuda` was asked for and is not to be had.
    """
    if device == "cuda" or (device == "auto" and bundle.has_graph_for("cuda") and has_cuda()):
        graph = bundle.graph_for("cuda")
        try:
            return _open(bundle, graph, "cuda", workers or 1, intra_op_threads or 1), graph
        except ConfigurationError as error:
            if device == "cuda":
                raise
            logger.warning("model %r runs on the CPU: CUDA is installed and does not work: %s", bundle.name, error)
            on_fallback()
    graph = bundle.graph_for("cpu")
    workers = workers or max(1, cores // max(1, intra_op_threads))
    threads = intra_op_threads or max(1, cores // workers)
    return _open(bundle, graph, "cpu", workers, threads), graph


def open_low_latency(bundle: Bundle, graph: Graph, cores: int) -> OrtEngine:
    """Open a CPU graph once more, in a session that runs each call on all cores.

    A part of its weights is in memory once more.
    """
    return _open(bundle, graph, "cpu", 1, min(cores, LOW_LATENCY_THREADS))


def _open(bundle: Bundle, graph: Graph, provider: Provider, workers: int, threads: int) -> OrtEngine:
    try:
        with bundle.private_copy(graph) as path:
            return OrtEngine(
                path, provider=provider, precision=graph.precision, workers=workers, intra_op_threads=threads
            )
    except BundleError as error:
        detail = error.detail.replace("\n", " ")
        raise (error if bundle.name in detail else BundleError(f"bundle {bundle.label!r}: {detail}")) from error
    except OSError as error:
        raise ConfigurationError(f"bundle {bundle.label!r}: its graph cannot be copied: {error}") from error
