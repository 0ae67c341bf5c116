"""What fits the machine's memory and the time given, worked out before anything is run.

Owns the estimates. They are upper ends from what was seen here (see docs/albert-vs-bert.md), not promises.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import psutil
from transformers import PreTrainedConfig

from training.checkpoints import families

CGROUP_MAX = Path("/sys/fs/cgroup/memory.max")
CGROUP_NOW = Path("/sys/fs/cgroup/memory.current")
CGROUP_STAT = Path("/sys/fs/cgroup/memory.stat")

LIBRARIES = 600_000_000
"""Bytes of a process that has torch, transformers and onnx."""
ENGINE = 60_000_000
"""Bytes of a process that has numpy and ONNX Runtime."""
BYTES = {"fp32": 4, "fp16": 2, "int8": 1}
"""Bytes of a weight in a graph."""

Key = TypeVar("Key", bound=Hashable)


def available_memory() -> int:
    """Get the bytes that a new process may take: what the machine has left, bounded by the container's limit."""
    free = int(psutil.virtual_memory().available)
    try:
        limit = int(CGROUP_MAX.read_text(encoding="ascii"))  # "max": no limit
        used = int(CGROUP_NOW.read_text(encoding="ascii"))
        # What is used holds the files read and written lately, which the kernel drops when memory is wanted.
        stat = dict(line.split() for line in CGROUP_STAT.read_text(encoding="ascii").splitlines())
        return min(free, limit - used + int(stat.get("inactive_file", 0)))
    except (OSError, ValueError):
        return free


def build_bytes(parameters: int) -> int:
    """Estimate the memory to write a graph: the model, its weights in the graph, and the graph copied and written."""
    return LIBRARIES + 5 * 4 * parameters


def file_bytes(parameters: int, precision: str) -> int:
    """Estimate the size of a graph; 2 % over the weights for scales and nodes."""
    return round(1.02 * BYTES[precision] * parameters)


def serve_bytes(file: int) -> int:
    """Estimate the memory to serve a graph: the runtime reads the file, and keeps matrices packed for kernels too."""
    return ENGINE + round(3.5 * file)


def train_bytes(config: PreTrainedConfig, parameters: int, rows: int, tokens: int) -> int:
    """Estimate the memory of a training step: weight, gradient, AdamW's two moments, and what each layer keeps.

    A layer keeps, a token, about ten hidden states and three intermediate ones, and attention's scores three times
    (once with a kernel that does not write them out). Sharing weights does not make this part smaller.
    """
    shape: Any = config
    kept = 10 * shape.hidden_size + 3 * families.of(config).wide(config) + 3 * shape.num_attention_heads * tokens
    activations: int = 4 * rows * tokens * kept * len(families.layer_names(config))
    return LIBRARIES + 16 * parameters + activations


def affordable(costs: Mapping[Key, float], budget: float) -> set[Key]:
    """Choose what to run so that the sum of `costs` stays within `budget`: the most expensive are left out first."""
    kept = sorted(costs, key=lambda key: costs[key])
    while kept and sum(costs[key] for key in kept) > budget:
        kept.pop()
    return set(kept)
