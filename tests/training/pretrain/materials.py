"""Corpora and vocabularies in memory, of numbers alone, and text that a tiny model learns in seconds."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
import torch
from transformers import AutoTokenizer, BertConfig, BertModel

from tests.training.samples import write_text
from training.pretrain.corpus import Corpus, Shard
from training.pretrain.recipe import PretrainRecipe
from training.tokenizers.vocabulary import Vocabulary

CLS, SEP, PAD, MASK = 1, 2, 0, 3
FIRST = 5
"""The first id that stands for text."""


def vocabulary(size: int = 1000, continuing: float = 0.4) -> Vocabulary:
    """Ids without text; a share of them continues a word."""
    starts = np.random.default_rng(0).random(size) >= continuing
    return Vocabulary(
        tokenizer=tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0}, "a")), size=size, cls=CLS, sep=SEP,
        pad=PAD, mask=MASK, starts=starts, ordinary=np.arange(FIRST, size), keeps_space=False, fingerprint="f",
    )  # fmt: skip


def shard(documents: Sequence[Sequence[Sequence[int]]], path: str = "t") -> Shard:
    """Documents of sentences of ids."""
    sentences = [s for document in documents for s in document]
    return Shard(
        tokens=np.array([i for s in sentences for i in s], dtype=np.uint32),
        sentences=np.cumsum([len(s) for s in sentences]).astype(np.uint64),
        documents=np.cumsum([sum(map(len, document)) for document in documents]).astype(np.uint64),
        path=path, sha256=path,
    )  # fmt: skip


def corpus(tokens: int = 100_000, size: int = 1000, seed: int = 0, *, counting: bool = False) -> Corpus:
    """Documents of about 600 tokens in sentences of 5 to 40, of random ids; or, `counting`, of FIRST, FIRST + 1, ...,
    so that an id tells its place."""
    generator = np.random.default_rng(seed)
    documents: list[list[list[int]]] = []
    done = 0
    while done < tokens:
        document = []
        for _ in range(int(generator.integers(2, 50))):
            length = int(generator.integers(5, 41))
            ids = np.arange(done, done + length) + FIRST if counting else generator.integers(FIRST, size, length)
            document.append(ids.tolist())
            done += length
        documents.append(document)
    half = len(documents) // 2
    return Corpus([shard(documents[:half], "a"), shard(documents[half:], "b")])


def recipe(**changes: Any) -> PretrainRecipe:
    """ALBERT's objective on a shape that takes milliseconds."""
    base = PretrainRecipe(
        family="albert", masking="ngram", pairs="order", corpus=("c",), tokenizer="t", output="o", steps=6,
        learning_rate=1e-2, hidden_size=32, layers=2, heads=4, intermediate_size=64, embedding_size=16,
        max_positions=64, max_length=48, batch_size=8, micro_batch_size=4, dropout=0.1, heldout=0.1, eval_rows=8,
        eval_steps=3, save_steps=3, logging_steps=1, seed=1,
    )  # fmt: skip
    return dataclasses.replace(base, **changes)


FAMILIES: dict[str, dict[str, Any]] = {
    "albert": {},
    "bert": {"family": "bert", "masking": "subword", "pairs": "next", "embedding_size": 0},
    "roberta": {"family": "roberta", "masking": "whole_word", "pairs": "none", "embedding_size": 0},
    "electra": {"family": "electra", "masking": "subword", "pairs": "none", "generator_share": 0.5},
    "spanbert": {"family": "spanbert", "masking": "span", "pairs": "none", "embedding_size": 0},
}
"""What makes each family's objective of `recipe()`."""

SUBJECTS = ("the red fox", "a small dog", "the old king", "her brother", "the river", "a tall woman")
VERBS = ("jumped over", "looked at", "never saw", "wrote about", "came back to")
OBJECTS = ("the lazy cat", "a wooden bridge", "the white castle", "his garden", "an empty road")


def write_corpus(path: Path, documents: int = 30, seed: int = 0) -> str:
    """English of 60 words: each document goes through its own few sentences, two paragraphs of them."""
    generator = np.random.default_rng(seed)
    lines = []
    for _ in range(documents):
        for _ in range(2):
            said = [
                f"{generator.choice(SUBJECTS)} {generator.choice(VERBS)} {generator.choice(OBJECTS)}.".capitalize()
                for _ in range(int(generator.integers(3, 9)))
            ]
            lines.append(" ".join(said))
        lines.append("")
    return write_text(path, "\n".join(lines))


def write_teacher(folder: Path, tokenizer: Path, **changes: Any) -> str:
    """A random BERT with the words of the tokenizer."""
    torch.manual_seed(7)
    words = AutoTokenizer.from_pretrained(tokenizer)
    shape: dict[str, Any] = {
        "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 48,
        "max_position_embeddings": 64, "initializer_range": 0.2,
    }  # fmt: skip
    BertModel(BertConfig(vocab_size=len(words), **shape | changes)).save_pretrained(folder)
    words.save_pretrained(folder)
    return str(folder)
