"""The one seam between rows and hardware: a batch in, the logits of its rows out."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from service.batch import Batch


class Engine(Protocol):
    """Runs batches. `run` is called from `workers` threads at once.

    Attributes:
        workers: how many calls of `run` go side by side.
    """

    workers: int

    def run(self, batch: Batch) -> tuple[NDArray[np.float32], ...]:
        """The graph's outputs, each of shape [rows, ...], in the graph's order."""
        ...
