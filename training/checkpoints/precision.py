"""Whether a run's bf16 is worth having on this machine.

A recipe says bf16 where it was written on a processor that multiplies it. One without such instructions computes the
same 30 times as slowly as fp32 (docs/lab.md), and no error says so.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from typing import Any, TypeVar

import torch

logger = logging.getLogger(__name__)

R = TypeVar("R", bound=Any)

SIZE = 256
"""Of the square matrices whose product is timed: a fraction of a millisecond in fp32."""
CALLS = 5
WORTH = 0.5
"""bf16 must be at least so many times as fast as fp32: much less is a processor that cannot, not a noisy one."""


def possible(recipe: R) -> R:
    """The recipe; or the same in fp32, with torch's own attention, where it wants bf16 and the processor lacks it.

    Args:
        recipe: a dataclass with `precision` and `attention`.
    """
    if recipe.precision != "bf16" or torch.cuda.is_available():
        return recipe
    ratio = speed()
    if ratio >= WORTH:
        return recipe
    logger.warning("this processor multiplies bf16 at %.2g times the speed of fp32: the run is in fp32", ratio)
    changed: R = dataclasses.replace(recipe, precision="fp32", attention="sdpa")
    return changed


def speed() -> float:
    """Measure how many times as fast as fp32 this processor multiplies bf16."""
    return _seconds(torch.float32) / _seconds(torch.bfloat16)


def _seconds(number: torch.dtype) -> float:
    """The quickest of a few products."""
    left, right = (torch.randn(SIZE, SIZE).to(number) for _ in range(2))
    times = []
    for _ in range(CALLS):
        began = time.perf_counter()
        left @ right
        times.append(time.perf_counter() - began)
    return max(min(times), 1e-9)
