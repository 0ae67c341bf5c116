"""A shape in torch, beside its graph: `python -m bench.graphs.eager REQUEST`, see `bench.child`.

Owns the speed of transformers' own model in bf16, and how far the fp32 graph's logits are from it in fp32.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from bench import child
from bench.compare import weights
from service.engine.batch import Batch
from service.engine.session import OrtEngine
from training.evaluate.engine import TorchEngine

LEAST_CALLS = 3
"""Calls that a time is the median of, where they take longer than the time given."""


def measure(request: dict[str, Any]) -> dict[str, Any]:
    """Time the model and compare its logits with the graph's.

    Args:
        request: `folder` (with config.json), `graph` (its fp32 graph, of the same random weights; "" compares none),
            `shapes` to compare ([rows, tokens] each), `rows` and `tokens` of the timed call, `threads`, `seconds`.

    Returns:
        `rows_per_second` in bf16, and `difference`, the largest of a logit over all shapes.
    """
    torch.set_num_threads(request["threads"])
    model = weights.load(Path(request["folder"]), None)
    found: dict[str, Any] = {}
    if request["graph"]:
        found["difference"] = difference(model, Path(request["graph"]), request["shapes"])
    engine = TorchEngine(model.bfloat16())
    rows, tokens = request["rows"], request["tokens"]
    batch = _batch(rows, tokens, model.config.vocab_size, [tokens] * rows)
    engine.run(batch)
    times: list[float] = []
    while sum(times) < request["seconds"] or len(times) < LEAST_CALLS:
        began = time.perf_counter()
        engine.run(batch)
        times.append(time.perf_counter() - began)
    return found | {"rows_per_second": rows / statistics.median(times)}


def difference(model: PreTrainedModel, path: Path, shapes: Sequence[tuple[int, int]]) -> float:
    """Get the largest difference of a logit between model and graph, over rows of many lengths in each shape."""
    graph, eager = OrtEngine(path, provider="cpu", workers=1, intra_op_threads=1), TorchEngine(model)
    random = np.random.default_rng(0)
    largest = 0.0
    for rows, tokens in shapes:
        lengths = [tokens, *random.integers(min(2, tokens), tokens + 1, rows - 1)]
        batch = _batch(rows, tokens, model.config.vocab_size, lengths)
        for ours, theirs in zip(graph.run(batch), eager.run(batch), strict=True):
            largest = max(largest, float(np.abs(ours - theirs).max()))
    return largest


def _batch(rows: int, tokens: int, vocabulary: int, lengths: Sequence[int]) -> Batch:
    real = np.arange(tokens) < np.array(lengths)[:, None]
    ids = np.where(real, np.random.default_rng(tokens).integers(5, vocabulary, (rows, tokens)), 1)
    if vocabulary > 2:
        ids[np.arange(rows), np.array(lengths) - 1] = 2  # </s> where it is read: BART's head takes the last one's state
    return Batch(ids.astype(np.int64), real.astype(np.int64), np.zeros((rows, tokens), np.int64))


if __name__ == "__main__":
    child.answer(measure)
