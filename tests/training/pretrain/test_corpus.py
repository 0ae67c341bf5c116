"""The tokenised corpus: it holds the text, is made once, and is whole or not there."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from tests.training.pretrain.materials import write_corpus
from tests.training.samples import write_text
from training.data import text
from training.errors import DataError, TrainingError
from training.pretrain import corpus
from training.tokenizers import vocabulary
from training.tokenizers.vocabulary import Vocabulary


@pytest.fixture(scope="module")
def words(wordpiece: Path) -> Vocabulary:
    return vocabulary.load(str(wordpiece))


def test_it_holds_the_text(
    words: Vocabulary, corpus_file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = write_corpus(tmp_path / "o.txt.xz", 7, seed=3)
    loaded = corpus.load([corpus_file, other], words, tmp_path / "a")
    assert len(loaded) == 37
    assert [len(shard.documents) for shard in loaded.shards] == [30, 7]
    assert loaded.tokens == sum(len(shard.tokens) for shard in loaded.shards)
    for document, path, lines in (
        (0, corpus_file, slice(0, 2)),
        (30, other, slice(0, 2)),
        (29, corpus_file, slice(-3, -1)),
    ):
        shard, begin, end = loaded.locate(document)
        expected = [s for paragraph in list(text.paragraphs(path))[lines] for s in text.sentences(paragraph)]
        ids = [words.tokenizer.encode(s, add_special_tokens=False).ids for s in expected]
        assert shard.tokens[begin:end].tolist() == [i for row in ids for i in row]
        first, last = np.searchsorted(shard.sentences, (begin, end), side="right")
        assert np.diff([begin, *shard.sentences[first:last].astype(int)]).tolist() == [len(row) for row in ids]
    # Where blocks end does not matter.
    monkeypatch.setattr(corpus, "BLOCK", 5)
    again = corpus.load([corpus_file], words, tmp_path / "b").shards[0]
    for name in ("tokens", "sentences", "documents"):
        assert np.array_equal(getattr(again, name), getattr(loaded.shards[0], name))


def test_it_is_made_once_a_text_and_tokenizer(
    words: Vocabulary, corpus_file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus.load([corpus_file], words, tmp_path)
    made = sorted(tmp_path.iterdir())
    corpus.load([corpus_file], dataclasses.replace(words, fingerprint="another"), tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    monkeypatch.setattr(corpus, "_build", lambda *_: pytest.fail("tokenised again"))
    corpus.load([corpus_file], words, tmp_path)
    assert set(made) < set(tmp_path.iterdir())


def test_ids_take_the_bytes_they_need(words: Vocabulary, corpus_file: str, tmp_path: Path) -> None:
    assert corpus.load([corpus_file], words, tmp_path).shards[0].tokens.dtype == np.uint16
    large = dataclasses.replace(words, size=70_000, fingerprint="large")
    assert corpus.load([corpus_file], large, tmp_path).shards[0].tokens.dtype == np.uint32


def test_a_build_that_fails_leaves_nothing(words: Vocabulary, tmp_path: Path) -> None:
    bad = tmp_path / "bad.txt"
    bad.write_bytes(b"some words\n" * 9000 + b"\xff\n")
    with pytest.raises(DataError, match=r"bad\.txt"):
        corpus.load([str(bad)], words, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize(("content", "message"), [("", "no text"), ("\n \n\n", "no text")])
def test_an_empty_corpus(words: Vocabulary, tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        corpus.load([write_text(tmp_path / "t.txt", content)], words, tmp_path / "cache")


def test_what_cannot_be_read_or_written(words: Vocabulary, corpus_file: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent\.txt: No such file"):
        corpus.load([str(tmp_path / "absent.txt")], words, tmp_path)
    with pytest.raises(DataError, match="a corpus is a file"):
        corpus.load(["hub:wikitext"], words, tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(TrainingError, match="cannot be written"):
        corpus.load([corpus_file], words, tmp_path / "file")
    with pytest.raises(DataError, match="twice"):
        corpus.load([corpus_file, corpus_file], words, tmp_path)


def test_byte_level_pieces_know_the_space_before_a_sentence(bytebpe: Path, tmp_path: Path) -> None:
    loaded = vocabulary.load(str(bytebpe))
    path = write_text(tmp_path / "t.txt", "The dog ran. The dog ran.\nThe dog ran.\n")
    ids = corpus.load([path], loaded, tmp_path / "cache").shards[0].tokens
    assert loaded.tokenizer.decode(ids.tolist()) == "The dog ran. The dog ran.The dog ran."
