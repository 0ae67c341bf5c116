"""Rows: their segments, their balance, and that they hang on seed, number and epoch alone."""

import numpy as np
import pytest

from tests.training.pretrain.materials import CLS, FAMILIES, FIRST, MASK, SEP, corpus, recipe, shard, vocabulary
from training.errors import DataError
from training.pretrain.corpus import Corpus
from training.pretrain.rows import SHORTEST, Row, Rows, held_out

TOKENS = 100_000
COUNTING = corpus(TOKENS, counting=True)
LARGE = vocabulary(TOKENS + 5000)
LENGTHS = {"max_length": 128, "max_positions": 128}


def rows_of(family: str, **changes: object) -> Rows:
    made = recipe(**FAMILIES[family] | LENGTHS | changes)
    return Rows(made, COUNTING, range(len(COUNTING)), LARGE)


def segments(row: Row) -> list[np.ndarray]:
    """The text of a row as it was, by segment."""
    ids = row.input_ids.copy()
    ids[row.positions] = row.labels
    assert ids[0] == CLS
    assert ids[-1] == SEP
    ends = np.flatnonzero(ids == SEP)
    begins = np.concatenate([[1], ends[:-1] + 1])
    for kind, (begin, end) in enumerate(zip(begins, ends, strict=True)):
        assert (row.token_type_ids[begin : end + 1] == kind).all()
    return [ids[begin:end] for begin, end in zip(begins, ends, strict=True)]


def document_of(token: int) -> int:
    flat = token - FIRST
    sizes = [len(s.tokens) for s in COUNTING.shards]
    first = flat < sizes[0]
    within = COUNTING.shards[0 if first else 1].documents
    place = int(np.searchsorted(within, flat if first else flat - sizes[0], side="right"))
    return place if first else place + len(COUNTING.shards[0].documents)


def sentence_ends() -> set[int]:
    """The last id of each sentence."""
    ends: set[int] = set()
    base = FIRST
    for part in COUNTING.shards:
        ends |= {base + int(end) - 1 for end in part.sentences}
        base += len(part.tokens)
    return ends


@pytest.mark.parametrize(("family", "epochs"), [("albert", 2), ("bert", 2)])
def test_pairs_are_balanced(family: str, epochs: int) -> None:
    """On 100,000 tokens, twice over: half are 1, within three standard errors."""
    rows = rows_of(family)
    pairs = [rows.make(number, epoch).pair for epoch in range(epochs) for number in range(len(rows))]
    assert len(pairs) > 1500
    assert np.mean(pairs) == pytest.approx(0.5, abs=1.5 / len(pairs) ** 0.5)


def test_order_is_what_the_label_says() -> None:
    rows = rows_of("albert", short_rows=0.0)
    ends = sentence_ends()
    split_at_sentences = 0
    for number in range(len(rows)):
        row = rows.make(number, 0)
        first, second = segments(row)
        begin, end = (second, first) if row.pair else (first, second)
        together = np.concatenate([begin, end])
        assert (np.diff(together) == 1).all()  # one stretch of text, in order or swapped
        # Whole sentences on both sides, where there are two: nothing but the text tells the order.
        assert int(end[-1]) in ends
        if ends & set(together[:-1].tolist()):
            assert int(begin[-1]) in ends
            split_at_sentences += 1
    assert split_at_sentences > 0.95 * len(rows)


def test_next_is_what_the_label_says() -> None:
    rows = rows_of("bert")
    lengths: dict[int, list[int]] = {0: [], 1: []}
    for number in range(len(rows)):
        row = rows.make(number, 0)
        first, second = segments(row)
        lengths[row.pair].append(len(second))
        if row.pair:
            assert document_of(first[0]) != document_of(second[0])
            assert second[0] - 1 in sentence_ends() or second[0] == FIRST
        else:
            assert second[0] == first[-1] + 1
        assert document_of(second[0]) == document_of(second[-1])
    assert np.mean(lengths[1]) == pytest.approx(np.mean(lengths[0]), rel=0.15)  # the length does not give it away


@pytest.mark.parametrize("family", FAMILIES)
def test_no_text_is_lost_and_rows_are_full(family: str) -> None:
    rows = rows_of(family, short_rows=0.0)
    made = [rows.make(number, 0) for number in range(len(rows))]
    assert max(len(row.input_ids) for row in made) <= 128
    first_texts = np.concatenate([segments(row)[0] for row in made])
    if family != "bert":  # half of its second segments are of elsewhere
        seen = np.unique(np.concatenate([first_texts, *(s for row in made for s in segments(row)[1:])]))
        assert TOKENS - len(seen) < SHORTEST * len(COUNTING)  # the ends of documents alone
    filled = np.mean([len(row.input_ids) for row in made])
    assert filled > (105 if family == "albert" else 115)


@pytest.mark.parametrize("pairs", ["order", "none"])
@pytest.mark.parametrize("short_rows", [0.0, 0.5])
def test_short_sentences_before_long_ones_are_not_lost(pairs: str, short_rows: float) -> None:
    """Less than a row's least before a sentence that does not fit beside it. The tail alone may be left out."""
    lengths = [[10, 60, 5, 5, 58, 12, 20, 3, 200, 7, 45], [9, 55, 14, 90, 15], [4] * 30]
    count = sum(map(sum, lengths))
    ids = iter(range(FIRST, FIRST + count))
    text = Corpus([shard([[[next(ids) for _ in range(n)] for n in document] for document in lengths])])
    made = recipe(pairs=pairs, max_length=64, short_rows=short_rows)
    rows = Rows(made, text, range(3), vocabulary(count + FIRST))
    seen = np.concatenate([s for number in range(len(rows)) for s in segments(rows.make(number, 0))])
    assert max(rows.length(np.arange(len(rows)))) <= 64
    ends = np.cumsum([sum(document) for document in lengths]) + FIRST
    tails = [token for end in ends for token in range(end - SHORTEST + 1, end)]
    assert not set(range(FIRST, FIRST + count)) - set(seen.tolist()) - set(tails)
    if pairs == "order":  # no token is in two rows
        assert len(set(seen.tolist())) == len(seen)


def test_short_rows() -> None:
    shares = {}
    for share in (0.0, 0.1, 0.5):
        rows = rows_of("roberta", short_rows=share)
        shares[share] = np.mean(rows.length(np.arange(len(rows))) < 100)
    assert shares[0.0] < shares[0.1] < shares[0.5]
    assert shares[0.1] - shares[0.0] == pytest.approx(0.08, abs=0.04)  # 10 % are cut, four fifths of them below 100


def test_masks_leave_the_special_tokens() -> None:
    for family in FAMILIES:
        rows = rows_of(family)
        masked = total = 0
        for number in range(0, len(rows), 4):
            row = rows.make(number, 0)
            assert not set(row.labels) & {CLS, SEP, MASK}
            assert ((row.begins <= row.positions) & (row.positions < row.ends)).all()
            assert (row.input_ids[row.begins - 1] >= 0).all()
            assert len(row.chances) == len(row.labels)
            masked += len(row.labels)
            total += len(row.input_ids)
        assert masked / total == pytest.approx(0.15, abs=0.015)


def test_a_row_hangs_on_seed_number_and_epoch() -> None:
    rows, again, other = rows_of("albert"), rows_of("albert"), rows_of("albert", seed=2)
    for number in (5, 300):
        again.make(number + 1, 0)  # what was made before does not matter
        for name in Row.__dataclass_fields__:
            assert np.array_equal(getattr(rows.make(number, 3), name), getattr(again.make(number, 3), name))
        assert not np.array_equal(rows.make(number, 3).input_ids, rows.make(number, 4).input_ids)
        assert not np.array_equal(rows.make(number, 3).input_ids, other.make(number, 3).input_ids)


def test_the_stream_goes_through_every_row_once_an_epoch() -> None:
    rows = rows_of("albert")
    count = len(rows)
    numbers, epochs = rows.at(np.arange(3 * count))
    for epoch in range(3):
        assert sorted(numbers[epochs == epoch]) == list(range(count))
    assert not np.array_equal(numbers[:count], numbers[count : 2 * count])
    assert np.array_equal(rows.at(np.arange(count - 2, count + 3))[0], numbers[count - 2 : count + 3])


def test_held_out_documents() -> None:
    train, dev = held_out(COUNTING, 0.1)
    assert sorted([*train, *dev]) == list(range(len(COUNTING)))
    assert len(dev) / len(COUNTING) == pytest.approx(0.1, abs=0.02)
    few = Corpus([shard([[[9] * 20]] * 4)])
    assert [len(part) for part in held_out(few, 0.005)] == [2, 2]
    with pytest.raises(DataError, match="blank line"):
        held_out(Corpus([shard([[[9] * 20]] * 3)]), 0.1)


def test_a_sentence_longer_than_a_row_is_split() -> None:
    long = Corpus([shard([[[FIRST + i for i in range(1000)]], [[7] * 20]])])
    rows = Rows(recipe(**LENGTHS), long, [0], vocabulary(2000))
    texts = [np.concatenate(sorted(segments(rows.make(number, 0)), key=lambda s: s[0])) for number in range(len(rows))]
    assert np.concatenate(texts).tolist() == [FIRST + i for i in range(1000)]


def test_a_corpus_of_scraps_makes_no_rows() -> None:
    with pytest.raises(DataError, match="no row"):
        Rows(recipe(), Corpus([shard([[[9] * 5]] * 4)]), [0, 1], vocabulary())
