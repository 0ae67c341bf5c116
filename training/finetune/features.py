"""Training rows as torch takes them: the data set, the collator, the order.

Knows nothing of models or of the Trainer. What the rows are, their task says (`training.tasks`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from service.engine.batch import Encoded, Ids, pad
from training.tasks import Row


class Rows(torch.utils.data.Dataset[dict[str, Any]]):
    """Encoded rows with their targets, as the Trainer takes them.

    Attributes:
        cut: how many texts, or questions and passages, were cut to fit, by noun.
    """

    def __init__(self, rows: Sequence[Row], cut: Mapping[str, int] | None = None) -> None:
        self._rows = rows
        self.cut = dict(cut or {})

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        encoded, targets = self._rows[index]
        return {"encoded": encoded, "input_ids": encoded[0].input_ids, **targets}

    @property
    def count(self) -> int:
        """Model rows of all items."""
        return sum(len(encoded) for encoded, _ in self._rows)

    def encoded(self, begin: int, end: int) -> list[tuple[Encoded, ...]]:
        """The rows of the items from `begin` to before `end`, without their targets."""
        return [encoded for encoded, _ in self._rows[begin:end]]

    def with_targets(self, targets: Sequence[dict[str, Any]]) -> Rows:
        """The same rows with more targets, in their order."""
        rows = [(encoded, given | more) for (encoded, given), more in zip(self._rows, targets, strict=True)]
        return Rows(rows, self.cut)

    def count_of(self, token: int) -> int:
        """Return how often a token stands in the rows of all items."""
        return sum(int((row.input_ids == token).sum()) for encoded, _ in self._rows for row in encoded)

    @property
    def lengths(self) -> Ids:
        """Tokens of each item, all of its rows together, shape [items]."""
        return np.array([sum(map(len, encoded)) for encoded, _ in self._rows], dtype=np.int64)


@dataclass(frozen=True, slots=True)
class Collator:
    """Rows to one padded batch of tensors, through the padding that serves."""

    pad_id: int
    # whether an item's rows are options of a question: tensors are [questions, options, tokens], not [rows, tokens]
    options: bool = False

    def __call__(self, features: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        batch = pad([row for feature in features for row in feature["encoded"]], self.pad_id)
        arrays = {"input_ids": batch.input_ids, "token_type_ids": batch.token_type_ids}
        if not batch.attention_mask.all():  # attention without a mask is a third cheaper, and grouped rows need none
            arrays["attention_mask"] = batch.attention_mask
        shape = (len(features), -1, batch.shape[1]) if self.options else batch.shape
        tensors = {name: torch.from_numpy(array).view(shape) for name, array in arrays.items()}
        for name in features[0].keys() - {"encoded", "input_ids"}:
            values = [feature[name] for feature in features]
            tensors[name] = _stacked(values) if isinstance(values[0], np.ndarray) else torch.tensor(values)
        return tensors


class LengthGroupedSampler(torch.utils.data.Sampler[int]):
    """A new order each epoch in which the rows of a batch are of about the same length.

    Shuffles, cuts the order into pools of 1,000 batches, sorts each pool by length and shuffles the batches: pools so
    large that most batches need no padding, and so no attention mask. The order hangs on the seed and the epoch alone,
    not on torch's random state, so a resumed run sees the very same batches.
    """

    POOL = 1000

    def __init__(self, rows: Rows, batch_size: int, seed: int) -> None:
        self._lengths = rows.lengths
        self._batch_size = batch_size
        self._seed = seed
        self._epoch = 0

    def __len__(self) -> int:
        return len(self._lengths)

    def set_epoch(self, epoch: int) -> None:
        """Called by the data loader at the start of each epoch."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = np.random.default_rng((self._seed, self._epoch))
        order = generator.permutation(len(self._lengths))
        size, pool = self._batch_size, self._batch_size * self.POOL
        batches = []
        for begin in range(0, len(order), pool):
            part = order[begin : begin + pool]
            part = part[np.argsort(-self._lengths[part], kind="stable")]
            batches += [part[i : i + size] for i in range(0, len(part), size)]
        # A short batch stays last, where the data loader's own cutting leaves it whole.
        full, short = [b for b in batches if len(b) == size], [b for b in batches if len(b) < size]
        for i in generator.permutation(len(full)).tolist():
            yield from full[i].tolist()
        for batch in short:
            yield from batch.tolist()


def _stacked(arrays: Sequence[NDArray[np.float32]]) -> torch.Tensor:
    """[rows, longest], zeros after the end of a shorter one."""
    stacked = np.zeros((len(arrays), max(map(len, arrays))), np.float32)
    for row, array in zip(stacked, arrays, strict=True):
        row[: len(array)] = array
    return torch.from_numpy(stacked)
