"""New vocabularies load as any tokenizer does, cut text as their own library does, and know where words begin."""

import json
import random
from collections import Counter
from pathlib import Path

import pytest
import sentencepiece as library
import tokenizers
from transformers import AutoTokenizer

from tests.training.samples import write_text
from training.data import text
from training.errors import CheckpointError, DataError, TrainingError
from training.tokenizers import pieces, vocabulary
from training.tokenizers.loading import load_tokenizer


def lines(path: str) -> list[str]:
    return [s for paragraph in text.paragraphs(path) for s in text.sentences(paragraph)]


def test_sentencepiece_cuts_as_its_library_does(sentencepiece: Path, corpus_file: str) -> None:
    model = library.SentencePieceProcessor(model_file=str(sentencepiece / "spiece.model"))
    backend = tokenizers.Tokenizer.from_file(str(sentencepiece / "tokenizer.json"))
    for line in lines(corpus_file)[:200]:
        assert backend.encode(line, add_special_tokens=False).ids == model.encode(line.lower())
    assert [model.id_to_piece(i) for i in range(5)] == ["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"]
    assert model.get_piece_size() == backend.get_vocab_size() == 45
    assert backend.encode("The RIVER").ids == backend.encode("thé river").ids


@pytest.mark.parametrize("cased", [False, True])
def test_vowel_signs_are_learned(tmp_path: Path, cased: bool) -> None:
    """They combine with the letter before them as an accent does, and are no accents."""
    generator = random.Random(0)
    scripts = (
        ("कखगतनबमरलस", "\u093e\u093f\u0940\u0941\u0947\u094b\u0902"),
        ("কখগতনবম", "\u09be\u09bf\u09c0\u09c1\u09c7"),
    )
    words = ["".join(generator.choice(part) for part in script * 2) for script in scripts for _ in range(60)]
    lines = [" ".join(generator.choices(words, k=6)) for _ in range(200)]
    pieces.learn(tmp_path / "t", [write_text(tmp_path / "c.txt", "\n".join(lines))], size=80, cased=cased)
    backend = load_tokenizer(tmp_path / "t")
    for line in lines[:50]:
        encoded = backend.encode(line, add_special_tokens=False)
        assert "<unk>" not in encoded.tokens, line
        signs = {sign for _, marks in scripts for sign in marks if sign in line}
        assert signs <= set("".join(encoded.tokens)), line


@pytest.mark.parametrize("kind", ["sentencepiece", "wordpiece", "bytebpe"])
def test_transformers_loads_it(kind: str, request: pytest.FixtureRequest, corpus_file: str) -> None:
    folder = request.getfixturevalue(kind)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.cls_token_id is not None
    ids = tokenizer("The red fox.", "A dog.").input_ids
    assert ids[0] == tokenizer.cls_token_id
    assert ids[-1] == tokenizer.sep_token_id
    assert tokenizer.unk_token_id not in ids
    origin = json.loads((folder / "vocabulary.json").read_text())
    assert origin["kind"] == kind
    assert origin["pieces"] == len(tokenizer)
    assert list(origin["corpus"]) == [corpus_file]


def test_cased_and_uncased(corpus_file: str, tmp_path: Path) -> None:
    pieces.learn(tmp_path / "cased", [corpus_file], kind="wordpiece", size=120, cased=True)
    pieces.learn(tmp_path / "plain", [corpus_file], kind="wordpiece", size=120)
    cased, plain = (AutoTokenizer.from_pretrained(tmp_path / name) for name in ("cased", "plain"))
    assert cased("The").input_ids != cased("the").input_ids
    assert plain("The").input_ids == plain("the").input_ids
    assert (tmp_path / "plain" / "vocab.txt").read_text().splitlines()[:5] == list(pieces.BERT)


@pytest.mark.parametrize(
    ("kind", "sentence", "words"),
    [
        ("wordpiece", "the foxes jumped.", 4),
        ("sentencepiece", "the foxes jumped.", 4),
        ("bytebpe", " the foxes jumped.", 4),
        ("wordpiece", "a dog (her dog)", 6),
    ],
)
def test_where_words_begin(kind: str, sentence: str, words: int, request: pytest.FixtureRequest) -> None:
    loaded = vocabulary.load(str(request.getfixturevalue(kind)))
    ids = loaded.tokenizer.encode(sentence, add_special_tokens=False).ids
    assert len(ids) > words or sentence.startswith("a dog")
    assert loaded.starts[ids].sum() == words
    assert not set(loaded.ordinary) & {loaded.cls, loaded.sep, loaded.pad, loaded.mask}
    assert loaded.size == len(loaded.starts) == len(loaded.ordinary) + 5


def test_the_sample_is_uniform_and_repeats() -> None:
    stream = [str(number) for number in range(1000)]
    counts: Counter[str] = Counter()
    for seed in range(200):
        sample = pieces._sample(iter(stream), 100, seed)
        assert len(set(sample)) == 100
        counts.update(sample)
    assert sum(counts[name] for name in stream[:500]) / 20_000 == pytest.approx(0.5, abs=0.02)
    assert sum(counts[name] for name in stream[:100]) / 20_000 == pytest.approx(0.1, abs=0.01)
    assert pieces._sample(iter(stream), 100, 1) == pieces._sample(iter(stream), 100, 1)
    assert pieces._sample(iter(stream), 0, 1) == stream


def test_what_cannot_be_learned(corpus_file: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"5000 pieces of this text.*too high"):
        pieces.learn(tmp_path / "t", [corpus_file], size=5000)
    with pytest.raises(DataError, match="no text"):
        pieces.learn(tmp_path / "t", [write_text(tmp_path / "e.txt", "\n")])
    with pytest.raises(TrainingError, match="will not be replaced"):
        pieces.learn(tmp_path, [corpus_file])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["e.txt"]


def test_a_tokenizer_without_a_mask_is_refused(tmp_path: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    model = tokenizers.models.WordPiece({"[UNK]": 0, "a": 1, "[CLS]": 2, "[SEP]": 3, "[PAD]": 4}, unk_token="[UNK]")
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizers.Tokenizer(model), unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        pad_token="[PAD]",
    )  # fmt: skip
    fast.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="no mask token"):
        vocabulary.load(str(tmp_path))
