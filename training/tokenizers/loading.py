"""A checkpoint's tokenizer: read as its weights were trained on it, and carried on with a new checkpoint."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import tokenizers
from transformers import AlbertTokenizer, AutoTokenizer, CamembertTokenizer, DebertaV2Tokenizer, XLMRobertaTokenizer
from transformers.utils.hub import cached_file

from service.engine.tokenizer import Tokenizer
from training import folders
from training.errors import CheckpointError
from training.tokenizers import trial, unigram

logger = logging.getLogger(__name__)

PIECES = "spiece.model"
"""ALBERT's file."""
FAIRSEQ = "sentencepiece.bpe.model"
"""XLM-RoBERTa's and CamemBERT's."""
OWN = "spm.model"
"""DeBERTa's."""
JSON = "tokenizer.json"
NOT_USED = "NOTUSED"
"""How CamemBERT's names of fairseq's special tokens end whose like its model has under other ids."""
FILES = (JSON, "vocab.txt", "vocab.json", PIECES, FAIRSEQ, OWN, "tokenizer.model")
"""One of these holds a tokenizer's vocabulary; vocab.json has merges.txt beside it."""
BESIDE = ("merges.txt", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
"""What may lie beside that."""
USUAL = frozenset(
    (
        "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "<s>", "</s>", "<pad>", "<unk>", "<mask>", "<s>NOTUSED",
        "</s>NOTUSED", "<unk>NOTUSED", "<|padding|>", "<|endoftext|>",
    )
)  # fmt: skip
"""Special tokens that every tokenizer of a family has. Others are a checkpoint's own: markers."""
LETTERS = "AEIST"
"""Capitals that every cased vocabulary of the Latin script has."""
MOST_CAPITALS = 0.05
"""Share of an uncased vocabulary's pieces that may have them: BERT's has none but for its special and unused ones."""


def load_tokenizer(model: str | Path) -> tokenizers.Tokenizer:
    """The fast tokenizer of a checkpoint, as `tokenizers` has it: it neither cuts nor pads.

    Raises:
        CheckpointError: there is none, or it has no vocabulary; or it is ALBERT's without its SentencePiece model.
    """
    if Path(model).is_dir():
        _check_files(Path(model))
    try:
        fast: Any = AutoTokenizer.from_pretrained(model, use_fast=True, trust_remote_code=False)
        backend = tokenizers.Tokenizer.from_str(fast.backend_tokenizer.to_str())
    except Exception as error:  # `tokenizers` raises bare Exceptions, and a broken file a KeyError
        raise CheckpointError(f"{model}: no fast tokenizer can be loaded: {_said(error)}") from error
    # For a checkpoint without tokenizer files transformers makes one up that knows the special tokens alone.
    if not backend.get_vocab().keys() - set(fast.all_special_tokens):
        raise CheckpointError(f"{model}: there is no tokenizer (tokenizer.json, vocab.txt or the like)")
    if isinstance(fast, AlbertTokenizer):
        backend = _albert(model, fast, backend)
    elif isinstance(fast, (XLMRobertaTokenizer, CamembertTokenizer)) and (pieces := _file(model, FAIRSEQ)):
        backend = _fairseq(model, pieces, backend)
    elif isinstance(fast, DebertaV2Tokenizer) and (pieces := _file(model, OWN) or _file(model, JSON)):
        backend = _own(model, pieces, fast, backend)
    _check_case(model, fast, backend)
    backend.no_truncation()
    backend.no_padding()
    return backend


def open_tokenizer(
    model: str | Path, rows: int, to: Path | None = None, markers: Sequence[str] | None = None
) -> Tokenizer:
    """Return the tokenizer of a checkpoint as the service uses it; from the file `to`, where it is to be written there.

    It is tried on a few texts first. Offsets that leave letters out are mended where they can be.

    Args:
        markers: the special tokens that are no plain text where they stand in a text; None for all of `own_special`.

    Raises:
        CheckpointError: there is none that can be used so, or it gives ids that an embedding of so many rows has not,
            or offsets that are not where its tokens stand; or it has no special tokens of its own like the markers.
    """
    backend = _sound(model, load_tokenizer(model))
    ids = max(backend.get_vocab().values()) + 1  # not their number: a vocabulary may have gaps
    if ids > rows:
        raise CheckpointError(
            f"{model}: the tokenizer has ids up to {ids - 1}, the embedding {rows} rows: is it another checkpoint's?"
        )
    own = own_special(backend)
    markers = own if markers is None else markers
    if foreign := [marker for marker in markers if marker not in own]:
        known = f"the tokenizer's own special tokens are {', '.join(own)}" if own else "it has none of its own"
        raise CheckpointError(f"{model}: {foreign[0]} cannot be a marker: {known}")
    try:
        if to is None:
            return Tokenizer(backend, markers)
        backend.save(str(to))
        return Tokenizer.from_file(to, markers)
    except ValueError as error:
        raise CheckpointError(f"{model}: {error}") from error


def own_special(backend: tokenizers.Tokenizer) -> tuple[str, ...]:
    """Return the special tokens that a checkpoint has beside its family's, by id: it learned them as markers."""
    added = sorted(backend.get_added_tokens_decoder().items(), key=lambda item: item[0])
    special = [token.content for _, token in added if token.special]
    return tuple(token for token in special if token not in USUAL and not token.startswith("[unused"))


def save_tokenizer(model: str | Path, folder: Path) -> None:
    """Write the tokenizer's files of a checkpoint to another one's folder."""
    fast = AutoTokenizer.from_pretrained(model, trust_remote_code=False)
    fast.save_pretrained(folder)
    remade = (JSON,) if isinstance(fast, DebertaV2Tokenizer) else ()  # without the model's map of characters
    for name in (PIECES, FAIRSEQ, OWN, *remade):  # transformers leaves them behind
        if found := _file(model, name):
            shutil.copyfile(found, folder / name)


def cut_side(folder: Path) -> str:
    """Return the side on which a folder's tokenizer cuts a text that is too long: "right" unless it says "left"."""
    sides = [
        _written(folder / "tokenizer_config.json").get("truncation_side"),
        (_written(folder / JSON).get("truncation") or {}).get("direction"),
    ]
    said = next((side for side in sides if isinstance(side, str)), "right")
    return said.lower()


def _written(path: Path) -> dict[str, Any]:
    """What a JSON file holds; empty where there is none, or nothing of the kind in it."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _said(error: Exception) -> str:
    """One line of what a library says."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _check_files(folder: Path) -> None:
    """Raise `CheckpointError` where no file of the folder holds a vocabulary: what was looked for."""
    folders.check_there(folder)
    for name in (*FILES, *BESIDE):
        folders.check_content(folder / name)
    there = [name for name in FILES if (folder / name).is_file()]
    if there == ["vocab.json"] and not (folder / "merges.txt").is_file():
        raise CheckpointError(f"{folder}: there is no tokenizer: vocab.json lies there without its merges.txt")
    if not there:
        raise CheckpointError(
            f"{folder}: there is no tokenizer: looked for {', '.join(FILES)}; copy the files of the encoder that was "
            "fine-tuned"
        )


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
    """Unless told otherwise transformers lower-cases for BERT, even where the vocabulary is cased, as SpanBERT's is.

    The opposite is only told: of a model that was trained so (bert-base-chinese) it is right.
    """
    pieces = backend.get_vocab().keys() - set(fast.all_special_tokens)
    capitals = sum(piece != piece.lower() for piece in pieces)
    normalizer = backend.normalizer
    if normalizer is not None and normalizer.normalize_str("A") == "a" and capitals > MOST_CAPITALS * len(pieces):
        raise CheckpointError(
            f"{model}: {capitals} of {len(pieces)} pieces have capitals, which its tokenizer lower-cases; say "
            '"do_lower_case": false in tokenizer_config.json'
        )
    if _loses_capitals(fast.unk_token, backend):
        logger.warning(
            "%s: %d of %d pieces have capitals, and its tokenizer keeps those of a text: each becomes %s. Say "
            '"do_lower_case": true in tokenizer_config.json unless the model was trained so',
            model, capitals, len(pieces), fast.unk_token,
        )  # fmt: skip


def _loses_capitals(unknown: str | None, backend: tokenizers.Tokenizer) -> bool:
    """Whether capitals are unknown where the same letters in lower case are not."""

    def lost(letter: str) -> bool:
        return unknown in backend.encode(letter, add_special_tokens=False).tokens

    return all(lost(letter) and not lost(letter.lower()) for letter in LETTERS)


def _albert(model: str | Path, fast: Any, read: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """The tokenizer of its SentencePiece model, with the special tokens and the template that transformers read."""
    pieces = _file(model, PIECES)
    if pieces is None:
        raise CheckpointError(
            f"{model} has no {PIECES}, without which ALBERT's tokenizer cannot be rebuilt rightly; copy the encoder's"
        )
    backend = unigram.convert(pieces, lowercase=fast.do_lower_case, keep_accents=fast.keep_accents)
    return _with_added(model, backend, read, read.get_added_tokens_decoder())


def _fairseq(model: str | Path, pieces: Path, read: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """The tokenizer of its SentencePiece model, with the ids, the special tokens and the template that transformers
    read; or what transformers read, where the model is not one that can be converted."""
    layout = json.loads(read.to_str())["model"]
    order = [name for name, _ in layout["vocab"]]
    return _converted(model, read, lambda special: unigram.fairseq(pieces, order, layout["unk_id"], special))


def _own(model: str | Path, pieces: Path, fast: Any, read: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """The tokenizer of its SentencePiece model, from either file that has it, with the special tokens and the template
    that transformers read; or what transformers read, where the model is not one that can be converted.

    Raises:
        CheckpointError: it cuts a text at punctuation first.
    """
    if fast.split_by_punct:
        raise CheckpointError(
            f"{model}: split_by_punct is set: a text that is cut at punctuation before SentencePiece reads it is not "
            "read here"
        )
    return _converted(model, read, lambda special: unigram.own(pieces, special, lowercase=fast.do_lower_case))


def _converted(
    model: str | Path, read: tokenizers.Tokenizer, convert: Callable[[Set[str]], tokenizers.Tokenizer]
) -> tokenizers.Tokenizer:
    """What `convert` makes, given the names of the tokens that transformers added, with those and the template; or what
    transformers read, where it cannot."""
    # How they are told from the text about them differs from one folder to another, and is of no matter to the service.
    added = {
        i: tokenizers.AddedToken(token.content, special=True, normalized=False) if token.special else token
        for i, token in read.get_added_tokens_decoder().items()
        if not token.content.endswith(NOT_USED)
    }
    try:
        backend = convert({token.content for token in added.values()})
    except CheckpointError as error:
        logger.warning("%s is read as transformers reads it: %s", model, error)
        return read
    return _with_added(model, backend, read, added)


def _with_added(
    model: str | Path,
    backend: tokenizers.Tokenizer,
    read: tokenizers.Tokenizer,
    added: Mapping[int, tokenizers.AddedToken],
) -> tokenizers.Tokenizer:
    """`backend` with the template of `read`, and with the tokens `added` by id."""
    vocabulary = backend.get_vocab()
    for identifier, token in sorted(added.items(), key=lambda item: item[0]):
        if token.special:
            backend.add_special_tokens([token])
        elif token.content not in vocabulary:  # else a symbol of the model: transformers would cut the text at it
            backend.add_tokens([token])
        if backend.token_to_id(token.content) != identifier:
            raise CheckpointError(f"{model}: {token.content!r} has another id in its SentencePiece model: {identifier}")
    backend.post_processor, backend.decoder = read.post_processor, read.decoder
    return backend


def _file(model: str | Path, name: str) -> Path | None:
    """Where a checkpoint's file of that name lies, if it has one."""
    found = cached_file(
        str(model), name, _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )  # fmt: skip
    return Path(found) if found else None
