"""Each family's tokenizer gives the ids of the family's reference, on text in many scripts, with exact offsets."""

import json
import os
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sentencepiece import sentencepiece_model_pb2
from transformers import AlbertTokenizer, BertTokenizer

from service.tokenizer import Tokenizer
from tests.training import mixed_script, references
from tests.training.vocabularies import KINDS, albert, sentencepiece_model
from training import unigram
from training.errors import CheckpointError
from training.tokenizer import load_tokenizer, save_tokenizer

LINES = mixed_script.lines(2000)
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "<s>", "</s>", "<pad>", "<unk>", "<mask>")
PUBLISHED = Path(os.environ.get("DATA", Path(__file__).parents[3] / "shared" / "data")) / "albert" / "spiece.model"


def check_offsets(tokenizer: Tokenizer, lines: list[str], shortest: int = 1) -> None:
    for line, tokens in zip(lines, tokenizer(lines), strict=True):
        starts, ends = tokens.offsets[:, 0], tokens.offsets[:, 1]
        assert ((starts >= 0) & (starts + shortest <= ends) & (ends <= len(line))).all(), repr(line)
        assert (np.diff(starts) >= 0).all(), repr(line)
        assert (np.diff(ends) >= 0).all(), repr(line)


def test_lines_hold_what_is_hard() -> None:
    """Or the tests below would prove less than they say."""
    text = "".join(LINES)
    assert len(LINES) == 2000
    for letters in mixed_script.LETTERS.values():
        assert set(letters) <= set(text)
    assert set(mixed_script.INVISIBLE) <= set(text)
    for whole in (*mixed_script.WHOLE, *mixed_script.BLANKS):
        assert whole in text
    assert any(line[0].isspace() for line in LINES if line)
    assert any(line[-1].isspace() for line in LINES if line)


# ---- ALBERT: SentencePiece's own library ----------------------------------------------------------------------------


def check_albert(folder: Path, lines: list[str], *, cased: bool = False) -> None:
    tokenizer, reference = Tokenizer(load_tokenizer(folder)), references.Albert(folder / "spiece.model", cased=cased)
    for line, ids in zip(lines, tokenizer.ids(lines), strict=True):
        assert reference.equal(ids.tolist(), reference(line)), repr(line)
    check_offsets(tokenizer, lines)


def test_albert(vocabularies: dict[str, Path]) -> None:
    check_albert(vocabularies["albert"], LINES)


@pytest.mark.skipif(not PUBLISHED.is_file(), reason="the published ALBERT's spiece.model is not here (DATA)")
def test_published_albert(tmp_path: Path) -> None:
    folder = albert(tmp_path / "albert", PUBLISHED.read_bytes())
    check_albert(folder, LINES)
    tokenizer, reference = Tokenizer(load_tokenizer(folder)), references.Albert(PUBLISHED)
    years = [f"in {year}, and 1{year % 1000:03d},00 of {year}" for year in range(1900, 2031)]
    assert [ids.tolist() for ids in tokenizer.ids(years)] == [reference(line) for line in years]
    (tokens,) = tokenizer(["Self-governed (in 2009,)"])
    pieces_of = [reference.library.id_to_piece(int(i)) for i in tokens.ids]
    assert pieces_of == ["▁self", "-", "go", "vern", "ed", "▁", "(", "in", "▁2009", ",", ")"]


def test_cased_albert(tmp_path: Path) -> None:
    """Its accents are kept, in the order in which they are usual."""
    check_albert(
        albert(tmp_path / "a", sentencepiece_model(cased=True), cased=True),
        [unicodedata.normalize("NFC", line) for line in LINES],
        cased=True,
    )


def test_transformers_reads_albert_otherwise(vocabularies: dict[str, Path]) -> None:
    """Or there would be nothing to convert."""
    theirs, reference = (
        AlbertTokenizer.from_pretrained(vocabularies["albert"]),
        references.Albert(vocabularies["albert"] / "spiece.model"),
    )
    line = "a (self-governed) one"
    assert theirs.encode(line, add_special_tokens=False) != reference(line)


def test_albert_goes_on_with_a_new_checkpoint(vocabularies: dict[str, Path], tmp_path: Path) -> None:
    small = vocabularies["albert"]
    (tmp_path / "a").mkdir()
    shutil.copyfile(small / "config.json", tmp_path / "a" / "config.json")
    save_tokenizer(small, tmp_path / "a")
    assert load_tokenizer(tmp_path / "a").to_str() == load_tokenizer(small).to_str()
    (tmp_path / "a" / "spiece.model").unlink()
    with pytest.raises(CheckpointError, match=r"has no spiece\.model"):
        load_tokenizer(tmp_path / "a")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda model: model.normalizer_spec.__setattr__("name", "nmt_nfkc_cf"),
            "normalizer_spec.name is 'nmt_nfkc_cf'",
        ),
        (lambda model: model.normalizer_spec.__setattr__("add_dummy_prefix", False), "add_dummy_prefix is False"),
        (lambda model: model.trainer_spec.__setattr__("model_type", 2), "model_type is 2"),
        (lambda model: model.pieces[20].__setattr__("piece", "of▁the"), "the piece 'of▁the' reaches over white space"),
        (lambda model: model.pieces[12].__setattr__("piece", "é"), "the symbol 'é' is taken as it stands"),
        (lambda model: model.pieces[1].__setattr__("type", 1), "has no piece for what is unknown"),
    ],
)
def test_models_that_would_be_read_otherwise(
    vocabularies: dict[str, Path], tmp_path: Path, spoil: Callable[[object], None], message: str
) -> None:
    """As transformers reads the rest of the folder whatever the model says, what is refused is the conversion."""
    model = sentencepiece_model_pb2.ModelProto.FromString((vocabularies["albert"] / "spiece.model").read_bytes())
    spoil(model)
    (tmp_path / "m").write_bytes(model.SerializeToString())
    with pytest.raises(CheckpointError, match=message):
        unigram.convert(tmp_path / "m", lowercase=True, keep_accents=False)


def test_no_model_at_all(tmp_path: Path) -> None:
    for content in (b"", b"nonsense"):
        (tmp_path / "m").write_bytes(content)
        with pytest.raises(CheckpointError):
            unigram.convert(tmp_path / "m", lowercase=True, keep_accents=False)


# ---- WordPiece and byte-level BPE -----------------------------------------------------------------------------------


@pytest.mark.parametrize("cased", [False, True])
def test_wordpiece(vocabularies: dict[str, Path], cased: bool) -> None:
    """As transformers' BertTokenizer; and as the first, in Python, on what those two read alike: the fast one knows no
    letter for sigma at the end of a word, and the first one puts decomposed letters together."""
    folder = vocabularies["bert-cased" if cased else "bert"]
    tokenizer = Tokenizer(load_tokenizer(folder))
    theirs = BertTokenizer(vocab=str(folder / "vocab.txt"), do_lower_case=not cased, split_special_tokens=True)
    for line, ids in zip(LINES, tokenizer.ids(LINES), strict=True):
        assert ids.tolist() == theirs.encode(line, add_special_tokens=False), repr(line)
    check_offsets(tokenizer, LINES)

    first = references.Bert(folder / "vocab.txt", cased=cased)
    lines = [line.replace("Σ", "σ") for line in LINES]
    if cased:
        visible = str.maketrans(
            "", "", "".join(c for c in map(chr, range(0x110000)) if unicodedata.category(c)[0] == "C")
        )
        lines = [line for line in LINES if unicodedata.is_normalized("NFC", line.translate(visible))]
    assert len(lines) > 1500
    for line, ids in zip(lines, tokenizer.ids(lines), strict=True):
        assert ids.tolist() == first(line), repr(line)


def test_a_cased_vocabulary_is_not_lower_cased(vocabularies: dict[str, Path], tmp_path: Path) -> None:
    """As in a checkpoint with its vocabulary alone, for which transformers takes BERT's first settings."""
    shutil.copyfile(vocabularies["bert-cased"] / "vocab.txt", tmp_path / "vocab.txt")
    shutil.copyfile(vocabularies["bert-cased"] / "config.json", tmp_path / "config.json")
    with pytest.raises(CheckpointError, match=r'have capitals, which its tokenizer lower-cases; say "do_lower_case"'):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    assert Tokenizer(load_tokenizer(tmp_path)).ids(LINES[:50])[3].tolist() == (
        Tokenizer(load_tokenizer(vocabularies["bert-cased"])).ids(LINES[:50])[3].tolist()
    )


def test_byte_level_bpe(vocabularies: dict[str, Path]) -> None:
    backend = load_tokenizer(vocabularies["roberta"])
    model = json.loads(backend.to_str())["model"]
    reference = references.Roberta(model["vocab"], [tuple(pair) for pair in model["merges"]])
    tokenizer = Tokenizer(backend)
    for line, ids in zip(LINES, tokenizer.ids(LINES), strict=True):
        assert ids.tolist() == reference(line), repr(line)
    check_offsets(tokenizer, LINES, shortest=0)  # RoBERTa's leave the space out that a piece begins with, or is


# ---- special tokens that a caller writes ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_special_tokens_in_a_text_are_plain_text(kind: str, vocabularies: dict[str, Path]) -> None:
    backend = load_tokenizer(vocabularies[kind])
    unknown = {"albert": "<unk>", "roberta": "<unk>"}.get(kind, "[UNK]")
    own = {backend.token_to_id(token): token for token in SPECIAL if backend.token_to_id(token) is not None}
    assert len(own) == 5
    tokenizer = Tokenizer(backend)
    for text in (*SPECIAL, *(f"a{token}b {token} {token}{token}." for token in SPECIAL)):
        (tokens,) = tokenizer([text])
        found = {own[i] for i in tokens.ids.tolist() if i in own} - {unknown}
        assert not found, text
        assert len(tokens) >= len(text.split()) * 2 or kind == "albert"  # "<", "pad", ">" and not "<pad>"
        check_offsets(tokenizer, [text], shortest=0)
