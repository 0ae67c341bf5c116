"""A graph served, measured: `python -m bench.compare.serving REQUEST`, see `bench.child`.

Its process holds what the service needs for one model, the engine, and nothing else: no torch, no second model.
"""

from __future__ import annotations

import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from bench import child
from service.engine import allocator
from service.engine.batch import Batch
from service.engine.session import OrtEngine

LEAST_CALLS = 3
"""Calls that a latency is the median of, where a call takes less than the time given."""


def measure(request: dict[str, Any]) -> dict[str, Any]:
    """Open the graph as the service does, a worker a core with one thread each, and measure.

    Args:
        request: `graph` (path), `precision`, `workers`, `vocabulary`, `longest` (tokens to warm up with), `tokens` (the
            lengths to time, may be empty), `seconds` for each, `batch_tokens`; `threads` of a worker if not one.

    Returns:
        `memory` and `peak` in bytes, `growth` of the memory by the graph, and `cells` by length: `latency` of a row
        alone in seconds, on one worker while the others are idle, and `throughput` in rows a second with all of them
        busy with batches of `batch_tokens`.
    """
    before = child.resident()
    engine = OrtEngine(
        Path(request["graph"]), provider="cpu", precision=request["precision"], workers=request["workers"],
        intra_op_threads=request.get("threads", 1),
    )  # fmt: skip
    engine.warm_up(request["longest"])
    allocator.return_freed()  # as the service does
    allocator.keep_blocks()
    memory = child.resident()
    cells = {}
    for tokens in request["tokens"]:
        rows = max(1, request["batch_tokens"] // tokens)
        cells[tokens] = {
            "latency": latency(engine, _batch(1, tokens, request["vocabulary"]), request["seconds"]),
            "throughput": throughput(engine, _batch(rows, tokens, request["vocabulary"]), request["seconds"]),
        }
    return {"memory": memory, "growth": memory - before, "peak": child.resident("VmHWM"), "cells": cells}


def latency(engine: OrtEngine, batch: Batch, seconds: float) -> float:
    """Measure the median seconds of a call, after one that does not count."""
    engine.run(batch)
    times: list[float] = []
    while sum(times) < seconds or (len(times) < LEAST_CALLS and times[0] < seconds):
        start = time.perf_counter()
        engine.run(batch)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def throughput(engine: OrtEngine, batch: Batch, seconds: float) -> float:
    """Measure rows a second over all workers, each running `batch` again and again until the time is over."""

    def work(_: int) -> float:
        start = time.perf_counter()
        calls = 0
        while (spent := time.perf_counter() - start) < seconds or not calls:
            engine.run(batch)
            calls += 1
        return calls * batch.shape[0] / spent

    with ThreadPoolExecutor(engine.workers) as pool:
        return sum(pool.map(work, range(engine.workers)))


def _batch(rows: int, tokens: int, vocabulary: int) -> Batch:
    shape = (rows, tokens)
    ids = np.random.default_rng(0).integers(0, vocabulary, shape, dtype=np.int64)
    return Batch(ids, np.ones(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64))


if __name__ == "__main__":
    child.answer(measure)
