"""Text to token ids and offsets, and token ids to model rows with their special tokens.

Owns the `tokenizers` object: it is configured once, here, and never again (changing one that another thread is using
raises "Already borrowed"). Knows nothing of tasks.
"""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import tokenizers
from tokenizers.models import Unigram

from service.engine.batch import Encoded, Ids

T = TypeVar("T")

PIECE = 1 << 15
"""Characters of a text that are tokenised at once. What the library makes of a text takes hundreds of bytes a token,
and the interpreter's lock to hand it over: of two million exclamation marks, a gigabyte and half a second."""
PAD_TOKENS = ("<pad>", "[PAD]")
"""The first that a vocabulary has: MPNet's has BERT's too, which it doesn't pad with."""


@dataclass(frozen=True, slots=True, eq=False)
class Tokens:
    """The tokens of one text, without special tokens.

    Attributes:
        ids: vocabulary ids, shape [tokens].
        offsets: half-open ranges of Unicode code points in the text, shape [tokens, 2].
    """

    ids: Ids
    offsets: Ids

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, eq=False)
class Template:
    """What stands around and between the texts of a row: `parts[0] A parts[1]`, or `parts[0] A parts[1] B parts[2]`.

    Attributes:
        parts: ids of the special tokens at each place.
        part_types: their token_type_ids.
        text_types: token_type_id of each text.
    """

    parts: tuple[Ids, ...]
    part_types: tuple[Ids, ...]
    text_types: tuple[int, ...]

    @functools.cached_property
    def special_tokens(self) -> int:
        """Number of special tokens in a row."""
        return sum(map(len, self.parts))

    def fill(self, *texts: Ids) -> Encoded:
        """Lay `texts` (ids without special tokens) into the template."""
        tokens = self.special_tokens + sum(map(len, texts))
        ids, types = np.empty(tokens, dtype=np.int64), np.zeros(tokens, dtype=np.int64)
        at = self._lay(0, 0, ids, types)
        for i, (text, text_type) in enumerate(zip(texts, self.text_types, strict=True), 1):
            end = at + len(text)
            ids[at:end] = text
            if text_type:
                types[at:end] = text_type
            at = self._lay(i, end, ids, types)
        return Encoded(ids, types)

    def _lay(self, part: int, at: int, ids: Ids, types: Ids) -> int:
        """Lay the special tokens of a place, and get where they end."""
        end = at + len(self.parts[part])
        ids[at:end] = self.parts[part]
        types[at:end] = self.part_types[part]
        return end


class Tokenizer:
    """A `tokenizer.json` set up for serving: no truncation, no padding, and special tokens spelled out in a text
    ("[SEP]") treated as the plain text that they are, but for those that the model has learned as markers ("[E1]").

    Attributes:
        markers: special tokens that become their own ids where they stand in a text.
        single: template of a row with one text.
        pair: template of a row with two texts.
        pad_id: id to pad with.
        unknown_id: id of the token for what the vocabulary lacks; None where it lacks nothing.
    """

    def __init__(self, backend: tokenizers.Tokenizer, markers: Iterable[str] = ()) -> None:
        """
        Raises:
            ValueError: it lays out no rows of one and of two texts, takes a text for special tokens, or has no special
                token of a marker's name.
        """
        self.markers = tuple(markers)
        pad_ids = (backend.token_to_id(token) for token in PAD_TOKENS)
        self.pad_id = next((pad_id for pad_id in pad_ids if pad_id is not None), 0)
        self._backend, self.unknown_id = _plain(backend, self.markers)
        backend = self._backend
        self._trims = backend.encode("a b", add_special_tokens=False).offsets[-1:] == [(2, 3)]
        self.single = _template(backend.encode("a"), texts=1)
        self.pair = _template(backend.encode("a", "a"), texts=2)

    @classmethod
    def from_bytes(cls, content: bytes, markers: Iterable[str] = ()) -> Tokenizer:
        """Read the content of a `tokenizer.json`.

        Raises:
            Exception: what `tokenizers` raises for what it cannot read.
        """
        return cls(tokenizers.Tokenizer.from_buffer(content), markers)

    @classmethod
    def from_file(cls, path: Path, markers: Iterable[str] = ()) -> Tokenizer:
        """Read a `tokenizer.json`.

        Raises:
            Exception: what `tokenizers` raises for a file that it cannot read.
        """
        return cls(tokenizers.Tokenizer.from_file(str(path)), markers)

    @property
    def vocabulary_size(self) -> int:
        """Number of ids, added tokens included."""
        return self._backend.get_vocab_size()

    def token(self, token_id: int) -> str:
        """Get the token of an id, as the vocabulary has it; empty where there is none."""
        return self._backend.id_to_token(token_id) or ""

    def __call__(self, texts: Sequence[str]) -> list[Tokens]:
        """Tokenise many texts at once (across cores when there are several), without special tokens.

        Each distinct text is tokenised once: a zero-shot request has its text beside every label.
        """

        def tokens(pieces: list[str]) -> Iterator[Tokens]:
            for encoding in self._backend.encode_batch(pieces, add_special_tokens=False):
                yield Tokens(_array(encoding.ids), _array(encoding.offsets).reshape(-1, 2))

        def whole(pieces: list[str]) -> Tokens:
            found, begin = [], 0
            for piece in pieces:  # one by one: what the library makes of a text takes hundreds of bytes a token
                [part] = tokens([piece])
                if (
                    piece[:1] == " " and begin and self._trims and len(part)
                ):  # the space before a text's first word is not trimmed
                    part.offsets[0] = np.maximum(part.offsets[0], 1)
                found.append(Tokens(part.ids, part.offsets + begin))
                begin += len(piece)
            return Tokens(np.concatenate([p.ids for p in found]), np.concatenate([p.offsets for p in found]))

        return self._each(texts, tokens, whole)

    def ids(self, texts: Sequence[str]) -> list[Ids]:
        """Tokenise as `__call__` does, without offsets: the faster way where a task needs none."""

        def ids(pieces: list[str]) -> Iterator[Ids]:
            for encoding in self._backend.encode_batch_fast(pieces, add_special_tokens=False):
                yield _array(encoding.ids)

        return self._each(
            texts, ids, lambda pieces: np.concatenate([part for piece in pieces for part in ids([piece])])
        )

    def _each(
        self, texts: Sequence[str], short: Callable[[list[str]], Iterable[T]], long: Callable[[list[str]], T]
    ) -> list[T]:
        """Tokenise each distinct text once: the short ones together, a long one in pieces."""
        distinct = list(dict.fromkeys(texts)) if len(texts) > 1 else list(texts)
        together = [text for text in distinct if len(text) <= PIECE]
        by_text = dict(zip(together, short(together), strict=True)) if together else {}
        for text in distinct:
            if len(text) > PIECE:
                by_text[text] = long(list(_pieces(text, self.markers)))
        return [by_text[text] for text in texts]


def _array(values: object) -> Ids:
    return np.array(values, dtype=np.int64)


def _pieces(text: str, markers: Sequence[str] = ()) -> Iterator[str]:
    """Cut a long text before white space, where every tokenizer begins a word anew; where there is none for a piece's
    length, anywhere. Never within a marker, nor within the spaces beside one, which it may take, if that can be."""

    def within(i: int, behind: bool = False) -> bool:
        return any(
            text.find(marker, max(0, i - len(marker) + (not behind)), i + len(marker) - 1) >= 0 for marker in markers
        )

    def beside(i: int) -> bool:
        return bool(markers) and (text[i - 1].isspace() or within(i, behind=text[i].isspace()))

    begin = 0
    while len(text) - begin > PIECE:
        places = range(begin + PIECE, begin + PIECE // 2, -1)
        words = (i for i in places if _begins_word(text, i) and not beside(i))
        anywhere = (i for i in places if markers and not beside(i))
        outside = (i for i in places if not within(i))
        cut = next(itertools.chain(words, anywhere, outside), begin + PIECE)
        yield text[begin:cut]
        begin = cut
    yield text[begin:]


def _begins_word(text: str, i: int) -> bool:
    """Whether a space stands at `i`, alone between characters that are none."""
    return text[i] == " " and not text[i - 1].isspace() and not text[i + 1 : i + 2].isspace()


def _plain(backend: tokenizers.Tokenizer, markers: Sequence[str]) -> tuple[tokenizers.Tokenizer, int | None]:
    """Make a tokenizer that neither cuts nor pads, and to which special tokens but markers are plain text in a text;
    and get the id of what it does not know."""
    if markers:
        backend = _marked(backend, markers)
    special = {token.content: i for i, token in backend.get_added_tokens_decoder().items() if token.special}
    unknown = getattr(backend.model, "unk_token", None)
    unknown_id = None if unknown is None else backend.token_to_id(unknown)
    if isinstance(backend.model, Unigram):
        # It takes any piece of its vocabulary that it sees, special ones too. Under a name with a space in it, which
        # words have not, a piece keeps its id and is never seen. (SentencePiece leaves such pieces out of its search.)
        layout = json.loads(backend.to_str())
        pieces = layout["model"]["vocab"]
        unknown_id = layout["model"]["unk_id"]
        unknown = pieces[unknown_id][0] if unknown_id is not None else None
        for i in special.values():
            if i < len(pieces):
                pieces[i][0] = f" {pieces[i][0]}"
        layout["added_tokens"] = [
            token for token in layout["added_tokens"] if not token["special"] or token["id"] >= len(pieces)
        ]
        backend = tokenizers.Tokenizer.from_str(json.dumps(layout))
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = True
    for content, i in special.items():
        # What is unknown in a text is unknown: that token alone may stand for text.
        if content != unknown and i in backend.encode(content, add_special_tokens=False).ids:
            raise ValueError(f"the tokenizer takes {content!r} in a text for its special token")
    return backend, unknown_id


def _marked(backend: tokenizers.Tokenizer, markers: Sequence[str]) -> tokenizers.Tokenizer:
    """Make a tokenizer to which the markers are ordinary added tokens: those are found in any text."""
    layout = json.loads(backend.to_str())
    special = {token["content"]: token for token in layout["added_tokens"] if token["special"]}
    for marker in markers:
        if marker not in special:
            raise ValueError(f"the tokenizer has no special token {marker!r}, which is to be a marker")
        special[marker]["special"] = False
    return tokenizers.Tokenizer.from_str(json.dumps(layout))


def _template(encoding: tokenizers.Encoding, texts: int) -> Template:
    """Read the template off an encoded sample, so that each family's post-processor is the only source of truth."""
    parts: list[list[int]] = [[]]
    part_types: list[list[int]] = [[]]
    text_types: list[int] = []
    seen = -1
    for token, type_id, sequence in zip(encoding.ids, encoding.type_ids, encoding.sequence_ids, strict=True):
        if sequence is None:
            parts[-1].append(token)
            part_types[-1].append(type_id)
        elif sequence != seen:
            seen = sequence
            text_types.append(type_id)
            parts.append([])
            part_types.append([])
    if len(text_types) != texts:
        raise ValueError(f"the tokenizer's post-processor lays out {len(text_types)} texts where {texts} were given")
    return Template(
        tuple(np.array(part, dtype=np.int64) for part in parts),
        tuple(np.array(part, dtype=np.int64) for part in part_types),
        tuple(text_types),
    )
