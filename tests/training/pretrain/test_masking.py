"""Masks are what the papers say, counted on 100,000 tokens."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.training.pretrain.materials import FAMILIES, MASK, recipe, vocabulary
from training.pretrain import masking
from training.pretrain.masking import Mask

TOKENS = 100_000
ROW = 500
VOCABULARY = vocabulary()


def masked_rows(family: str, seed: int = 0) -> list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """(ids, spans, positions, owner, shown) of rows of 500 tokens, 100,000 in all."""
    mask = Mask.of(recipe(**FAMILIES[family]))
    generator = np.random.default_rng(seed)
    rows = []
    for _ in range(TOKENS // ROW):
        ids = generator.choice(VOCABULARY.ordinary, ROW)
        spans = masking.spans(mask, ids, VOCABULARY.starts, generator)
        positions, owner = masking.positions(spans)
        rows.append((ids, spans, positions, owner, masking.replace(mask, ids[positions], owner, VOCABULARY, generator)))
    return rows


@pytest.mark.parametrize("family", FAMILIES)
def test_the_ratio(family: str) -> None:
    assert sum(len(row[2]) for row in masked_rows(family)) / TOKENS == pytest.approx(0.15, abs=0.004)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_stands_in_their_place(family: str) -> None:
    labels = np.concatenate([ids[positions] for ids, _, positions, _, _ in masked_rows(family)])
    shown = np.concatenate([row[4] for row in masked_rows(family)])
    masks, kept = (shown == MASK).mean(), (shown == labels).mean()
    wanted = (1.0, 0.0) if family == "electra" else (0.8, 0.1)
    # SpanBERT decides once a span, so its shares are of fewer draws.
    assert (masks, kept) == pytest.approx(wanted, abs=0.03 if family == "spanbert" else 0.01)
    other = shown[(shown != MASK) & (shown != labels)]
    if len(other):
        assert set(other) <= set(VOCABULARY.ordinary)
        assert len(set(other)) > 0.5 * len(VOCABULARY.ordinary) * (family != "spanbert")


def words_of(family: str) -> np.ndarray:
    """Words of each span."""
    return np.array(
        [
            1 + int(VOCABULARY.starts[ids[begin + 1 : end]].sum())
            for ids, spans, *_ in masked_rows(family)
            for begin, end in spans
        ]
    )


def test_ngram_lengths() -> None:
    """p(n) is in inverse proportion to n, up to 3: 6/11, 3/11, 2/11."""
    lengths = words_of("albert")
    assert len(lengths) > 5000
    shares = [(lengths == n).mean() for n in (1, 2, 3)]
    assert shares == pytest.approx([6 / 11, 3 / 11, 2 / 11], abs=0.015)
    assert set(lengths) == {1, 2, 3}


def test_span_lengths() -> None:
    """Geometric, p = 0.2, up to 10; the paper's mean is 3.8 words."""
    lengths = words_of("spanbert")
    assert lengths.mean() == pytest.approx(3.8, abs=0.12)
    assert lengths.max() == 10
    assert (lengths == 2).sum() / (lengths == 1).sum() == pytest.approx(0.8, abs=0.08)


@pytest.mark.parametrize("family", ["albert", "roberta", "spanbert"])
def test_spans_are_whole_words(family: str) -> None:
    for ids, spans, *_ in masked_rows(family):
        assert all(begin == 0 or VOCABULARY.starts[ids[begin]] for begin, _ in spans)
        assert all(end == ROW or VOCABULARY.starts[ids[end]] for _, end in spans)


@pytest.mark.parametrize("family", ["bert", "electra"])
def test_subwords_are_masked_alone(family: str) -> None:
    rows = masked_rows(family)
    assert all((spans[:, 1] - spans[:, 0] == 1).all() for _, spans, *_ in rows)
    assert any(not VOCABULARY.starts[ids[positions]].all() for ids, _, positions, _, _ in rows)


def test_every_place_is_as_likely() -> None:
    """Each tenth of the rows gets a tenth of the masks; long spans are few, so theirs is a rougher count."""
    for family, margin in (("albert", 0.01), ("spanbert", 0.02)):
        positions = np.concatenate([row[2] for row in masked_rows(family)])
        assert np.histogram(positions, 10, (0, ROW))[0] / len(positions) == pytest.approx([0.1] * 10, abs=margin)


def test_spanberts_spans_are_apart_and_share_their_fate() -> None:
    for ids, spans, positions, owner, shown in masked_rows("spanbert"):
        assert (spans[1:, 0] > spans[:-1, 1]).all()  # the tokens beside a span are seen
        for number in range(len(spans)):
            masked = shown[owner == number] == MASK
            assert masked.all() or not masked.any()
        assert (owner == np.searchsorted(spans[:, 0], positions, side="right") - 1).all()
        assert len(ids) == ROW


@given(
    count=st.integers(0, 40), seed=st.integers(0, 2**32), ratio=st.floats(0.01, 0.5), apart=st.booleans(),
    lengths=st.lists(st.floats(0.1, 1), min_size=1, max_size=12),
)  # fmt: skip
def test_spans_are_disjoint_and_inside(count: int, seed: int, ratio: float, apart: bool, lengths: list[float]) -> None:
    shares = np.array(lengths) / sum(lengths)
    spans = masking.draw(Mask(ratio, True, shares, apart=apart), count, np.random.default_rng(seed))
    assert ((spans >= 0) & (spans <= count)).all()
    assert (spans[:, 1] > spans[:, 0]).all()
    assert (spans[1:, 0] >= spans[:-1, 1] + apart).all()


def test_short_segments_have_their_share_too() -> None:
    """No floor of one mask a segment: titles would be masked whole."""
    mask = Mask.of(recipe(**FAMILIES["bert"]))
    generator = np.random.default_rng(0)
    masked = sum(len(masking.draw(mask, 3, generator)) for _ in range(4000))
    assert masked / 12_000 == pytest.approx(0.15, abs=0.01)
