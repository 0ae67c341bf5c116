"""The vocabulary of a run: what rows and masks need to know of a tokenizer. `training.tokenizers.pieces` learns one."""

from __future__ import annotations

import hashlib
import json
import string
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import tokenizers
from transformers import AutoTokenizer

from training.errors import CheckpointError
from training.tokenizers.loading import load_tokenizer

Flags = npt.NDArray[np.bool_]
Ids = npt.NDArray[np.int64]

SPACE = ("▁", "Ġ")
"""What stands for the space before a word: SentencePiece's mark, and byte-level BPE's."""
_CJK = 0x2E80
"""From this code point on, scripts are written without spaces."""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """A tokenizer's ids."""

    tokenizer: tokenizers.Tokenizer  # text to ids, without special tokens
    size: int  # one more than the largest id
    cls: int  # ids of the special tokens
    sep: int
    pad: int
    mask: int
    starts: Flags  # bool [size], whether a token begins a word
    ordinary: Ids  # the ids that stand for text, which a random replacement is drawn from
    keeps_space: bool  # whether a space before a sentence makes another token of its first word (byte-level BPE)
    fingerprint: str  # SHA-256 of the tokenizer


def load(folder: str) -> Vocabulary:
    """Read a tokenizer's folder.

    Raises:
        CheckpointError: there is no fast tokenizer, or it lacks a special token that pre-training needs.
    """
    backend = load_tokenizer(folder)
    fast = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    special = {name: getattr(fast, f"{name}_token_id") for name in ("cls", "sep", "pad", "mask")}
    lacking = [name for name, identifier in special.items() if identifier is None]
    if lacking:
        raise CheckpointError(f"{folder}: the tokenizer has no {' and no '.join(lacking)} token")
    ids: Mapping[str, int] = backend.get_vocab()
    size = max(ids.values()) + 1  # not their number: a vocabulary may have gaps
    starts = np.ones(size, dtype=np.bool_)
    text = backend.to_str()
    model = json.loads(text)["model"]
    prefix = model.get("continuing_subword_prefix") or "" if model["type"] == "WordPiece" else None
    for piece, identifier in ids.items():
        starts[identifier] = _starts_word(piece, prefix)
    not_text = set(fast.all_special_ids)
    return Vocabulary(
        tokenizer=backend,
        size=size,
        **special,
        starts=starts,
        ordinary=np.array(sorted(set(ids.values()) - not_text), dtype=np.int64),
        keeps_space=model["type"] == "BPE",
        fingerprint=hashlib.sha256(text.encode()).hexdigest(),
    )


def _starts_word(piece: str, prefix: str | None) -> bool:
    """WordPiece marks what continues a word, the others what begins one; punctuation is a word of its own."""
    if prefix is not None:
        return not piece.startswith(prefix)
    return (
        piece.startswith(SPACE)
        or all(character in string.punctuation for character in piece)
        or any(ord(character) >= _CJK for character in piece)
    )
