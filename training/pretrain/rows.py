"""The corpus to model rows: where rows begin and end, their segments, and their masks.

A row hangs on the seed, its number and the epoch alone, so a resumed run and one on several processes see the very same
rows. Knows nothing of batches and models.
"""

from __future__ import annotations

import functools
from array import array
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from training.errors import DataError
from training.pretrain import masking
from training.pretrain.corpus import Corpus, Shard
from training.pretrain.masking import Mask
from training.pretrain.recipe import SPECIALS, Pairs, PretrainRecipe
from training.tokenizers.vocabulary import Vocabulary

Ids = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

SHORTEST = 16
"""Tokens of text below which the rest of a document makes no row."""
PLAN, ORDER, ROW = range(3)
"""What a generator is for: no two uses share draws."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row as the model gets it."""

    input_ids: Ids  # [tokens]; masked
    token_type_ids: Ids
    positions: Ids  # [predicted], where in the row
    labels: Ids  # [predicted], the ids that belong there
    begins: Ids  # [predicted], the span that a predicted token is of, half-open
    ends: Ids
    chances: Floats  # [predicted], uniform draws of [0, 1), for ELECTRA's generator to sample by
    pair: int  # 0, or 1 where the segments are swapped or the second follows another text


class Rows:
    """The rows of some documents of a corpus.

    Segments do not cross documents (RoBERTa, arXiv 1907.11692, section 4.2: DOC-SENTENCES). A row is filled to
    `max_length` while the document lasts, and a share of `short_rows` to a random shorter length (ALBERT, arXiv
    1909.11942, section 4.1). The sentence that did not fit whole is cut, and opens the next row; but where the order of
    segments is the question rows end with whole sentences, since a cut one would give the answer away: all but those
    that would be too short without a part of the next sentence, which is too long. No text is lost but what is left of
    a document that is shorter than `SHORTEST` tokens.
    """

    def __init__(
        self, recipe: PretrainRecipe, corpus: Corpus, documents: Sequence[int], vocabulary: Vocabulary
    ) -> None:
        self._corpus = corpus
        self._documents = documents
        self._vocabulary = vocabulary
        self._mask = Mask.of(recipe)
        self._pairs: Pairs = recipe.pairs
        self._seed = recipe.seed
        self.max_length = recipe.max_length
        self._room = recipe.max_length - SPECIALS[recipe.pairs]
        self._plan(recipe.short_rows)

    def __len__(self) -> int:
        return len(self._begins)

    def length(self, numbers: Ids) -> Ids:
        """Tokens of rows, special ones included; a row of two texts may turn out shorter."""
        return self._lengths[numbers] + SPECIALS[self._pairs]

    def at(self, places: Ids) -> tuple[Ids, Ids]:
        """Number and epoch of the rows at places in the endless stream of shuffled epochs."""
        epochs, within = np.divmod(places, len(self))
        numbers = np.empty_like(places)
        for epoch in np.unique(epochs):
            numbers[epochs == epoch] = _order(len(self), self._seed, int(epoch))[within[epochs == epoch]]
        return numbers, epochs

    def make(self, number: int, epoch: int) -> Row:
        """The row of that number as it is in that epoch."""
        generator = np.random.default_rng((self._seed, ROW, epoch, number))
        shard, begin, _ = self._corpus.locate(int(self._owners[number]))
        begin = int(self._begins[number])
        text = shard.tokens[begin : begin + int(self._lengths[number])].astype(np.int64)
        if self._pairs == "none":
            return self._row([text], 0, generator)
        split = self._split(shard, begin, text, generator)
        first, second = text[:split], text[split:]
        pair = int(generator.random() < 0.5)
        if pair and self._pairs == "order":
            first, second = second, first
        elif pair:
            second = self._elsewhere(int(self._owners[number]), len(second), generator)
        return self._row([first, second], pair, generator)

    def _plan(self, short_rows: float) -> None:
        """Where each row begins in its shard, how long it is, and whose it is: a few bytes a row."""
        generator = np.random.default_rng((self._seed, PLAN))
        begins, lengths, owners = (array("q") for _ in range(3))  # a list would take four times the memory
        for document in self._documents:
            shard, begin, stop = self._corpus.locate(document)
            first, last = np.searchsorted(shard.sentences, (begin, stop), side="right")
            ends = shard.sentences[first:last].astype(np.int64)  # read once a document: it lies on disk
            while stop - begin >= SHORTEST:
                short = generator.random() < short_rows
                room = int(generator.integers(SHORTEST, self._room + 1)) if short else self._room
                end = min(begin + room, stop)
                whole = int(np.searchsorted(ends, end, side="right")) - 1
                whole_end = int(ends[whole]) if whole >= 0 else begin
                if self._pairs == "order" and whole_end < begin + SHORTEST:
                    # Too little for a row: with the next sentence whole, where a full row has room for it, else cut.
                    following = int(ends[np.searchsorted(ends, begin + SHORTEST)])
                    whole_end = following if following <= begin + self._room else end
                elif whole_end <= begin:  # one sentence is longer than the row
                    whole_end = end
                row_end = whole_end if self._pairs == "order" else end
                begins.append(begin)
                lengths.append(row_end - begin)
                owners.append(document)
                begin = whole_end if end < stop else stop
        if not begins:
            raise DataError(f"the corpus makes no row of {SHORTEST} tokens or more")
        self._begins = np.array(begins, dtype=np.int64)
        self._lengths = np.array(lengths, dtype=np.int64)
        self._owners = np.array(owners, dtype=np.int64)

    def _split(self, shard: Shard, begin: int, text: Ids, generator: np.random.Generator) -> int:
        """Where the second segment begins: at a sentence, or where there is but one, at a word."""
        first, last = np.searchsorted(shard.sentences, (begin, begin + len(text) - 1), side="right")
        places = shard.sentences[first:last].astype(np.int64) - begin
        if not len(places):
            places = 1 + np.flatnonzero(self._vocabulary.starts[text[1:]])
        return int(generator.choice(places)) if len(places) else len(text) // 2

    def _elsewhere(self, document: int, count: int, generator: np.random.Generator) -> Ids:
        """As many tokens, where there are, of another document, from the beginning of a sentence."""
        other = document
        while other == document:
            other = self._documents[int(generator.integers(len(self._documents)))]
        shard, begin, stop = self._corpus.locate(other)
        first, last = np.searchsorted(shard.sentences, (begin, max(begin, stop - count)), side="right")
        places = np.append(shard.sentences[first:last].astype(np.int64), begin)
        start = int(generator.choice(places))
        return np.asarray(shard.tokens[start : min(start + count, stop)], dtype=np.int64)

    def _row(self, segments: Sequence[Ids], pair: int, generator: np.random.Generator) -> Row:
        vocabulary = self._vocabulary
        ids = [np.array([vocabulary.cls])]
        types = [np.zeros(1, dtype=np.int64)]
        chosen = []
        length = 1
        for kind, segment in enumerate(segments):
            chosen.append(length + masking.spans(self._mask, segment, vocabulary.starts, generator))
            ids += [segment, np.array([vocabulary.sep])]
            types.append(np.full(len(segment) + 1, kind))
            length += len(segment) + 1
        input_ids = np.concatenate(ids)
        spans = np.concatenate(chosen)
        positions, owner = masking.positions(spans)
        labels = input_ids[positions]
        input_ids[positions] = masking.replace(self._mask, labels, owner, vocabulary, generator)
        return Row(
            input_ids=input_ids,
            token_type_ids=np.concatenate(types),
            positions=positions,
            labels=labels,
            begins=spans[owner, 0],
            ends=spans[owner, 1],
            chances=generator.random(len(labels)),
            pair=pair,
        )


@functools.lru_cache(maxsize=4)
def _order(count: int, seed: int, epoch: int) -> Ids:
    return np.random.default_rng((seed, ORDER, epoch)).permutation(count)


def held_out(corpus: Corpus, share: float) -> tuple[list[int], list[int]]:
    """The documents to train on and those to score on: every so-manieth, from all over the corpus.

    Raises:
        DataError: there are too few documents to hold one out.
    """
    every = max(2, round(1 / share))
    if len(corpus) < 4:
        raise DataError(f"the corpus has {len(corpus)} documents: is there a blank line between them?")
    every = min(every, len(corpus) // 2)  # two on either side: a segment of another document is to be had
    train: list[int] = []
    dev: list[int] = []
    for document in range(len(corpus)):
        (dev if document % every == every - 1 else train).append(document)
    return train, dev
