"""A checkpoint's tokenizer: read as its weights were trained on it, and carried on with a new checkpoint."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import tokenizers
from transformers import AlbertTokenizer, AutoTokenizer
from transformers.utils.hub import cached_file

from service.engine.tokenizer import Tokenizer
from training.errors import CheckpointError
from training.tokenizers import trial, unigram

logger = logging.getLogger(__name__)

PIECES = "spiece.model"
"""ALBERT's file."""
MOST_CAPITALS = 0.05
"""Share of an uncased vocabulary's pieces that may have them: BERT's has none but for its special and unused ones."""


def load_tokenizer(model: str | Path) -> tokenizers.Tokenizer:
    """The fast tokenizer of a checkpoint, as `tokenizers` has it: it neither cuts nor pads.

    Raises:
        CheckpointError: there is none, or it has no vocabulary; or it is ALBERT's without its SentencePiece model.
    """
    try:
        fast: Any = AutoTokenizer.from_pretrained(model, use_fast=True, trust_remote_code=False)
        backend = tokenizers.Tokenizer.from_str(fast.backend_tokenizer.to_str())
    except Exception as error:  # `tokenizers` raises bare Exceptions, and a broken file a KeyError
        raise CheckpointError(f"{model}: no fast tokenizer can be loaded: {type(error).__name__}: {error}") from error
    # For a checkpoint without tokenizer files transformers makes one up that knows the special tokens alone.
    if not backend.get_vocab().keys() - set(fast.all_special_tokens):
        raise CheckpointError(f"{model}: there is no tokenizer (tokenizer.json, vocab.txt or the like)")
    if isinstance(fast, AlbertTokenizer):
        backend = _albert(model, fast, backend)
    _check_case(model, fast, backend)
    backend.no_truncation()
    backend.no_padding()
    return backend


def open_tokenizer(model: str | Path, rows: int, to: Path | None = None) -> Tokenizer:
    """Return the tokenizer of a checkpoint as the service uses it; from the file `to`, where it is to be written there.

    It is tried on a few texts first. Offsets that leave letters out are mended where they can be.

    Raises:
        CheckpointError: there is none that can be used so, or it gives ids that an embedding of so many rows has not,
            or offsets that are not where its tokens stand.
    """
    backend = _sound(model, load_tokenizer(model))
    ids = max(backend.get_vocab().values()) + 1  # not their number: a vocabulary may have gaps
    if ids > rows:
        raise CheckpointError(f"{model}: the tokenizer has ids up to {ids - 1}, the embedding {rows} rows")
    try:
        if to is None:
            return Tokenizer(backend)
        backend.save(str(to))
        return Tokenizer.from_file(to)
    except ValueError as error:
        raise CheckpointError(f"{model}: {error}") from error


def save_tokenizer(model: str | Path, folder: Path) -> None:
    """Write the tokenizer's files of a checkpoint to another one's folder."""
    AutoTokenizer.from_pretrained(model, trust_remote_code=False).save_pretrained(folder)
    if pieces := _pieces(model):  # transformers leaves it behind
        shutil.copyfile(pieces, folder / PIECES)


def _sound(model: str | Path, backend: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """A tokenizer with offsets that hold; its other faults are told."""
    if (lost := trial.capitals_lost(backend)) >= trial.FEWEST_CAPITALS:
        logger.warning(
            "%s: %d of 26 capital letters are unknown to the tokenizer, and the small ones are not: the vocabulary is "
            'uncased; if the model is too, say "do_lower_case": true in tokenizer_config.json', model, lost,
        )  # fmt: skip
    if not (found := trial.faults(backend)):
        return backend
    mended = trial.untrimmed(backend)
    if mended is None or trial.faults(mended):
        raise CheckpointError(
            f"{model}: the tokenizer's offsets are not where its tokens stand ({'; '.join(found[:3])}): answers would "
            "be cut"
        )
    logger.warning("%s: the tokenizer's offsets leave letters out (%s): they are not trimmed any more", model, found[0])
    return mended


def _check_case(model: str | Path, fast: Any, backend: tokenizers.Tokenizer) -> None:
    """Unless told otherwise transformers lower-cases for BERT, even where the vocabulary is cased, as SpanBERT's is."""
    pieces = backend.get_vocab().keys() - set(fast.all_special_tokens)
    capitals = sum(piece != piece.lower() for piece in pieces)
    normalizer = backend.normalizer
    if normalizer is not None and normalizer.normalize_str("A") == "a" and capitals > MOST_CAPITALS * len(pieces):
        raise CheckpointError(
            f"{model}: {capitals} of {len(pieces)} pieces have capitals, which its tokenizer lower-cases; say "
            '"do_lower_case": false in tokenizer_config.json'
        )


def _albert(model: str | Path, fast: Any, read: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """The tokenizer of its SentencePiece model, with the special tokens and the template that transformers read."""
    pieces = _pieces(model)
    if pieces is None:
        raise CheckpointError(
            f"{model} has no {PIECES}, without which ALBERT's tokenizer cannot be rebuilt rightly; copy the encoder's"
        )
    backend = unigram.convert(pieces, lowercase=fast.do_lower_case, keep_accents=fast.keep_accents)
    vocabulary = backend.get_vocab()
    for identifier, token in sorted(read.get_added_tokens_decoder().items()):
        if token.special:
            backend.add_special_tokens([token])
        elif token.content not in vocabulary:  # else a symbol of the model: transformers would cut the text at it
            backend.add_tokens([token])
        if backend.token_to_id(token.content) != identifier:
            raise CheckpointError(f"{model}: {token.content!r} has another id in {PIECES} than {identifier}")
    backend.post_processor, backend.decoder = read.post_processor, read.decoder
    return backend


def _pieces(model: str | Path) -> Path | None:
    """Where a checkpoint's SentencePiece model lies, if it has one."""
    found = cached_file(
        str(model), PIECES, _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )  # fmt: skip
    return Path(found) if found else None
