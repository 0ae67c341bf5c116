"""How fast a run is, and how fast it could be: tokens a second, and the share of the machine's matrix peak.

The peak is measured, not read from a data sheet: the best of a few large square products in the run's precision. On a
machine that is busy with other work it comes out low, and the share high.
"""

from __future__ import annotations

import time
from typing import Any

import torch

from training.pretrain.recipe import PretrainRecipe

MEASURE_SECONDS = 0.5


def flops_per_token(recipe: PretrainRecipe, config: Any, generator: Any = None, teacher: Any = None) -> float:
    """Floating-point operations of training a token: forward, and twice that backward. Matrix products alone count.

    Args:
        recipe: says the row's length and how many tokens go through the head.
        config: of the model, as transformers has it; a shared layer counts as often as it runs.
        generator: ELECTRA's, which reads every token too.
        teacher: of the encoder that is learned from, which goes forward alone.
    """
    head = generator or config  # ELECTRA's discriminator decides on every token, by one row of weights
    projection = 2.0 * head.hidden_size * _embedding(head) + 2.0 * _embedding(head) * head.vocab_size
    forward: float = _encoder(config, recipe.max_length) + recipe.mask_ratio * projection
    if generator:
        forward += _encoder(generator, recipe.max_length) + 2.0 * config.hidden_size**2
    return 3.0 * forward + (_encoder(teacher, recipe.max_length) if teacher else 0.0)


def _embedding(config: Any) -> int:
    return int(getattr(config, "embedding_size", config.hidden_size))


def _encoder(config: Any, tokens: int) -> float:
    hidden, wide = config.hidden_size, config.intermediate_size
    layer = 8.0 * hidden**2 + 4.0 * hidden * wide + 4.0 * tokens * hidden
    lift = 2.0 * _embedding(config) * hidden if _embedding(config) != hidden else 0.0
    return float(config.num_hidden_layers * layer + lift)


def matrix_peak(device: torch.device, precision: str) -> float:
    """Floating-point operations a second of the fastest of some large square products."""
    number = torch.bfloat16 if precision == "bf16" else torch.float32
    size = 8192 if device.type == "cuda" else 1024
    left, right = (torch.randn(size, size, device=device).to(number) for _ in range(2))
    best = 0.0
    end = time.perf_counter() + MEASURE_SECONDS
    runs = 10 if device.type == "cuda" else 1  # launches overlap, so that their cost does not count
    (left @ right).sum().item()
    while best == 0.0 or time.perf_counter() < end:
        begin = time.perf_counter()
        for _ in range(runs):
            product = left @ right
        product[0, 0].item()  # waits for it
        best = max(best, runs * 2.0 * size**3 / (time.perf_counter() - begin))
    return best


class Meter:
    """Counts the tokens of a window of steps, without what is done between windows (scores, checkpoints)."""

    def __init__(self, flops: float, peak: float) -> None:
        self._flops = flops
        self._peak = peak
        self.restart()

    def restart(self) -> None:
        """Begin a new window."""
        self._began = time.perf_counter()

    def read(self, tokens: float) -> tuple[float, float]:
        """Tokens a second of this window, and the share of the peak (0 to 1)."""
        rate = tokens / max(time.perf_counter() - self._began, 1e-9)
        return rate, rate * self._flops / self._peak
