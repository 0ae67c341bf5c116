"""Where words and characters begin and end in a text, and a text's words in one form. Knows no task."""

from __future__ import annotations

import re
import unicodedata

_JAMO = frozenset(map(chr, range(0x1160, 0x1200)))
"""Conjoining vowels and final consonants: what follows the first consonant of a decomposed Hangul syllable."""
_WORD = re.compile(r"\w+")


def trim(text: str, start: int, end: int) -> tuple[int, int]:
    """Move a span's ends off white space, and past what belongs to its last character (a decomposed accent, a
    variation selector, the rest of a decomposed syllable), which tokenizers that strip or compose leave out."""
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    while start < end < len(text) and (unicodedata.category(text[end]).startswith("M") or text[end] in _JAMO):
        end += 1
    return start, end


def whole_words(text: str, start: int, end: int) -> tuple[int, int]:
    """Widen a span to the words that it begins and ends in, as BERT's tokenizers cut them: runs of what is neither
    white space nor punctuation, and each Chinese character."""
    while 0 < start < end and _in_word(text[start - 1]) and _in_word(text[start]):
        start -= 1
    while start < end < len(text) and _in_word(text[end - 1]) and _in_word(text[end]):
        end += 1
    return start, end


def _in_word(character: str) -> bool:
    if character.isascii():
        return character.isalnum()
    chinese = "\u3400" <= character <= "\u9fff" or "\uf900" <= character <= "\ufaff" or character >= "\U00020000"
    return not (chinese or character.isspace() or unicodedata.category(character).startswith("P"))


def plain(text: str) -> str:
    """Get a text's words in one form, so that case, white space and punctuation do not matter."""
    return " ".join(_WORD.findall(unicodedata.normalize("NFKC", text).casefold())) or text.strip()
