"""The shape of a task, and the arithmetic that tasks share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from service.engine.batch import Encoded

Floats = NDArray[np.float32]
RowLogits = tuple[Floats, ...]
"""One row's part of each of the graph's outputs, in the graph's order. A class graph has one output, shape [labels]; a
span graph has two, start and end, each of shape [tokens], where the padding's logits may follow the row's own."""

E = TypeVar("E", contravariant=True)
R = TypeVar("R", bound=Encoded)
P = TypeVar("P", covariant=True)


class Task(Protocol[E, R, P]):
    """Text to rows, and rows' logits to an answer. A request is one or more rows, decoded together."""

    def encode(self, examples: Sequence[E]) -> list[list[R]]:
        """The rows of each example, in order. Raises `InvalidInput` for text that no row can hold."""
        ...

    def decode(self, example: E, rows: Sequence[R], logits: Sequence[RowLogits]) -> P:
        """The answer to `example` from the logits of its rows."""
        ...


def softmax(logits: Sequence[float], temperature: float = 1.0) -> list[float]:
    """Softmax of logits / temperature in float64, shifted by the maximum, so that [-100, 1] is finite.

    In plain numbers, for an answer has a handful of them: one of numpy's seven calls costs as much as all of this.
    """
    most = max(logits)
    exponents = [math.exp((logit - most) / temperature) for logit in logits]
    total = sum(exponents)
    return [exponent / total for exponent in exponents]
