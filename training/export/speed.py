"""How many rows a second a checkpoint's graphs will run on this machine: estimated, without its weights.

Owns the estimate. A few feed-forwards of the model's own shape, in the very operators that its graphs have, are timed
as the service runs them on a CPU: a batch a core. A row then takes as long as its operations do there.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from transformers import PreTrainedConfig

from service.engine.batch import Batch
from service.engine.processor import cpu_quota
from service.engine.session import OrtEngine
from training.checkpoints import families, flops
from training.export import quantize
from training.export.builder import GraphBuilder

PRECISIONS: Mapping[str, quantize.Encoding] = {"int8": quantize.INT8, "fp32": quantize.FLOAT32}
BLOCKS = 3
"""Different ones, so that weights come from memory as those of layers do."""
SECONDS = 0.3
"""How long each precision is timed."""
ROWS, TOKENS = 2, 128
"""Of a batch: 256 tokens, as many as the service takes on a CPU."""


def rows_per_second(config: PreTrainedConfig, tokens: int = TOKENS) -> dict[str, float]:
    """Estimate how many rows of so many tokens all cores run a second, by precision. Takes a second or two."""
    speed = {precision: _operations_per_second(config, precision) for precision in PRECISIONS}
    attention, others = flops.attention(config, tokens), flops.weighted(config, tokens)  # the first in fp32 in both
    return {precision: 1.0 / (others / each + attention / speed["fp32"]) for precision, each in speed.items()}


def _operations_per_second(config: Any, precision: str) -> float:
    """Those of matrix products, with what the graphs compute between them, on all cores."""
    hidden, wide = int(config.hidden_size), families.of(config).wide(config)
    with tempfile.TemporaryDirectory(prefix="bertie-") as folder:
        path = Path(folder) / "blocks.onnx"
        onnx.save(_blocks(hidden, wide, precision), path)
        engine = OrtEngine(path, provider="cpu", precision=precision, workers=cpu_quota(), intra_op_threads=1)
    ids = np.zeros((ROWS, TOKENS), dtype=np.int64)
    batch = Batch(ids, np.ones_like(ids), ids)

    def run(until: float) -> int:
        done = 0
        while time.perf_counter() < until:
            engine.run(batch)
            done += 1
        return done

    with ThreadPoolExecutor(engine.workers) as pool:
        list(pool.map(engine.run, [batch] * engine.workers))
        began = time.perf_counter()
        runs: int = sum(pool.map(run, [began + SECONDS] * engine.workers))
        taken = time.perf_counter() - began
    return runs * BLOCKS * ROWS * TOKENS * 4 * hidden * wide / taken


def _blocks(hidden: int, wide: int, precision: str) -> onnx.ModelProto:
    """A graph of feed-forwards alone: ids [rows, tokens] -> [rows, tokens, hidden]."""
    builder, encoding = GraphBuilder(), PRECISIONS[precision]
    generator = np.random.default_rng(0)

    def matrix(*shape: int) -> Any:
        return generator.standard_normal(shape, dtype=np.float32) * np.float32(hidden**-0.5)

    for name in ("input_ids", "attention_mask", "token_type_ids"):
        builder.input(name, ["rows", "tokens"])
    x = encoding.embedding(builder, "table", matrix(8, hidden))("input_ids", "x")
    for i in range(BLOCKS):
        widen, narrow = matrix(hidden, wide), matrix(wide, hidden)
        bias = builder.weight(f"{i}.widen.bias", matrix(wide))
        inner = encoding.matmul(builder, f"{i}.widen", widen)(x, f"{i}.wide")
        inner = builder.node("com.microsoft.BiasGelu", [inner, bias], f"{i}.gelu")
        outer = encoding.matmul(builder, f"{i}.narrow", narrow)(inner, f"{i}.narrow.out")
        norm = encoding.norm(builder, f"{i}.norm", np.ones(hidden, np.float32), matrix(hidden), 1e-12)
        x = norm(outer, x, builder.weight(f"{i}.narrow.bias", matrix(hidden)), f"{i}.out")
    builder.node("Identity", [x], "states")
    builder.output("states", ["rows", "tokens", hidden])
    return builder.finish()
