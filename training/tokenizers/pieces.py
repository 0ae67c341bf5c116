"""Corpus text to the pieces of a new vocabulary: SentencePiece (ALBERT), WordPiece (BERT) or byte-level BPE (RoBERTa).

Owns the `vocabulary` command. Pieces are learned by the libraries that the families' own were learned by, or by their
successors, on a uniform sample of the corpus's sentences.
"""

from __future__ import annotations

import io
import json
import logging
import random
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import sentencepiece
import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, trainers
from transformers import AlbertTokenizer, BertTokenizer, RobertaTokenizer

from training import files
from training.data import text
from training.data.records import sha256
from training.errors import DataError
from training.tokenizers import unigram

logger = logging.getLogger(__name__)

Kind = Literal["sentencepiece", "wordpiece", "bytebpe"]

ALBERT = ("[CLS]", "[SEP]", "[MASK]")
BERT = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
ROBERTA = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
"""Special tokens in the order of their ids; ALBERT's come after <pad> and <unk>."""


def learn(
    output: Path,
    corpus: Sequence[str],
    *,
    kind: Kind = "sentencepiece",
    size: int = 30_000,
    cased: bool = False,
    sentences: int = 500_000,
    seed: int = 42,
) -> int:
    """Write a tokenizer's folder (tokenizer.json and the kind's own files) and return the number of pieces.

    Args:
        output: the folder to make.
        corpus: text files; see `training.data.text`.
        kind: the algorithm.
        size: pieces, special ones included. A small corpus may give fewer (wordpiece, bytebpe).
        cased: keep capitals and accents. Byte-level BPE always does.
        sentences: how many sentences to learn from, 0 for all. They are held in memory.
        seed: of the sample.

    Raises:
        DataError: a file cannot be read, or the text is too little for so many pieces.
        CheckpointError: the output exists.
    """
    files.check_absent(output)
    stream = (s for path in corpus for paragraph in text.paragraphs(path) for s in text.sentences(paragraph))
    sample = _sample(stream, sentences, seed)
    if not sample:
        raise DataError(f"no text in {', '.join(corpus)}")
    logger.info("learning %d pieces from %d sentences", size, len(sample))
    with files.written_aside(output) as folder:
        folder.mkdir()
        if kind == "sentencepiece":
            count = _sentencepiece(folder, sample, size, cased)
        elif kind == "wordpiece":
            count = _wordpiece(folder, sample, size, cased)
        else:
            count = _bytebpe(folder, sample, size)
        origin = {
            "kind": kind,
            "pieces": count,
            "cased": cased or kind == "bytebpe",
            "corpus": {path: sha256(path) for path in corpus},
            "sentences": len(sample),
            "seed": seed,
            "versions": {name: version(name) for name in ("sentencepiece", "tokenizers", "transformers")},
        }
        (folder / "vocabulary.json").write_text(json.dumps(origin, indent=2) + "\n", encoding="utf-8")
    return count


def _sample(stream: Iterable[str], count: int, seed: int) -> list[str]:
    """A uniform sample of a stream of unknown length (reservoir sampling), or all of it."""
    if not count:
        return list(stream)
    generator = random.Random(seed)
    kept: list[str] = []
    for number, sentence in enumerate(stream):
        if number < count:
            kept.append(sentence)
        elif (place := generator.randrange(number + 1)) < count:
            kept[place] = sentence
    return kept


def _sentencepiece(folder: Path, sample: Sequence[str], size: int, cased: bool) -> int:
    """ALBERT's: a unigram model over lower-cased text without accents. SentencePiece knows no such lower-casing, so it
    learns from text that was prepared as `training.tokenizers.unigram` does it, whose tokenizer will read by the model:
    transformers' own steps drop the vowel signs of Devanagari as if they were accents."""
    options: dict[str, Any] = {"do_lower_case": not cased, "keep_accents": cased}
    normalizer = unigram.preparation(lowercase=not cased, keep_accents=cased)
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=map(normalizer.normalize_str, sample), model_writer=model, model_type="unigram",
            vocab_size=size, character_coverage=0.99995, pad_id=0, unk_id=1, bos_id=-1, eos_id=-1, pad_piece="<pad>",
            control_symbols=list(ALBERT), minloglevel=1,
        )  # fmt: skip
    except RuntimeError as error:
        raise DataError(f"SentencePiece cannot make {size} pieces of this text: {error}") from error
    (folder / "spiece.model").write_bytes(model.getvalue())
    tokenizer: Any = AlbertTokenizer.from_pretrained(folder, **options)
    tokenizer.save_pretrained(folder)
    return len(tokenizer)


def _wordpiece(folder: Path, sample: Sequence[str], size: int, cased: bool) -> int:
    backend = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=not cased)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.train_from_iterator(
        sample, trainers.WordPieceTrainer(vocab_size=size, special_tokens=list(BERT), show_progress=False)
    )
    vocabulary = backend.get_vocab()
    pieces = sorted(vocabulary, key=vocabulary.__getitem__)
    (folder / "vocab.txt").write_text("".join(f"{piece}\n" for piece in pieces), encoding="utf-8")
    BertTokenizer(vocab=vocabulary, do_lower_case=not cased).save_pretrained(folder)
    return len(pieces)


def _bytebpe(folder: Path, sample: Sequence[str], size: int) -> int:
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=list(ROBERTA), initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )  # fmt: skip
    # Within a text all words but the first have a space before them, and a space makes another piece.
    backend.train_from_iterator((f" {sentence}" for sentence in sample), trainer)
    backend.model.save(str(folder))
    model = json.loads(backend.to_str())["model"]
    merges: Any = [tuple(pair) for pair in model["merges"]]
    RobertaTokenizer(vocab=model["vocab"], merges=merges).save_pretrained(folder)
    return len(model["vocab"])
