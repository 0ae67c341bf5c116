"""The tokenised corpus: each text file once to a shard on disk, which runs map into memory.

A shard is a folder named by the hash of its text and tokenizer: `tokens` (uint16, or uint32 where the vocabulary needs
it), `sentences` and `documents` (uint64, where each ends), and `shard.json`. Text passes through in blocks, so neither
building nor reading holds a corpus in memory. Knows nothing of rows and masks.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from training import files
from training.data import text
from training.data.records import sha256
from training.errors import DataError, TrainingError
from training.tokenizers.vocabulary import Vocabulary

logger = logging.getLogger(__name__)

FORMAT = 1
BLOCK = 2048
"""Sentences tokenised in one call."""
TALK_SECONDS = 30.0

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Shard:
    """One file's tokens, mapped from disk."""

    tokens: npt.NDArray[np.unsignedinteger[Any]]  # [tokens]
    sentences: npt.NDArray[np.uint64]  # where each sentence ends in `tokens`, rising
    documents: npt.NDArray[np.uint64]  # where each document ends in `tokens`, rising
    path: str  # the text file
    sha256: str  # of the text file


class Corpus:
    """Documents of one or more shards, numbered through."""

    def __init__(self, shards: Sequence[Shard]) -> None:
        self.shards = tuple(shards)
        self._first = np.cumsum([0, *(len(shard.documents) for shard in shards)])

    def __len__(self) -> int:
        return int(self._first[-1])

    @property
    def tokens(self) -> int:
        """Tokens of all documents."""
        return sum(len(shard.tokens) for shard in self.shards)

    def locate(self, document: int) -> tuple[Shard, int, int]:
        """The document's shard, and where its tokens begin and end there."""
        place = int(np.searchsorted(self._first, document, side="right")) - 1
        shard = self.shards[place]
        within = document - int(self._first[place])
        begin = int(shard.documents[within - 1]) if within else 0
        return shard, begin, int(shard.documents[within])


def load(paths: Sequence[str], vocabulary: Vocabulary, cache: Path) -> Corpus:
    """Map the shards of the files, tokenising those that the cache does not hold.

    Raises:
        DataError: a file cannot be read, is no UTF-8, or holds no text; or the same text is named twice.
        TrainingError: the cache cannot be written.
    """
    shards = [_shard(path, vocabulary, cache) for path in paths]
    twice = {shard.sha256 for shard in shards}
    if len(twice) < len(shards):
        raise DataError(f"corpus names the same text twice: {', '.join(paths)}")
    return Corpus(shards)


def _shard(path: str, vocabulary: Vocabulary, cache: Path) -> Shard:
    try:
        digest = sha256(path)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error
    if digest is None:
        raise DataError(f"{path}: a corpus is a file, not a hub's data set")
    key = hashlib.sha256(f"{FORMAT} {digest} {vocabulary.fingerprint}".encode()).hexdigest()[:24]
    folder = cache / key
    if not (folder / "shard.json").is_file():
        try:
            _build(path, vocabulary, folder)
        except OSError as error:
            if not (folder / "shard.json").is_file():
                raise TrainingError(
                    f"{cache}: the tokenised corpus cannot be written: {error.strerror or error}"
                ) from error
    token_type = json.loads((folder / "shard.json").read_text(encoding="utf-8"))["dtype"]
    return Shard(
        tokens=np.memmap(folder / "tokens", dtype=token_type, mode="r"),
        sentences=np.memmap(folder / "sentences", dtype=np.uint64, mode="r"),
        documents=np.memmap(folder / "documents", dtype=np.uint64, mode="r"),
        path=path,
        sha256=digest,
    )


def _build(path: str, vocabulary: Vocabulary, folder: Path) -> None:
    """Write a shard. Raises `FileExistsError` where another process was quicker, whose shard is as good."""
    token_type = np.uint16 if vocabulary.size <= 2**16 else np.uint32
    began = told = time.monotonic()
    tokens = sentences = documents = 0  # documents: where the last one ended
    with files.written_aside(folder, shared=True) as part:
        part.mkdir()
        with (
            open(part / "tokens", "wb") as ids_file,
            open(part / "sentences", "wb") as sentences_file,
            open(part / "documents", "wb") as documents_file,
        ):
            for ids, lengths, closes in _encoded(path, vocabulary):
                ends = np.concatenate([[tokens], tokens + np.cumsum(lengths)]).astype(np.uint64)
                ends[1:][lengths > 0].tofile(sentences_file)
                ids.astype(token_type).tofile(ids_file)
                closed = np.unique(ends[closes])
                closed = closed[closed > documents]  # a document may be empty to the tokenizer
                closed.tofile(documents_file)
                tokens += len(ids)
                sentences += int((lengths > 0).sum())
                documents = int(closed[-1]) if len(closed) else documents
                if time.monotonic() - told > TALK_SECONDS:
                    told = time.monotonic()
                    logger.info("%s: %.1f M tokens, %.0f a second", path, tokens / 1e6, tokens / (told - began))
        if not tokens:
            raise DataError(f"{path}: no text")
        about = {
            "format": FORMAT,
            "dtype": np.dtype(token_type).name,
            "tokens": tokens,
            "sentences": sentences,
            "path": path,
        }
        (part / "shard.json").write_text(json.dumps(about) + "\n", encoding="utf-8")
        if (folder / "shard.json").is_file():
            raise FileExistsError  # another process was quicker, and its shard may be in use
    logger.info("%s: %d tokens in %d sentences, %.0f s", path, tokens, sentences, time.monotonic() - began)


def _encoded(path: str, vocabulary: Vocabulary) -> Iterator[tuple[Ids, Ids, list[int]]]:
    """Blocks of sentences: their ids in a row, the length of each, and how many stand before each document's end."""
    block: list[str] = []
    closes: list[int] = []
    for paragraph in text.paragraphs(path):
        if not paragraph:
            closes.append(len(block))
        for number, sentence in enumerate(text.sentences(paragraph)):
            block.append(f" {sentence}" if vocabulary.keeps_space and number else sentence)
        if len(block) >= BLOCK:
            yield *_encode(block, vocabulary), closes
            block, closes = [], []
    if block or closes:
        yield *_encode(block, vocabulary), closes


def _encode(block: list[str], vocabulary: Vocabulary) -> tuple[Ids, Ids]:
    rows = [row.ids for row in vocabulary.tokenizer.encode_batch_fast(block, add_special_tokens=False)]
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    return np.array([identifier for row in rows for identifier in row], dtype=np.int64), lengths
