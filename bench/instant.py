"""The service with an engine that takes no time, to measure what stands before it: `python -m bench.instant`, with
Bertie's settings."""

from __future__ import annotations

import sys

import numpy as np

from service import program
from service.engine.batch import Batch
from service.engine.processor import cpu_quota
from service.engine.session import Outputs
from service.engine.tokenizer import Tokenizer
from service.metrics import Metrics
from service.repository import loading
from service.repository.bundle import Bundle
from service.repository.loading import Opened, TokenizerKey
from service.settings import Settings


class Instant:
    """An engine whose outputs are zeros of these numbers a row."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        self._widths = widths

    def run(self, batch: Batch) -> Outputs:
        """Answer at once."""
        return tuple(np.zeros((batch.shape[0], width), dtype=np.float32) for width in self._widths)


def open_bundle(
    bundle: Bundle,
    settings: Settings,
    metrics: Metrics,
    tokenizers: dict[TokenizerKey, Tokenizer],
    *,
    try_golden: bool = False,
) -> Opened:
    """Open a bundle as the service does, all but its graph."""
    tokenizer, task = loading.open_task(bundle, tokenizers)
    engine = Instant(task.widths(bundle.manifest.max_length))
    runner = loading.runner(bundle, tokenizer, engine, loading.BATCH_TOKENS["cpu"])
    return Opened(bundle, bundle.graph_for("cpu"), "cpu", tokenizer, task, runner, settings.workers or cpu_quota())


if __name__ == "__main__":
    loading.open_bundle = open_bundle
    sys.exit(program.main([]))
