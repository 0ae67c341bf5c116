"""Batch invariance: a graph without it is found out."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from bench.graphs import invariance
from bench.graphs.inprocess import Opened
from service.engine.batch import Encoded


def variant(rows: Sequence[Encoded]) -> tuple[np.ndarray, ...]:
    """A graph whose logits depend on the batch: by the longest row of it."""
    return (np.full((len(rows), 2), max(map(len, rows)) / 1000, dtype=np.float32),)


def test_a_graph_whose_rows_depend_on_their_batch_is_found_out(
    models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Opened, "engine", lambda opened: (variant, "model.int8.onnx"))
    found = invariance.measure(models_dir / "sentiment")
    assert found["difference"] == pytest.approx((found["longest"] - found["shortest"]) / 1000, abs=0.02)


def test_every_row_is_in_one_batch_a_time() -> None:
    batches = list(invariance._split(range(50), invariance.random.Random(1)))
    assert [i for batch in batches for i in batch] == list(range(50))
    assert all(2 <= len(batch) <= invariance.MOST_ROWS for batch in batches[:-1])
    assert len({len(batch) for batch in batches}) > 1
