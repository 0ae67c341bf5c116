"""The share of the peak: operations as torch counts them, over a peak that was measured."""

import time

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.training.pretrain.materials import FAMILIES, PAD, corpus, recipe, vocabulary
from training.pretrain import models, throughput
from training.pretrain.batches import collate
from training.pretrain.rows import Rows


@pytest.mark.parametrize("family", FAMILIES)
def test_operations_are_those_that_torch_counts(family: str) -> None:
    """Forward and backward, within the few that we leave out (poolers, pair heads)."""
    ids = vocabulary(200)
    asked = recipe(**FAMILIES[family], dropout=0.0, short_rows=0.0, attention="eager")
    objective = models.make(asked, ids)
    source = corpus(20_000, 200)
    rows = Rows(asked, source, range(len(source)), ids)
    full = [number for number in range(len(rows)) if rows.length(torch.tensor([number]).numpy())[0] == 48]
    batch = collate([rows.make(number, 0) for number in full[:60]], PAD, 48)
    counter = FlopCounterMode(display=False)
    with counter:
        sum(found[0] for found in objective(batch).values()).backward()
    generator = getattr(objective, "generator", None)
    counted = counter.get_total_flops() / batch["input_ids"].numel()
    ours = throughput.flops_per_token(asked, objective.model.config, generator.config if generator else None)
    # SpanBERT's second head is its own, and as large as the first on so small a vocabulary.
    assert ours == pytest.approx(counted, rel=0.35 if family == "spanbert" else 0.08)


def test_the_peak_is_a_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throughput, "MEASURE_SECONDS", 0.05)
    peak = throughput.matrix_peak(torch.device("cpu"), "fp32")
    assert 1e8 < peak < 1e13


def test_a_meter_reads_its_window() -> None:
    meter = throughput.Meter(flops=2e6, peak=1e9)
    time.sleep(0.05)
    rate, share = meter.read(100)
    assert 0 < rate <= 100 / 0.05
    assert share == pytest.approx(rate * 2e6 / 1e9)
    meter.restart()
    assert meter.read(1e9)[0] > rate
