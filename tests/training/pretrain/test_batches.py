"""Batches: padding, flat positions, and that processes share a step's rows without losing or doubling one."""

import itertools
from collections import Counter

import numpy as np
import pytest
import torch

from tests.training.pretrain.materials import FAMILIES, PAD, corpus, recipe, vocabulary
from training.pretrain.batches import Batches, collate, dev_batches, real_tokens
from training.pretrain.rows import Rows

CORPUS, VOCABULARY = corpus(20_000), vocabulary()


def rows_of(family: str = "albert", max_length: int = 100) -> Rows:
    made = recipe(**FAMILIES[family], max_length=max_length, max_positions=128)
    return Rows(made, CORPUS, range(len(CORPUS)), VOCABULARY)


def batches(rows: Rows, rank: int = 0, processes: int = 1, micro: int = 4, first: int = 0) -> Batches:
    return Batches(rows, PAD, first=first, batch_size=16, micro_batch_size=micro, rank=rank, processes=processes)


def texts(batch: dict[str, torch.Tensor]) -> list[tuple[int, ...]]:
    """The rows of a batch, without padding."""
    mask = batch.get("attention_mask", torch.ones_like(batch["input_ids"]))
    return [tuple(ids[real == 1].tolist()) for ids, real in zip(batch["input_ids"], mask, strict=True)]


@pytest.mark.parametrize("family", FAMILIES)
def test_positions_find_their_tokens(family: str) -> None:
    rows = rows_of(family)
    made = [rows.make(number, 0) for number in range(12)]
    batch = collate(made, PAD, 100)
    assert batch["input_ids"].shape == batch["token_type_ids"].shape == (12, 100)
    assert batch["labels"].tolist() == [label for row in made for label in row.labels]
    flat = batch["input_ids"].flatten()
    shown = [int(row.input_ids[p]) for row in made for p in row.positions]
    assert flat[batch["positions"]].tolist() == shown
    before = [int(row.input_ids[b - 1]) for row in made for b in row.begins]
    after = [int(row.input_ids[e]) for row in made for e in row.ends]
    assert flat[batch["before"]].tolist() == before
    assert flat[batch["after"]].tolist() == after
    assert batch["offsets"].tolist() == [
        int(p - b) for row in made for p, b in zip(row.positions, row.begins, strict=True)
    ]
    assert real_tokens(batch) == sum(len(row.input_ids) for row in made)
    assert batch["pairs"].tolist() == [row.pair for row in made]


def test_padding_is_to_few_lengths_and_never_beyond_the_model() -> None:
    rows = rows_of()
    made = [rows.make(number, 0) for number in range(40)]
    short = [row for row in made if len(row.input_ids) < 64][:2]
    assert collate(short, PAD, 100)["input_ids"].shape == (len(short), 64)
    batch = collate(made, PAD, 100)
    assert batch["input_ids"].shape[1] == 100
    padded = batch["attention_mask"] == 0
    assert (batch["input_ids"][padded] == PAD).all()
    full = [row for row in made if len(row.input_ids) == len(made[0].input_ids)]
    assert "attention_mask" not in collate(full, PAD, len(full[0].input_ids))


def test_processes_share_the_rows_of_a_step() -> None:
    rows = rows_of()
    alone = batches(rows)
    for step in range(3):
        whole = Counter(t for turn in range(alone.per_step) for t in texts(alone[step * alone.per_step + turn]))
        for processes, micro in ((2, 4), (4, 2), (1, 16)):
            shared: Counter[tuple[int, ...]] = Counter()
            for rank in range(processes):
                mine = batches(rows, rank, processes, micro)
                for turn in range(mine.per_step):
                    shared.update(texts(mine[step * mine.per_step + turn]))
            assert shared == whole
        assert whole.total() == 16


def test_a_stream_goes_on_where_it_was() -> None:
    rows = rows_of()
    whole, later = batches(rows), batches(rows, first=32)
    for index in range(6):
        for name, tensor in later[index].items():
            assert torch.equal(tensor, whole[2 * whole.per_step + index][name])


def test_rows_of_about_one_length_come_together() -> None:
    alone = batches(rows_of())
    lengths = [np.array([len(t) for t in texts(alone[turn])]) for turn in range(alone.per_step)]
    assert all(a.min() >= b.max() for a, b in itertools.pairwise(lengths))


def test_dev_rows_are_the_same_at_every_call_and_for_all_processes() -> None:
    rows = rows_of()
    alone = [t for batch in dev_batches(rows, PAD, 20, 4, 0, 1) for t in texts(batch)]
    shared = [t for rank in range(2) for batch in dev_batches(rows, PAD, 20, 4, rank, 2) for t in texts(batch)]
    assert sorted(alone) == sorted(shared)
    assert len(alone) == 20
    assert len(set(alone)) == 20
    assert sum(len(b["input_ids"]) for b in dev_batches(rows, PAD, 10**6, 4, 0, 1)) == len(rows)
