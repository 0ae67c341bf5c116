"""A window over a document, and the spans in it with the highest logits.

Knows nothing of text: spans are of tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.engine.batch import Encoded, Ids


@dataclass(frozen=True, slots=True, eq=False)
class Window(Encoded):
    """A row that shows the model the question and one stretch of one document.

    Attributes:
        document: index of the document.
        first: index in `input_ids` of the stretch's first token.
        offsets: half-open code point ranges in the document of the stretch's tokens, shape [stretch tokens, 2].
        owned: half-open range of the stretch's tokens that may begin an answer here. Each token of a document is owned
            by the one window that shows most of what is around such an answer, so no two windows give the same one.
    """

    document: int
    first: int
    offsets: Ids
    owned: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A span of tokens in a window; `begin` and `last` index the window's stretch, both inclusive."""

    logit: float
    window: Window
    begin: int
    last: int


@dataclass(frozen=True, slots=True)
class Best:
    """The `count` best spans of a window; no other span of it has a logit above `bound`."""

    candidates: list[Candidate]
    count: int
    bound: float


def span_logits(
    window: Window, start: NDArray[np.float32], end: NDArray[np.float32], max_answer_tokens: int
) -> NDArray[np.float64]:
    """Get the logits of the spans that begin at each owned token and are 1, 2, ... tokens long, -inf where a span would
    leave the window. Shape [owned tokens, max_answer_tokens]."""
    tokens = len(window.offsets)
    own_start, own_end = window.owned
    longest = min(max_answer_tokens, tokens)
    ends = np.full(own_end - own_start + longest - 1, -np.inf)
    given = end[window.first + own_start : window.first + min(own_end + longest - 1, tokens)]
    ends[: len(given)] = given
    starts = start[window.first + own_start : window.first + own_end].astype(np.float64)
    spans: NDArray[np.float64] = np.lib.stride_tricks.sliding_window_view(ends, longest) + starts[:, None]
    return spans


def best_of(spans: NDArray[np.float64], window: Window, count: int) -> Best:
    """Find the `count` best of a window's spans (`span_logits`)."""
    flat = spans.ravel()
    if count < flat.size:
        chosen = np.argpartition(flat, -count)[-count:]
        bound = float(flat[chosen].min())
    else:
        chosen, bound = np.arange(flat.size), -np.inf
    own_start, longest = window.owned[0], spans.shape[1]
    candidates = [
        Candidate(float(flat[i]), window, own_start + i // longest, own_start + i // longest + i % longest)
        for i in chosen[np.isfinite(flat[chosen])].tolist()
    ]
    return Best(candidates, count, bound)


def log_sum_exp(logits: NDArray[np.float64]) -> float:
    """Get log(sum(exp(logits))), -inf for no logits at all."""
    if logits.size == 0:
        return -np.inf
    top = logits.max()
    return float(top + np.log(np.exp(logits - top).sum())) if np.isfinite(top) else -np.inf
