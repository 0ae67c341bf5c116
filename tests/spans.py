"""Span tasks, what they encode, and logits for it."""

import numpy as np
import pytest
from hypothesis import assume
from hypothesis import strategies as st

from service.engine.tokenizer import Tokenizer
from service.errors import InvalidInput
from service.tasks import RowLogits, SpanExample, SpanTask, Window
from tests.backends import FAMILIES, TEXT, backend

TOKENIZERS = {family: Tokenizer(backend(family)) for family in FAMILIES}
ALL_FAMILIES = pytest.mark.parametrize("family", FAMILIES)
DOCUMENT = st.one_of(TEXT, st.lists(TEXT, max_size=4).map(" ".join))
SHAPES = st.tuples(st.integers(16, 40), st.integers(0, 5))
"""(max_length, doc_stride)"""


def span_task(family: str = "bert", shape: tuple[int, int] = (32, 8), **changes: float) -> SpanTask:
    return SpanTask(TOKENIZERS[family], max_length=shape[0], doc_stride=shape[1], **changes)


def encode(task: SpanTask, example: SpanExample) -> list[Window]:
    """Its windows; a drawn example that the task rightly refuses is not what the test is about."""
    try:
        return task.encode([example])[0]
    except InvalidInput:
        assume(False)
        raise


def random_logits(windows: list[Window], seed: int, scale: float = 3.0, padding: int = 0) -> list[RowLogits]:
    random = np.random.default_rng(seed)
    return [
        tuple(random.normal(scale=scale, size=len(w) + padding).astype(np.float32) for _ in range(2)) for w in windows
    ]


def document_tokens(windows: list[Window], document: int = 0) -> list[tuple[Window, int]]:
    """(window, index in its stretch) of every token of the document, by its owner."""
    return [(w, i) for w in windows if w.document == document for i in range(*w.owned)]


def begin_of(offsets: np.ndarray, owners: list[tuple[Window, int]], window: Window) -> int:
    """Index in the document of the window's first token, counted from the owned ones."""
    return next(i for i, (w, _) in enumerate(owners) if w is window) - window.owned[0]
