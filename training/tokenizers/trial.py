"""A tokenizer tried on text before it is trusted: where its tokens stand, and what of a text it does not know.

Owns the texts, what is expected of any tokenizer on them, and what can be mended. Knows nothing of checkpoints' files.
"""

from __future__ import annotations

import json
import re
import string
import unicodedata
from typing import Any

import tokenizers
from tokenizers.models import Unigram

TEXTS = (
    "Rotterdam is a city in the Netherlands, and I live at 9 Quay Street.",
    "The McDonald's \"e-mail\" (no. 7) cost $3.50; won't you pay?",
    "  a  b\tc\nde  internationalisation, I I a  ",
    "Zoë flew to São Tomé: a naïve façade, in Łódź and Ångström.",
    "Москва и Ελλάδα, 東京 と 서울, القاهرة, हिन्दी",
    "👩‍🚀 ok, x² or “quoted” — fin…",
)
"""Words at the beginning, after spaces of every kind, in several scripts, and of a single letter."""
FEWEST_CAPITALS = 20
"""Of 26 capital letters, so many that are unknown where the small ones are known make an uncased vocabulary."""
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
"""A token that is a byte of a character."""


def faults(backend: tokenizers.Tokenizer) -> list[str]:
    """What is wrong with the offsets of a tokenizer: each must be where the text has what the token spells.

    Compared are the letters that every family spells alike, those of ASCII; and every letter and figure, of any script,
    must be within some token's offsets, unless the tokenizer drops it.
    """
    found = []
    unknown = unknown_id(backend)
    for text in TEXTS:
        encoding = backend.encode(text, add_special_tokens=False)
        left = {i for i, character in enumerate(text) if character.isalnum()}
        for token, identifier, (start, end) in zip(encoding.tokens, encoding.ids, encoding.offsets, strict=True):
            left -= set(range(start, end))
            if identifier != unknown and not _spells(token, text[start:end]):
                found.append(f"{token!r} is placed at {text[start:end]!r}")
        found += [
            f"no token is placed at {text[i]!r} in {text[max(0, i - 4) : i + 12]!r}"
            for i in sorted(left)
            if backend.encode(text[i], add_special_tokens=False).ids
        ]
    return found


def untrimmed(backend: tokenizers.Tokenizer) -> tokenizers.Tokenizer | None:
    """The tokenizer without the trimming of offsets, whose ids are the same; None where it does not trim them.

    Trimming moves an offset past the space that a byte-level token begins with. Where the text was split at white space
    first, that space is none of the text's, and a letter is cut off instead (RobBERT-2023).
    """
    layout = json.loads(backend.to_str())
    if not _stop_trimming(layout.get("post_processor")):
        return None
    return tokenizers.Tokenizer.from_str(json.dumps(layout))


def capitals_lost(backend: tokenizers.Tokenizer) -> int:
    """How many of 26 capital letters are unknown, of those whose small ones are known."""
    unknown = unknown_id(backend)
    if unknown is None:
        return 0

    def is_known(letter: str) -> bool:
        return unknown not in backend.encode(letter, add_special_tokens=False).ids

    return sum(is_known(letter.lower()) and not is_known(letter) for letter in string.ascii_uppercase)


def unknown_id(backend: tokenizers.Tokenizer) -> int | None:
    """The id of what the vocabulary does not know; None where there is none."""
    token = getattr(backend.model, "unk_token", None)
    if token is not None:
        found: int | None = backend.token_to_id(token)
        return found
    if not isinstance(backend.model, Unigram):
        return None
    identifier: int | None = json.loads(backend.to_str())["model"].get("unk_id")
    return identifier


def _spells(token: str, text: str) -> bool:
    """Whether the two have the same letters of ASCII, with or without what is on or under them."""
    token = token.removesuffix("</w>")
    letters = _letters(token)
    if not letters or _BYTE.fullmatch(token):
        return True
    return bool({letters, _letters(_bare(token))} & {_letters(text), _letters(_bare(text))})


def _bare(text: str) -> str:
    return unicodedata.normalize("NFKD", text)


def _letters(text: str) -> str:
    return "".join(character for character in text if character.isascii() and character.isalpha()).lower()


def _stop_trimming(processor: Any) -> bool:
    """Whether some part of a post-processor trimmed offsets; none does afterwards."""
    if not isinstance(processor, dict):
        return False
    trimmed = processor.get("trim_offsets") is True
    if trimmed:
        processor["trim_offsets"] = False
    return any([trimmed, *map(_stop_trimming, processor.get("processors", ()))])
