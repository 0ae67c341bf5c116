"""Rows to the batches of a run: which rows a step is made of, and which process takes which.

Owns the order and the padding. A step's rows are those of its place in the stream, however many processes share them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from training.pretrain.rows import Row, Rows

Batch = dict[str, torch.Tensor]
"""Tensors of one micro-batch, R rows of T tokens with M predicted ones among them.

input_ids, token_type_ids: [R, T]; attention_mask [R, T], absent where nothing is padded.
positions: [M], in the flattened [R * T]; labels [M]; chances [M].
before, after: [M], in [R * T], the tokens beside the span; offsets [M], the token's place in the span.
pairs: [R].
"""

MULTIPLE = 64
"""Rows are padded to a multiple of so many tokens: few shapes, which a compiler wants, and little padding."""


@dataclass(frozen=True, eq=False)
class Batches(torch.utils.data.Dataset[Batch]):
    """The micro-batches of one process, in the order of the run.

    The rows of a step are sorted by length before they are dealt out, so that most micro-batches need no padding. That
    changes nothing but the order of a sum: losses are divided by the counts of the whole step.
    """

    rows: Rows
    pad_id: int
    first: int  # rows that the run has seen before
    batch_size: int
    micro_batch_size: int
    rank: int
    processes: int

    @property
    def per_step(self) -> int:
        """Micro-batches of a step."""
        return self.batch_size // (self.micro_batch_size * self.processes)

    def __len__(self) -> int:
        return 2**62  # the stream has no end; a run has

    def __getitem__(self, index: int) -> Batch:
        step, turn = divmod(index, self.per_step)
        numbers, epochs = self.rows.at(self.first + step * self.batch_size + np.arange(self.batch_size))
        order = np.argsort(-self.rows.length(numbers), kind="stable")
        begin = (turn * self.processes + self.rank) * self.micro_batch_size
        mine = order[begin : begin + self.micro_batch_size]
        pairs = zip(numbers[mine].tolist(), epochs[mine].tolist(), strict=True)
        return collate([self.rows.make(number, epoch) for number, epoch in pairs], self.pad_id, self.rows.max_length)


def dev_batches(rows: Rows, pad_id: int, count: int, micro_batch_size: int, rank: int, processes: int) -> list[Batch]:
    """This process's share of `count` rows spread over the held-out documents: the same rows and masks always."""
    numbers = np.unique(np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(np.int64))
    numbers = numbers[np.argsort(-rows.length(numbers), kind="stable")]
    micros = [numbers[i : i + micro_batch_size] for i in range(0, len(numbers), micro_batch_size)]
    return [
        collate([rows.make(int(n), 0) for n in micro], pad_id, rows.max_length) for micro in micros[rank::processes]
    ]


def collate(rows: Sequence[Row], pad_id: int, max_length: int) -> Batch:
    """Rows, padded on the right, as tensors; `max_length` is the most tokens that the model takes."""
    lengths = np.array([len(row.input_ids) for row in rows])
    tokens = min(-(-int(lengths.max()) // MULTIPLE) * MULTIPLE, max_length)
    base = np.repeat(np.arange(len(rows)) * tokens, [len(row.positions) for row in rows])
    positions = np.concatenate([row.positions for row in rows])
    begins = np.concatenate([row.begins for row in rows])
    ends = np.concatenate([row.ends for row in rows])
    batch = {
        "input_ids": _padded([row.input_ids for row in rows], tokens, pad_id),
        "token_type_ids": _padded([row.token_type_ids for row in rows], tokens, 0),
        "positions": base + positions,
        "labels": np.concatenate([row.labels for row in rows]),
        "chances": np.concatenate([row.chances for row in rows]).astype(np.float32),
        "before": base + begins - 1,
        "after": base + ends,
        "offsets": positions - begins,
        "pairs": np.array([row.pair for row in rows], dtype=np.int64),
    }
    if (lengths < tokens).any():
        batch["attention_mask"] = (np.arange(tokens) < lengths[:, None]).astype(np.int64)
    return {name: torch.from_numpy(array) for name, array in batch.items()}


def real_tokens(batch: Batch) -> int:
    """How many of a batch's tokens are no padding."""
    return int(batch["attention_mask"].sum()) if "attention_mask" in batch else batch["input_ids"].numel()


def _padded(rows: Sequence[npt.NDArray[np.int64]], tokens: int, fill: int) -> npt.NDArray[np.int64]:
    padded = np.full((len(rows), tokens), fill, dtype=np.int64)
    for place, row in zip(padded, rows, strict=True):
        place[: len(row)] = row
    return padded
