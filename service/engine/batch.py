"""A model row, rows padded into the arrays that a graph takes, and what a graph gives for a row.

Owns `Encoded`, `Batch` and `RowLogits`. Knows nothing of text, tasks or queues.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.errors import InferenceError

PADDING = 0.08
"""A row joins a batch only while at most this share of the batch's tokens is padding."""

Ids = NDArray[np.int64]
RowLogits = tuple[NDArray[np.float32], ...]
"""One row's part of each of the graph's outputs, in the graph's order. A class graph has one output, shape [labels]; a
span graph has two, start and end, each of shape [tokens], where the padding's logits may follow the row's own."""


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """One model row, without padding.

    Attributes:
        input_ids: vocabulary ids with the special tokens, shape [tokens].
        token_type_ids: segment of each token, shape [tokens].
    """

    input_ids: Ids
    token_type_ids: Ids

    def __len__(self) -> int:
        return len(self.input_ids)


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Rows padded on the right to the longest of them; every array has the shape [rows, tokens].

    Attributes:
        input_ids: vocabulary ids.
        attention_mask: 1 on real tokens, 0 on padding.
        token_type_ids: segments.
    """

    input_ids: Ids
    attention_mask: Ids
    token_type_ids: Ids

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, tokens)."""
        rows, tokens = self.input_ids.shape
        return rows, tokens

    @property
    def padding_ratio(self) -> float:
        """Share of the computed tokens that is padding, 0 to 1."""
        return 1.0 - float(self.attention_mask.sum()) / self.attention_mask.size


def pad(rows: Sequence[Encoded], pad_id: int) -> Batch:
    """Pad `rows` (at least one) on the right to the longest of them."""
    shape = (len(rows), max(map(len, rows)))
    input_ids = np.full(shape, pad_id, dtype=np.int64)
    attention_mask = np.zeros(shape, dtype=np.int64)
    token_type_ids = np.zeros(shape, dtype=np.int64)
    for i, row in enumerate(rows):
        tokens = len(row)
        input_ids[i, :tokens] = row.input_ids
        attention_mask[i, :tokens] = 1
        token_type_ids[i, :tokens] = row.token_type_ids
    return Batch(input_ids, attention_mask, token_type_ids)


def row_logits(outputs: Sequence[NDArray[np.float32]], batch: Batch, row: int) -> RowLogits:
    """Get a row's part of a batch's outputs.

    Raises:
        InferenceError: it is not finite: no answer can be made of it, and JSON has no NaN.
    """
    logits = tuple(output[row] for output in outputs)
    tokens = int(batch.attention_mask[row].sum())
    own = (each[:tokens] if len(each) == batch.shape[1] else each for each in logits)  # padding's may be anything
    if all(np.isfinite(each).all() for each in own):
        return logits
    raise InferenceError("the model's output for this input is not a finite number")
