"""LitServe over either model: `python -m bench.peers.litserve_graph` and `litserve_torch` say which."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import litserve

from bench.peers import order
from bench.peers.order import Order

Model = Callable[[Sequence[str]], list[dict[str, Any]]]


class Classifier(litserve.LitAPI):
    """Batches of texts in, their labels out."""

    def __init__(self, make: Callable[[Order], Model], **batching: Any) -> None:
        super().__init__(**batching)
        self._make = make
        self._model: Model | None = None

    def setup(self, device: str) -> None:
        """In each worker's process."""
        self._model = self._make(order.read())

    def decode_request(self, request: dict[str, str], **_: Any) -> str:
        """The text."""
        return request["text"]

    def predict(self, x: Any, **_: Any) -> Any:
        """A list of texts where batches are on, else one text."""
        assert self._model is not None
        return self._model(x) if isinstance(x, list) else self._model([x])[0]

    def encode_response(self, output: dict[str, Any], **_: Any) -> dict[str, Any]:
        """As it is."""
        return output


def make_graph(ordered: Order) -> Model:
    """The bundle's graph."""
    from bench.peers.graph_model import GraphModel

    return GraphModel(Path(ordered.bundle), ordered.configuration.threads)


def make_torch(ordered: Order) -> Model:
    """The checkpoint in eager torch."""
    from bench.peers.torch_model import TorchModel

    return TorchModel(Path(ordered.checkpoint), ordered.configuration.threads)


def serve(make: Callable[[Order], Model]) -> None:
    """Serves until it is stopped."""
    ordered = order.read()
    how = ordered.configuration
    api = Classifier(make, max_batch_size=how.batch, batch_timeout=how.wait_ms / 1000)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=how.workers, timeout=120)
    server.run(host="127.0.0.1", port=ordered.port, log_level="warning", generate_client_file=False)
