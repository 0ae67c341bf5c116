"""mosec over the bundle's graph: a server in Rust before worker processes that batch."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from mosec import Server, Worker

from bench.peers import order
from bench.peers.graph_model import GraphModel


class Classifier(Worker):
    """Batches of texts in, their labels out."""

    def __init__(self) -> None:
        super().__init__()
        ordered = order.read()
        self._model = GraphModel(Path(ordered.bundle), ordered.configuration.threads)

    def forward(self, data: Any) -> Any:
        """A list of bodies where batches are on, else one body."""
        if isinstance(data, list):
            return self._model([body["text"] for body in data])
        return self._model([data["text"]])[0]


def main() -> None:
    """Serves until it is stopped."""
    ordered = order.read()
    how = ordered.configuration
    sys.argv[1:] = [
        "--address", "127.0.0.1", "--port", str(ordered.port), "--timeout", "120000", "--log-level", "warning",
    ]  # fmt: skip
    server = Server()
    server.append_worker(Classifier, num=how.workers, max_batch_size=how.batch, max_wait_time=round(how.wait_ms))
    server.run()


if __name__ == "__main__":
    main()
