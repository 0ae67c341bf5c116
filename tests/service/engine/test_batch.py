"""Padding."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from service.engine.batch import Encoded, pad


def row(length: int, value: int = 5) -> Encoded:
    return Encoded(np.full(length, value), np.arange(length) % 2)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=12), st.integers(0, 9))
def test_pad_keeps_every_row_and_marks_the_rest(lengths: list[int], pad_id: int) -> None:
    rows = [row(length, value=100 + i) for i, length in enumerate(lengths)]
    batch = pad(rows, pad_id)
    assert batch.shape == (len(rows), max(lengths))
    for i, one in enumerate(rows):
        n = len(one)
        assert batch.input_ids[i, :n].tolist() == one.input_ids.tolist()
        assert batch.token_type_ids[i, :n].tolist() == one.token_type_ids.tolist()
        assert (batch.input_ids[i, n:] == pad_id).all()
        assert not batch.token_type_ids[i, n:].any()
        assert batch.attention_mask[i].tolist() == [1] * n + [0] * (max(lengths) - n)
    for array in (batch.input_ids, batch.attention_mask, batch.token_type_ids):
        assert array.dtype == np.int64
        assert array.shape == batch.shape


def test_padding_ratio() -> None:
    assert pad([row(4), row(4)], 0).padding_ratio == 0.0
    assert pad([row(4), row(1)], 0).padding_ratio == 3 / 8
