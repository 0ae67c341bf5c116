"""Batch invariance: a bundle's logits of a row alone against those of the same row in random batches.

Where activations are quantised by one scale a batch, as dynamic quantisation does it, a sentence's answer changes with
the sentences beside it. Owns the batches, of real text and very mixed lengths, and the comparison.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench import rows
from bench.graphs.inprocess import Logits, Opened

BATCHES = 8
"""Random batches that each row is tried in."""
ROWS = 64
MOST_ROWS = 16
"""Of a batch."""


def measure(folder: Path) -> dict[str, Any]:
    """Find the largest difference of a logit of the graph that `folder` serves on a CPU, and describe the rows.

    Raises:
        BundleError: the folder holds no bundle that a CPU can serve.
    """
    opened = Opened(folder)
    chance = random.Random(0)
    encoded = opened.mixed_rows(rows.sentences(), ROWS, chance)
    lengths = [len(row) for row in encoded]
    run, file = opened.engine()
    alone = [_cut(run([row]), 0, len(row)) for row in encoded]
    worst = 0.0
    for _ in range(BATCHES):
        for places in _split(chance.sample(range(len(encoded)), len(encoded)), chance):
            outputs = run([encoded[i] for i in places])
            for at, i in enumerate(places):
                together = _cut(outputs, at, lengths[i])
                worst = max(worst, *(float(np.abs(a - b).max()) for a, b in zip(alone[i], together, strict=True)))
    return {
        "bundle": opened.name,
        "graph": file,
        "rows": len(encoded),
        "shortest": min(lengths),
        "longest": max(lengths),
        "difference": worst,
    }


def _cut(outputs: Logits, at: int, tokens: int) -> list[np.ndarray]:
    """Take a row's logits; of a span graph those of its tokens, since there are others at padding that mean nothing."""
    spans = len(outputs) == 2
    return [output[at, :tokens] if spans else output[at] for output in outputs]


def _split(places: Sequence[int], chance: random.Random) -> Iterator[Sequence[int]]:
    """Cut into batches of 2 to `MOST_ROWS`; the last one may have a row."""
    at = 0
    while at < len(places):
        size = chance.randint(2, MOST_ROWS)
        yield places[at : at + size]
        at += size
