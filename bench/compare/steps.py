"""A training step, measured: `python -m bench.compare.steps REQUEST`, see `bench.child`."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

import torch

from bench import child
from bench.compare import weights


def measure(request: dict[str, Any]) -> dict[str, float]:
    """Time steps of forward, backward and AdamW in fp32 on random rows without padding, after one that is not counted.

    Args:
        request: `folder` (with config.json), `checkpoint` (path or None), `rows`, `tokens`, `seconds`, `threads`.

    Returns:
        `tokens_per_second`, of the median step, and `peak`, the most bytes in memory.
    """
    torch.set_num_threads(request["threads"])
    model = weights.load(Path(request["folder"]), Path(request["checkpoint"]) if request["checkpoint"] else None)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    shape = (request["rows"], request["tokens"])
    config: Any = model.config
    ids = torch.randint(5, config.vocab_size, shape)
    labels = torch.randint(0, config.num_labels, shape[:1])

    def step() -> float:
        start = time.perf_counter()
        model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return time.perf_counter() - start

    step()
    times = [step()]
    while sum(times) < request["seconds"]:
        times.append(step())
    return {
        "tokens_per_second": shape[0] * shape[1] / statistics.median(times),
        "peak": child.resident("VmHWM"),
    }


if __name__ == "__main__":
    child.answer(measure)
