"""Which tokens of a row are to be predicted, and what stands in their place.

Owns the draw of spans and the 80/10/10 rule. All draws come from the generator given, so a row's masks hang on nothing
else. Knows nothing of corpora and models.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from training.pretrain.recipe import PretrainRecipe
from training.tokenizers.vocabulary import Vocabulary

Ids = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


def _ngram_lengths() -> Floats:
    """p(n) = (1/n) / sum(1/k), n up to 3 (ALBERT, arXiv 1909.11942, section 4.1)."""
    shares = 1 / np.arange(1, 4)
    return np.asarray(shares / shares.sum(), dtype=np.float64)


def _span_lengths() -> Floats:
    """Geometric with p = 0.2 over lengths up to 10, a mean of 3.8 words (SpanBERT, arXiv 1907.10529, section 3.1)."""
    shares = 0.2 * 0.8 ** np.arange(10)
    return np.asarray(shares / shares.sum(), dtype=np.float64)


@dataclass(frozen=True, slots=True)
class Mask:
    """How a family masks."""

    ratio: float  # share of the tokens to predict, in the mean over rows
    words: bool  # whether what is masked begins and ends with whole words, or is a token
    lengths: Floats  # probability of a span of 1, 2, ... words (or tokens)
    # keep spans apart, by a word at least, so that the tokens beside a span are never masked themselves
    apart: bool = False
    masked: float = 0.8  # shares of the predicted tokens that become [MASK], and another token; the rest stay
    random: float = 0.1
    together: bool = False  # whether all tokens of a span become the same of the three

    @classmethod
    def of(cls, recipe: PretrainRecipe) -> Mask:
        """The recipe's. ELECTRA's generator sees [MASK] alone (arXiv 2003.10555, section 2)."""
        lengths = {"ngram": _ngram_lengths, "span": _span_lengths}.get(recipe.masking, lambda: np.ones(1))()
        span = recipe.masking == "span"
        electra = recipe.family == "electra"
        return cls(
            recipe.mask_ratio, recipe.masking != "subword", lengths, apart=span, together=span,
            masked=1.0 if electra else 0.8, random=0.0 if electra else 0.1,
        )  # fmt: skip


def draw(mask: Mask, count: int, generator: np.random.Generator) -> Ids:
    """Disjoint spans of a row of `count` words: int [spans, 2], half-open, rising.

    The number of spans is such that the share of masked words is `ratio` in the mean, lengths are independent draws,
    and every placing is as likely as any other: the row's words, each span taken as one, are put in a random order.
    Nothing is refused or cut short at a budget's end, which would favour short spans. So a short row may have none.
    """
    expected = mask.ratio * count / float(mask.lengths @ np.arange(1, len(mask.lengths) + 1))
    number = int(expected) + int(generator.random() < expected % 1)
    lengths = 1 + generator.choice(len(mask.lengths), size=number, p=mask.lengths)
    sizes = lengths + mask.apart  # with the free word after it; the last span may do without
    room = count + mask.apart
    fitting = int(np.searchsorted(np.cumsum(sizes), room, side="right"))
    lengths, sizes = lengths[:fitting], sizes[:fitting]
    blocks = np.concatenate([sizes, np.ones(room - int(sizes.sum()), dtype=np.int64)])
    order = generator.permutation(len(blocks))
    begins = (np.cumsum(blocks[order]) - blocks[order])[order < fitting]
    return np.stack([begins, begins + lengths[order[order < fitting]]], axis=1)


def spans(mask: Mask, ids: Ids, starts: npt.NDArray[np.bool_], generator: np.random.Generator) -> Ids:
    """Spans of tokens to predict in a segment's ids: int [spans, 2], half-open, rising.

    `starts` says of each id of the vocabulary whether it begins a word; a segment's first token does in any case.
    """
    if not mask.words:
        return draw(mask, len(ids), generator)
    begins = starts[ids].copy()
    begins[:1] = True
    edges = np.append(np.flatnonzero(begins), len(ids))
    return np.asarray(edges[draw(mask, len(edges) - 1, generator)], dtype=np.int64)


def positions(chosen: Ids) -> tuple[Ids, Ids]:
    """The tokens of the spans, rising, and which span each is of: two int arrays [tokens]."""
    lengths = chosen[:, 1] - chosen[:, 0]
    owner = np.repeat(np.arange(len(chosen)), lengths)
    within = np.arange(int(lengths.sum())) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return chosen[owner, 0] + within, owner


def replace(mask: Mask, original: Ids, owner: Ids, vocabulary: Vocabulary, generator: np.random.Generator) -> Ids:
    """What stands in the place of the predicted tokens: [MASK], a random token, or the token itself (BERT, arXiv
    1810.04805, section 3.1)."""
    number = int(owner[-1]) + 1 if len(owner) else 0
    fate = generator.random(number)[owner] if mask.together else generator.random(len(original))
    other = vocabulary.ordinary[generator.integers(len(vocabulary.ordinary), size=len(original))]
    shown = np.where(fate < mask.masked + mask.random, other, original)
    return np.where(fate < mask.masked, vocabulary.mask, shown)
