"""A corpus of text and the tokenizers learned from it, once a session."""

from pathlib import Path

import pytest

from tests.training.pretrain.materials import write_corpus
from training.pretrain import pieces


@pytest.fixture(scope="session")
def corpus_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    """30 documents. Read-only by convention."""
    return write_corpus(tmp_path_factory.mktemp("corpus") / "c.txt")


@pytest.fixture(scope="session")
def wordpiece(corpus_file: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A WordPiece tokenizer's folder. Read-only by convention."""
    folder = tmp_path_factory.mktemp("wordpiece") / "tokenizer"
    pieces.learn(folder, [corpus_file], kind="wordpiece", size=120)
    return folder


@pytest.fixture(scope="session")
def sentencepiece(corpus_file: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SentencePiece tokenizer's folder. Read-only by convention."""
    folder = tmp_path_factory.mktemp("sentencepiece") / "tokenizer"
    pieces.learn(folder, [corpus_file], kind="sentencepiece", size=45)
    return folder


@pytest.fixture(scope="session")
def bytebpe(corpus_file: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-level BPE tokenizer's folder. Read-only by convention."""
    folder = tmp_path_factory.mktemp("bytebpe") / "tokenizer"
    pieces.learn(folder, [corpus_file], kind="bytebpe", size=320)
    return folder
