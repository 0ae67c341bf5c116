"""BentoML over the bundle's graph: its adaptive batching before as many workers as asked for."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import bentoml

from bench.peers import order
from bench.peers.graph_model import GraphModel

ORDERED = order.read()
HOW = ORDERED.configuration


@bentoml.service(workers=HOW.workers, traffic={"timeout": 120, "max_concurrency": 4096})
class Classifier:
    """Batches of texts in, their labels out."""

    def __init__(self) -> None:
        self._model = GraphModel(Path(ORDERED.bundle), HOW.threads)

    # The latency that it may batch for is a goal that it adapts to: far from any that is measured here.
    @bentoml.api(batchable=HOW.batch > 1, max_batch_size=HOW.batch, max_latency_ms=60_000)
    def classify(self, texts: list[str]) -> list[dict[str, Any]]:
        """The label of each text."""
        return self._model(texts)


def main() -> None:
    """Serves until it is stopped."""
    where = ["--host", "127.0.0.1", "--port", str(ORDERED.port)]
    program = [sys.executable, "-m", "bentoml", "serve", "bench.peers.bentoml_graph:Classifier", *where]
    os.execv(program[0], program)


if __name__ == "__main__":
    main()
