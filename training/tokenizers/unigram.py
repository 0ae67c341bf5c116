"""SentencePiece models as tokenizers that the service runs: the ids of SentencePiece's library, with offsets.

XLM-RoBERTa, CamemBERT and DeBERTa hand a text to SentencePiece as it is. The first two give its pieces other ids
(fairseq's), and DeBERTa's newer models cut what they do not know to bytes. transformers splits such a text at what
Unicode calls white space (SentencePiece: at what its own map makes a space of), and matches the model's map of
characters to clusters of them, so that marks get lost behind white space.

ALBERT reads a text in three steps: white space, quotes, accents and capitals are made plain; SentencePiece's unigram
model cuts it; and a comma after a number is cut off it. transformers does the last not at all, and cuts at each symbol
of ALBERT's vocabulary that stands alone ("-", "(", '"') as if a word began after it, so 8 lines of 10 come out as other
ids than the published weights were trained on.

What remains: SentencePiece adds scores up in 32 bits, so one of two segmentations of equal scores may win here and the
other there ("viiviii"); where a number with a comma could also be cut within it by longer pieces ("12,100"), their
scores decide as if the comma had never been part of the number; and characters younger than the normaliser's tables
(15 in Unicode 14) are unknown.
"""

from __future__ import annotations

import base64
import functools
import json
import re
import unicodedata
from collections.abc import Callable, Sequence, Set
from pathlib import Path
from typing import Any

import tokenizers
from google.protobuf.message import DecodeError
from sentencepiece import sentencepiece_model_pb2
from tokenizers import Regex, models, normalizers, pre_tokenizers

from training.errors import CheckpointError

PROTO: Any = sentencepiece_model_pb2
"""Its classes are made as it is imported."""
SPACE = "▁"
UNIGRAM = 1
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
"""Kinds of pieces, as SentencePiece numbers them."""
WANTED = {
    "normalizer_spec.name": "nmt_nfkc",
    "normalizer_spec.add_dummy_prefix": True,
    "normalizer_spec.remove_extra_whitespaces": True,
    "normalizer_spec.escape_whitespaces": True,
    "trainer_spec.model_type": UNIGRAM,
    "trainer_spec.treat_whitespace_as_suffix": False,
}
"""How a model is to read text for what is written here to read it so too. ALBERT's does."""

TILDE, HELD = "～", "\U0010fffe"
"""The full-width tilde, which SentencePiece leaves as it is; and a code point that is no character and in no text."""

REMOVED = r"[\x{1}-\x{8}\x{b}\x{e}-\x{1f}\x{7f}\x{8f}\x{9f}]"
"""The control characters that the map removes, by SentencePiece's rules "nmt"."""

SYMBOLS = (0x2581, 0xFFFD)
"""That SentencePiece makes spaces of."""

_IGNORED = r"\p{Case_Ignorable}"
_CASED = r"[\p{Cased}&&[^\p{Case_Ignorable}]]"
LAST_SIGMA = f"(?:(?<={_CASED})|(?<={_CASED}{_IGNORED})|(?<={_CASED}{_IGNORED}{{2}}))Σ(?!{_IGNORED}*+\\p{{Cased}})"
"""A capital sigma at the end of a word, which Python lower-cases to another letter than the rest (Unicode, section
3.13). A regular expression looks back a bounded way: over two apostrophes or the like."""

_BYTE = re.compile("<0x[0-9A-F]{2}>")
_LOWERCASE = (normalizers.Replace(Regex(LAST_SIGMA), "ς"), normalizers.Lowercase())
"""As Python does it."""


def convert(path: Path, *, lowercase: bool, keep_accents: bool) -> tokenizers.Tokenizer:
    """The tokenizer of ALBERT's SentencePiece model at `path`, without special tokens around a text.

    Raises:
        CheckpointError: it is no SentencePiece model, or one that reads text otherwise than ALBERT's.
    """
    model = _read(path)
    unknown = _unknown(model)
    backend = tokenizers.Tokenizer(models.Unigram(_vocabulary(path, model, numbers=True), unknown, byte_fallback=False))
    characters = normalizers.Precompiled(model.normalizer_spec.precompiled_charsmap)
    backend.normalizer = normalizers.Sequence([preparation(lowercase=lowercase, keep_accents=keep_accents), characters])
    # Pieces do not reach over white space, so words can be cut one by one: each with the space that it begins with.
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(SPACE, prepend_scheme="always")]
    )
    _check_symbols(path, model, backend.normalizer)
    return backend


def fairseq(path: Path, order: Sequence[str], unknown: int, special: Set[str]) -> tokenizers.Tokenizer:
    """The tokenizer of XLM-RoBERTa's or CamemBERT's SentencePiece model at `path`, without special tokens around a
    text. The model says how a text is cut, `order` which id a piece has.

    Args:
        order: the pieces by id, special tokens among them, as fairseq has them.
        unknown: the id of what is unknown.
        special: the names in `order` that will be added as tokens of their own.

    Raises:
        CheckpointError: it is no SentencePiece model, or one that is not read here as SentencePiece reads it.
    """
    model = _read(path)
    known = dict(zip((piece.piece for piece in model.pieces), _vocabulary(path, model), strict=True))
    vocabulary = []
    for name in order:
        piece, score = known.get(name, (f" {name}", 0.0))  # what the model has not is not found in a text
        vocabulary.append((name if name in special else piece, score))
    return _as_it_is(path, model, models.Unigram(vocabulary, unknown, byte_fallback=False))


def own(path: Path, special: Set[str], *, lowercase: bool) -> tokenizers.Tokenizer:
    """The tokenizer of DeBERTa's SentencePiece model at `path`, whose ids are its own, without special tokens around a
    text.

    Args:
        path: the model; or the `tokenizer.json` that was made of it.
        special: the names of pieces that will be added as tokens of their own.

    Raises:
        CheckpointError: it is no SentencePiece model, or one that is not read here as SentencePiece reads it; or its
            map of characters is not in the `tokenizer.json`.
    """
    model = _remade(path, special) if path.suffix == ".json" else _read(path, bytewise=True)
    pieces = zip(model.pieces, _vocabulary(path, model), strict=True)
    vocabulary = [(piece.piece if piece.piece in special else name, score) for piece, (name, score) in pieces]
    unigram = models.Unigram(vocabulary, _unknown(model), byte_fallback=model.trainer_spec.byte_fallback)
    return _as_it_is(path, model, unigram, _LOWERCASE if lowercase else ())


def _as_it_is(path: Path, model: Any, unigram: models.Unigram, first: Sequence[Any] = ()) -> tokenizers.Tokenizer:
    """A tokenizer that hands a text to `unigram` as SentencePiece does, after what is done `first`."""
    backend = tokenizers.Tokenizer(unigram)
    characters = _characters(*_blanks(model.normalizer_spec.precompiled_charsmap))
    backend.normalizer = normalizers.Sequence([*first, *characters])
    # Words are what spaces separate. What else Unicode calls white space is one by now, or removed, or a letter here.
    words = [pre_tokenizers.Split(" ", "removed"), pre_tokenizers.Metaspace(SPACE, prepend_scheme="always")]
    if model.trainer_spec.byte_fallback:  # a byte that a text spells out is none
        words.append(pre_tokenizers.Split(Regex("(?<=<)0x[0-9A-F]{2}>"), "merged_with_next"))
    backend.pre_tokenizer = pre_tokenizers.Sequence(words)
    _check_symbols(path, model, backend.normalizer)
    return backend


def _unknown(model: Any) -> int:
    """The id of the piece for what is unknown."""
    return next(index for index, piece in enumerate(model.pieces) if piece.type == UNKNOWN)


def _read(path: Path, *, bytewise: bool = False) -> Any:
    """The model at `path`, which may cut what it does not know to bytes with `bytewise`. Raises `CheckpointError` for
    none, or one that would be read otherwise here."""
    model = PROTO.ModelProto()
    try:
        model.ParseFromString(path.read_bytes())
    except (OSError, DecodeError) as error:
        raise CheckpointError(f"{path} is no SentencePiece model: {error}") from error
    for name, wanted in (WANTED if bytewise else WANTED | {"trainer_spec.byte_fallback": False}).items():
        if (value := functools.reduce(getattr, name.split("."), model)) != wanted:
            raise CheckpointError(f"{path}: {name} is {value!r}; only {wanted!r} is read as SentencePiece reads it")
    if all(piece.type != UNKNOWN for piece in model.pieces):
        raise CheckpointError(f"{path} has no piece for what is unknown")
    return model


def _remade(path: Path, special: Set[str]) -> Any:
    """The model that a `tokenizer.json` was made of, as far as it tells. Raises `CheckpointError` where it was made
    without the map of characters, as transformers 5 makes it."""
    layout = json.loads(path.read_text(encoding="utf-8"))
    normalizer = layout["normalizer"] or {}
    steps = [normalizer, *normalizer.get("normalizers", ())]
    charsmap = next((step["precompiled_charsmap"] for step in steps if step.get("type") == "Precompiled"), None)
    if charsmap is None:
        raise CheckpointError(f"{path} does not have its model's map of characters")
    model = PROTO.ModelProto()
    model.normalizer_spec.precompiled_charsmap = base64.b64decode(charsmap)
    for i, (name, score) in enumerate(layout["model"]["vocab"]):
        kind = CONTROL if name in special else BYTE if _BYTE.fullmatch(name) else NORMAL
        model.pieces.add(piece=name, score=score, type=UNKNOWN if i == layout["model"]["unk_id"] else kind)
    # Releases of transformers before `tokenizers` could cut to bytes wrote that it is not to.
    model.trainer_spec.byte_fallback = sum(piece.type == BYTE for piece in model.pieces) == 256
    return model


def _check_symbols(path: Path, model: Any, normalizer: tokenizers.normalizers.Normalizer) -> None:
    """Raise `CheckpointError` for a symbol that SentencePiece takes as it stands and `normalizer` would change."""
    for piece in model.pieces:
        if piece.type == USER_DEFINED and normalizer.normalize_str(piece.piece) != piece.piece:
            raise CheckpointError(f"{path}: the symbol {piece.piece!r} is taken as it stands, which is not done here")


def _vocabulary(path: Path, model: Any, *, numbers: bool = False) -> list[tuple[str, float]]:
    """Pieces and their scores in the model's order. A piece that no text is cut into has a space before its name, which
    no word has; with `numbers`, those are among them that ALBERT cuts a comma off."""
    best = max(piece.score for piece in model.pieces if piece.type == NORMAL)
    vocabulary = []
    for piece in model.pieces:
        name, score = piece.piece, piece.score
        if SPACE in name[1:] and name.strip(SPACE):
            raise CheckpointError(f"{path}: the piece {name!r} reaches over white space, which is not done here")
        if piece.type == USER_DEFINED:
            score = len(name.encode()) * best - 0.1  # as in SentencePiece, where they have no score of their own
        if piece.type == UNUSED or name[:2] == SPACE * 2 or (numbers and _ends_in_number_and_comma(name)):
            name = f" {name}"
        vocabulary.append((name, score))
    return vocabulary


def _ends_in_number_and_comma(piece: str) -> bool:
    """Whether ALBERT cuts the comma off this piece: "▁2009," is read as "▁2009" and ","."""
    return len(piece) > 1 and piece[-1] == "," and piece[-2].isdigit()


def preparation(*, lowercase: bool, keep_accents: bool) -> tokenizers.normalizers.Normalizer:
    """What is done to a text before the model's own map of characters, in tokenising and in learning a model: ALBERT's
    own steps. The map is NFKC and some removals: NFKC first, since the map is applied here to a character at a time,
    and would not put Hangul together again."""
    steps: list[Any] = [normalizers.Replace(Regex(_class(str.isspace)), " ")]
    steps += [normalizers.Replace(quotes, '"') for quotes in ("``", "''")]
    if not keep_accents:
        steps += [normalizers.NFKD(), normalizers.Replace(Regex(_class(unicodedata.combining)), "")]
    if lowercase:
        steps += _LOWERCASE
    # What the map takes for spaces it would take with the marks that follow. The others are Python's spaces too.
    return normalizers.Sequence([*steps, *_characters(r"[\x{200c}\x{2581}\x{fffd}]", REMOVED)])


def _blanks(charsmap: bytes) -> tuple[str, str]:
    """Regular expressions of the characters that a model's map makes spaces of, and of those that it removes: more of
    them in later releases of SentencePiece."""
    read = normalizers.Precompiled(charsmap).normalize_str
    kinds = ("Cc", "Cf", "Mn", "Me", "Zs", "Zl", "Zp")
    points = [point for point in range(1, 0x110000) if unicodedata.category(chr(point)) in kinds or point in SYMBOLS]
    spaces = [point for point in points if read(chr(point)) == " "]
    return _ranges(spaces), _ranges([point for point in points if not read(chr(point))])


def _characters(spaces: str, removed: str) -> list[Any]:
    """What SentencePiece's rules "nmt_nfkc" do to characters: `spaces`, a regular expression, become spaces; the rest
    is NFKC but for one character, and what is `removed`."""
    return [
        normalizers.Replace(Regex(spaces), " "),
        *(normalizers.Replace(TILDE, HELD), normalizers.NFKC(), normalizers.Replace(HELD, TILDE)),
        # The model's map removes them too, but where a text begins with one its offsets of the whole first word are one
        # too low.
        normalizers.Replace(Regex(removed), ""),
    ]


@functools.cache
def _class(holds: Callable[[str], object]) -> str:
    """A regular expression's class of the characters that Python says this of: tables of its own might differ."""
    return _ranges([point for point in range(0x110000) if holds(chr(point))])


def _ranges(points: Sequence[int]) -> str:
    """A regular expression's class of the characters at `points`, in order."""
    begins = [point for point, before in zip(points, [-1, *points], strict=False) if point != before + 1]
    ends = [point for point, after in zip(points, [*points[1:], -1], strict=True) if after != point + 1]
    return "[" + "".join(rf"\x{{{begin:x}}}-\x{{{end:x}}}" for begin, end in zip(begins, ends, strict=True)) + "]"
