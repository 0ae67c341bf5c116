"""The graphs of a bundle: one a precision, and one beside it without work on padding, each held to the checkpoint.

Owns which graphs are made and what each is compared with. How one is built is `graph`'s, how near it must be `gate`'s.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from transformers import PreTrainedModel

from service.repository.manifest import SUITS, WEIGHTS
from training.errors import TrainingError
from training.export import external, gate, graph, packing, quantize

logger = logging.getLogger(__name__)

ENCODINGS: Mapping[str, quantize.Encoding] = {
    "fp32": quantize.FLOAT32, "fp16": quantize.FLOAT16, "int8": quantize.INT8, "w8a16": quantize.W8A16,
}  # fmt: skip
SAME_IN_FP32: Mapping[str, quantize.Encoding] = {
    "fp16": quantize.FLOAT32,
    "w8a16": quantize.WeightOnly(np.dtype(np.float32)),
}
"""The encoding of the same weights that computes in fp32, for those that compute in fp16."""


@dataclass(frozen=True, slots=True)
class Made:
    """The files of a bundle's graphs by precision."""

    files: dict[str, Path]  # fp32 among them, wherever it lies
    packed: dict[str, Path]
    halves: dict[str, float | None]  # of those in fp16, the largest difference from fp32; None where not compared


def packable(precisions: Sequence[str]) -> tuple[str, ...]:
    """Return the precisions that suit GPUs, and so packed graphs. Raises `TrainingError` where none does."""
    found = tuple(precision for precision in precisions if precision in SUITS["cuda"])
    if not found:
        raise TrainingError(
            f"no packed graph is made in {', '.join(precisions)}: they are for GPUs, in {' or '.join(SUITS['cuda'])}"
        )
    return found


def make(
    model: PreTrainedModel, folder: Path, scratch: Path, precisions: Sequence[str], packed: Sequence[str], longest: int
) -> Made:
    """Write the graphs and their weights to `folder`, and hold each to the checkpoint.

    Args:
        scratch: for the graphs that are compared with alone. The fp32 graph is one, where it is not to be kept.
        longest: row in tokens.

    Raises:
        GateError: a graph does not answer as the checkpoint does.
    """
    # The gate wants the fp32 graph, whether or not the bundle keeps it.
    fp32 = scratch / "model.fp32.onnx"
    onnx.save(_built(model, "fp32"), fp32)
    files = {"fp32": fp32} | {p: folder / f"model.{p}.onnx" for p in precisions}
    packs = {p: folder / f"model.{p}.packed.onnx" for p in packed}
    protos = {files[p]: _built(model, p) for p in precisions} | {
        packs[p]: _built(model, p, packed=True) for p in packed
    }
    external.save(protos, folder / WEIGHTS)
    logger.info("%s: %.1f MB", WEIGHTS, (folder / WEIGHTS).stat().st_size / 1e6)
    gate.parity(model, files["fp32"], longest)

    # What CPUs can run of a packed graph: its very file, with other operators of the same meaning.
    runnable = {p: scratch / path.name for p, path in packs.items()}
    for p, path in runnable.items():
        onnx.save(packing.for_cpu(onnx.load(packs[p])), path)
    if "fp32" in runnable:
        gate.parity(model, runnable["fp32"], longest, "packed fp32")
    halves: dict[str, float | None] = {}
    for p in (p for p in precisions if p in SAME_IN_FP32):
        reference = fp32
        if SAME_IN_FP32[p] is not quantize.FLOAT32:  # other weights than that graph's
            reference = scratch / f"reference.{p}.onnx"
            onnx.save(graph.build(model, encoding=SAME_IN_FP32[p]), reference)
        halves[p] = gate.half(model, files[p], reference, longest, p)
        if p in runnable:
            halves[f"packed {p}"] = gate.half(model, runnable[p], reference, longest, f"packed {p}")
    return Made(files, packs, halves)


def _built(model: PreTrainedModel, precision: str, *, packed: bool = False) -> onnx.ModelProto:
    proto = graph.build(model, encoding=ENCODINGS[precision], packed=packed)
    gate.attention(model, proto)
    return proto
