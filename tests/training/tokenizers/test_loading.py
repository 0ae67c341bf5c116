"""Each family's tokenizer gives the ids of the family's reference, on text in many scripts, with exact offsets."""

import json
import os
import random
import re
import shutil
import unicodedata
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from sentencepiece import sentencepiece_model_pb2
from transformers import AlbertTokenizer, AutoTokenizer, BertTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

from service.engine.tokenizer import Tokenizer
from service.tasks import SpanExample, SpanTask
from tests.training import mixed_script, references
from tests.training.vocabularies import KINDS, albert, deberta, deberta_json, deberta_model, sentencepiece_model
from training.errors import CheckpointError
from training.tokenizers import unigram
from training.tokenizers.loading import load_tokenizer, open_tokenizer, save_tokenizer

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


# ---- XLM-RoBERTa and CamemBERT: SentencePiece's own library, fairseq's ids -------------------------------------------

OFFSETS = {"xlm-roberta": 1, "camembert": 4}
COMPOSED = [unicodedata.normalize("NFC", line) for line in LINES]
"""With accents in the order in which they are usual: what keeps them may read another order otherwise."""


@pytest.mark.parametrize("kind", OFFSETS)
def test_fairseq(kind: str, vocabularies: dict[str, Path]) -> None:
    folder = vocabularies[kind]
    tokenizer = Tokenizer(load_tokenizer(folder))
    reference = references.Fairseq(folder / "sentencepiece.bpe.model", offset=OFFSETS[kind])
    for line, ids in zip(COMPOSED, tokenizer.ids(COMPOSED), strict=True):
        assert reference.equal(ids.tolist(), reference(line)), repr(line)
    check_offsets(tokenizer, COMPOSED)


@pytest.mark.parametrize("kind", OFFSETS)
def test_fairseq_rows(kind: str, vocabularies: dict[str, Path]) -> None:
    """<s> a </s>, and <s> a </s></s> b </s>, by the ids that fairseq gives them; and padding is its own."""
    backend = load_tokenizer(vocabularies[kind])
    tokenizer = Tokenizer(backend)
    begin, end = (backend.token_to_id(token) for token in ("<s>", "</s>"))
    assert (begin, end) == {"xlm-roberta": (0, 2), "camembert": (5, 6)}[kind]
    assert [part.tolist() for part in tokenizer.single.parts] == [[begin], [end]]
    assert [part.tolist() for part in tokenizer.pair.parts] == [[begin], [end, end], [end]]
    assert (tokenizer.pad_id, backend.token_to_id("<unk>")) == (1, 3)
    assert backend.token_to_id("<mask>") == backend.get_vocab_size() - 1


@pytest.mark.parametrize("kind", OFFSETS)
def test_fairseq_goes_on_with_a_new_checkpoint(kind: str, vocabularies: dict[str, Path], tmp_path: Path) -> None:
    small = vocabularies[kind]
    shutil.copyfile(small / "config.json", tmp_path / "config.json")
    save_tokenizer(small, tmp_path)
    assert load_tokenizer(tmp_path).to_str() == load_tokenizer(small).to_str()
    # Without the model it is read as transformers reads it: the same ids, where no white space is at stake.
    (tmp_path / "sentencepiece.bpe.model").unlink()
    line = "who wrote the code ?"
    alone, ours = (Tokenizer(load_tokenizer(folder)).ids([line])[0].tolist() for folder in (tmp_path, small))
    assert alone == ours


def test_fairseq_models_that_would_be_read_otherwise_are_left_to_transformers(
    vocabularies: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(vocabularies["camembert"], tmp_path / "c")
    path = tmp_path / "c" / "sentencepiece.bpe.model"
    model = sentencepiece_model_pb2.ModelProto.FromString(path.read_bytes())
    model.normalizer_spec.name = "nmt_nfkc_cf"
    path.write_bytes(model.SerializeToString())
    assert Tokenizer(load_tokenizer(tmp_path / "c")).ids(["the team"])[0].size
    assert "is read as transformers reads it" in caplog.text


# ---- DeBERTa: SentencePiece's own library and ids --------------------------------------------------------------------


@pytest.mark.parametrize("bytewise", [True, False])
def test_deberta(bytewise: bool, tmp_path: Path) -> None:
    """What version 3 does not know it cuts to bytes; to version 2 it is unknown."""
    folder = deberta(tmp_path / "d", deberta_model(bytewise=bytewise))
    tokenizer, reference = Tokenizer(load_tokenizer(folder)), references.Own(folder / "spm.model")
    library, bytes_or_unknown = reference.pieces.library, 0
    for line, ids in zip(COMPOSED, tokenizer.ids(COMPOSED), strict=True):
        assert reference.equal(ids.tolist(), reference(line)), repr(line)
        bytes_or_unknown += any(library.is_byte(i) if bytewise else library.is_unknown(i) for i in ids.tolist())
    assert bytes_or_unknown > 300
    check_offsets(tokenizer, COMPOSED)


def test_deberta_takes_no_byte_that_a_text_spells_out(vocabularies: dict[str, Path]) -> None:
    folder = vocabularies["deberta-v2"]
    tokenizer, reference = Tokenizer(load_tokenizer(folder)), references.Own(folder / "spm.model")
    for text in ("<0x41>", "a <0x41>b<0xFF>", "<0x4", "\u8a00 <0xE8>"):
        assert tokenizer.ids([text])[0].tolist() == reference(text)
    (tokens,) = tokenizer(["a \U00020005b"])  # a character of four bytes, all of them at its place
    assert tokens.offsets.tolist()[-5:] == [[2, 3]] * 4 + [[3, 4]]


def test_deberta_lower_cases_as_python_does(vocabularies: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "d"
    shutil.copytree(vocabularies["deberta-v2"], folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"do_lower_case": True}))
    with pytest.raises(CheckpointError, match="have capitals, which its tokenizer lower-cases"):
        load_tokenizer(folder)
    backend = unigram.own(folder / "spm.model", set(), lowercase=True)
    reference = references.Own(folder / "spm.model")
    for line in ("The Team Won", "ΟΔΥΣΣΕΥΣ ΣΑΣ. Σ", "ÀÉ ЖЯ"):
        assert backend.encode(line).ids == reference(line.lower())


def test_deberta_rows(vocabularies: dict[str, Path]) -> None:
    backend = load_tokenizer(vocabularies["deberta-v2"])
    tokenizer = Tokenizer(backend)
    assert [part.tolist() for part in tokenizer.single.parts] == [[1], [2]]
    assert [part.tolist() for part in tokenizer.pair.parts] == [[1], [2], [2]]
    assert tokenizer.pair.text_types == (0, 1)
    assert (tokenizer.pad_id, backend.token_to_id("[UNK]")) == (0, 3)
    assert backend.token_to_id("[MASK]") == 1700  # behind the model's


def test_deberta_goes_on_with_a_new_checkpoint(vocabularies: dict[str, Path], tmp_path: Path) -> None:
    small = vocabularies["deberta-v2"]
    shutil.copyfile(small / "config.json", tmp_path / "config.json")
    save_tokenizer(small, tmp_path)
    assert load_tokenizer(tmp_path).to_str() == load_tokenizer(small).to_str()
    # Without the model it is read as transformers reads it: the same ids, where nothing is unknown.
    (tmp_path / "spm.model").unlink()
    line = "who wrote the code ?"
    alone, ours = (Tokenizer(load_tokenizer(folder)).ids([line])[0].tolist() for folder in (tmp_path, small))
    assert alone == ours
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"there is no tokenizer: looked for .*spm\.model"):
        load_tokenizer(tmp_path)


def test_deberta_of_its_json_alone(vocabularies: dict[str, Path], tmp_path: Path) -> None:
    """As most fine-tuned ones are stored; transformers 5 reads it without its map of characters."""
    folder, small = tmp_path / "d", vocabularies["deberta-v2"]
    shutil.copytree(small, folder)
    deberta_json(folder)
    ours, models = (Tokenizer(load_tokenizer(each)) for each in (folder, small))
    for one, other in zip(ours(COMPOSED), models(COMPOSED), strict=True):
        assert (one.ids.tolist(), one.offsets.tolist()) == (other.ids.tolist(), other.offsets.tolist())
    theirs = AutoTokenizer.from_pretrained(folder)
    assert theirs.encode("½ of it", add_special_tokens=False) != ours.ids(["½ of it"])[0].tolist()
    (tmp_path / "next").mkdir()
    shutil.copyfile(small / "config.json", tmp_path / "next" / "config.json")
    save_tokenizer(folder, tmp_path / "next")
    assert load_tokenizer(tmp_path / "next").to_str() == load_tokenizer(folder).to_str()


def test_deberta_that_cuts_at_punctuation_is_refused(vocabularies: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(vocabularies["deberta-v2"], tmp_path / "d")
    (tmp_path / "d" / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "DebertaV2Tokenizer", "split_by_punct": true}'
    )
    with pytest.raises(CheckpointError, match="split_by_punct is set"):
        load_tokenizer(tmp_path / "d")


def test_pieces_of_spaces_are_never_met(vocabularies: dict[str, Path], tmp_path: Path) -> None:
    """Some published models have them, and no text that is left of spaces but one."""
    model = sentencepiece_model_pb2.ModelProto.FromString((vocabularies["deberta-v2"] / "spm.model").read_bytes())
    model.pieces[-1].piece = "▁▁"
    (tmp_path / "m").write_bytes(model.SerializeToString())
    backend, reference = unigram.own(tmp_path / "m", set(), lowercase=False), references.Own(tmp_path / "m")
    for line in ("the  team   won", "  ▁▁ a"):
        assert backend.encode(line).ids == reference(line)


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


def test_distilbert_reads_as_bert(vocabularies: dict[str, Path], tmp_path: Path) -> None:
    """From its vocabulary alone, under the name that old checkpoints give its tokenizer."""
    shutil.copyfile(vocabularies["bert"] / "vocab.txt", tmp_path / "vocab.txt")
    (tmp_path / "config.json").write_text('{"model_type": "distilbert"}')
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "DistilBertTokenizer"}')
    ours, berts = (Tokenizer(load_tokenizer(folder)) for folder in (tmp_path, vocabularies["bert"]))
    for one, other in zip(ours(LINES[:300]), berts(LINES[:300]), strict=True):
        assert (one.ids.tolist(), one.offsets.tolist()) == (other.ids.tolist(), other.offsets.tolist())
    assert [part.tolist() for part in ours.pair.parts] == [part.tolist() for part in berts.pair.parts]


def test_mpnet(vocabularies: dict[str, Path]) -> None:
    """BERT's WordPiece over its own ids, and a RoBERTa's rows."""
    folder = vocabularies["mpnet"]
    backend = load_tokenizer(folder)
    tokenizer = Tokenizer(backend)
    first = references.Bert(folder / "vocab.txt", cased=False)
    lines = [line.replace("Σ", "σ") for line in LINES]
    for line, ids in zip(lines, tokenizer.ids(lines), strict=True):
        assert ids.tolist() == first(line), repr(line)
    check_offsets(tokenizer, LINES)
    assert [part.tolist() for part in tokenizer.single.parts] == [[0], [2]]
    assert [part.tolist() for part in tokenizer.pair.parts] == [[0], [2, 2], [2]]
    assert (tokenizer.pad_id, backend.token_to_id("[PAD]")) == (1, 4)


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


@pytest.mark.parametrize("kind", ["roberta", "bart"])
def test_byte_level_bpe(kind: str, vocabularies: dict[str, Path]) -> None:
    backend = load_tokenizer(vocabularies[kind])
    model = json.loads(backend.to_str())["model"]
    reference = references.Roberta(model["vocab"], [tuple(pair) for pair in model["merges"]])
    tokenizer = Tokenizer(backend)
    for line, ids in zip(LINES, tokenizer.ids(LINES), strict=True):
        assert ids.tolist() == reference(line), repr(line)
    check_offsets(tokenizer, LINES, shortest=0)  # RoBERTa's leave the space out that a piece begins with, or is


def test_bart_lays_out_rows_as_roberta(vocabularies: dict[str, Path]) -> None:
    """<s> a </s></s> b </s>: the last token of a row is the one that its head reads."""
    bart, roberta = (Tokenizer(load_tokenizer(vocabularies[kind])) for kind in ("bart", "roberta"))
    assert [part.tolist() for part in bart.pair.parts] == [[0], [2, 2], [2]]
    assert [part.tolist() for part in bart.single.parts] == [[0], [2]]
    for one, other in zip(bart(LINES[:300]), roberta(LINES[:300]), strict=True):
        assert (one.ids.tolist(), one.offsets.tolist()) == (other.ids.tolist(), other.offsets.tolist())


def test_modernbert(vocabularies: dict[str, Path]) -> None:
    backend = load_tokenizer(vocabularies["modernbert"])
    model = json.loads(backend.to_str())["model"]
    added = {token.content: i for i, token in backend.get_added_tokens_decoder().items() if not token.special}
    assert len(added) == 24
    reference = references.ModernBert(model["vocab"], [tuple(pair) for pair in model["merges"]], added)
    tokenizer = Tokenizer(backend)
    lines = [*LINES, "at |||IP_ADDRESS||| and", "a" + " " * 30 + "b"]
    for line, ids in zip(lines, tokenizer.ids(lines), strict=True):
        assert ids.tolist() == reference(line), repr(line)
    check_offsets(tokenizer, lines, shortest=0)
    assert [part.tolist() for part in tokenizer.pair.parts] == [[2], [3], [3]]
    assert tokenizer.pad_id == 1


@pytest.mark.parametrize(("kind", "lost"), [("modernbert", "tokenizer.json"), ("bart", "merges.txt")])
def test_a_missing_file_is_named(kind: str, lost: str, vocabularies: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(vocabularies[kind], tmp_path / kind)
    (tmp_path / kind / lost).unlink()
    with pytest.raises(CheckpointError, match=f"there is no tokenizer: .*{lost}"):
        load_tokenizer(tmp_path / kind)


# ---- where in the text a piece stands -------------------------------------------------------------------------------

AS_IT_IS = (*OFFSETS, "deberta-v2")
SENTENCEPIECE = ("albert", *AS_IT_IS)
WORDPIECE = ("bert", "bert-cased", "mpnet")
BYTE_LEVEL = ("roberta", "modernbert", "bart")
BYTES = {character: byte for byte, character in bytes_to_unicode().items()}


def surface(kind: str, piece: str) -> bytes:
    """What of a text a piece is, in bytes, without the mark of where a word begins or goes on."""
    if kind in BYTE_LEVEL:
        return bytes(BYTES.get(character, ord(" ")) for character in piece).strip()
    if byte := re.fullmatch("<0x(..)>", piece):
        return bytes.fromhex(byte[1])
    return plain(piece.removeprefix("##") if kind in WORDPIECE else piece.replace("▁", "")).encode()


def composed(line: str, *, cased: bool) -> set[int]:
    """Where the reading for SentencePiece makes one character of several: the piece has the place of the first one, or
    of the last."""
    places = {i for found in re.finditer("``|''|[\u1160-\u11ff]", line) for i in range(*found.span())}
    # The uncased remove the others.
    kept = [i for i, character in enumerate(line) if cased or not unicodedata.combining(character)]
    for before, i in pairwise(kept):
        if len(unicodedata.normalize("NFKC", line[before] + line[i])) < 2:
            places |= set(range(before + 1, i + 1))
    return places


def plain(text: str) -> str:
    """Whether a small sigma ends a word cannot be seen in a part of it."""
    return text.replace("ς", "σ")


@pytest.mark.parametrize("kind", KINDS)
def test_a_piece_is_the_text_at_its_offsets(kind: str, vocabularies: dict[str, Path]) -> None:
    """To the letter where the tokenizer changes nothing but capitals, else as it reads that text; and each character is
    of a piece, but for those that it drops."""
    backend = load_tokenizer(vocabularies[kind])
    normalizer = backend.normalizer
    unknown = {backend.token_to_id(token) for token in ("<unk>", "[UNK]")}

    def read(text: str) -> str:
        text = normalizer.normalize_str(text) if normalizer else text
        return text if kind in BYTE_LEVEL else plain(text)

    same = 0
    lines = COMPOSED if kind in (*AS_IT_IS, "modernbert") else LINES
    for line, tokens in zip(lines, Tokenizer(backend)(lines), strict=True):
        joined = composed(line, cased=kind != "albert") if kind in SENTENCEPIECE else set()
        left = {i for i, character in enumerate(line) if read(character).strip()} - joined
        for piece, (start, end) in zip(tokens.ids.tolist(), tokens.offsets.tolist(), strict=True):
            left -= set(range(start, end))
            name, span = surface(kind, backend.id_to_token(piece)), read(line[start:end]).strip()
            if piece in unknown or not name:  # a word's beginning may be a piece of its own
                continue
            given = plain(line[start:end]).strip()
            alike = span in (given, given.lower()) and not {start, end} & joined
            if alike and name.decode(errors="ignore").encode() == name:
                assert name.decode().strip() == span, (line, start, end)
                same += 1
            while end in joined:
                end += 1
            while {start - 1, start} <= joined:
                start -= 1
            assert name in read(line[start:end]).encode(), (line, start, end)  # of "…" or of bytes there are several
        assert not left, (line, left)
    assert same > 30_000


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("first", ["\x07", "\x7f\x7f", "\u0301", "\u200b", "\ufeff"])
def test_what_is_dropped_before_a_text_moves_no_offset(kind: str, first: str, vocabularies: dict[str, Path]) -> None:
    tokenizer = Tokenizer(load_tokenizer(vocabularies[kind]))
    (tokens,) = tokenizer([f"{first}the team won"])
    ends = tokens.offsets[:, 1].tolist()
    assert [len(first) + end for end in (3, 8, 12)] == [end for end in ends if end - len(first) in (3, 8, 12)]
    assert ends[-1] == len(first) + 12


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_is_the_text_at_its_place(kind: str, vocabularies: dict[str, Path]) -> None:
    """From the first piece to the last, with nothing changed between: accents, emoji and marks are the text's own."""
    tokenizer = Tokenizer(load_tokenizer(vocabularies[kind]))
    task = SpanTask(tokenizer, max_length=256, doc_stride=16)
    generator = random.Random(0)
    asked = 0
    for line, tokens in zip(LINES[:300], tokenizer(LINES[:300]), strict=True):
        if not 0 < len(tokens) < 200:
            continue
        first = generator.randrange(len(tokens))
        last = min(first + generator.randrange(8), len(tokens) - 1)
        begin, stop = int(tokens.offsets[first, 0]), int(tokens.offsets[last, 1])
        example = SpanExample("q", (line,), max_answer_tokens=8)
        ((window,),) = task.encode([example])
        start, end = (np.full(len(window), -9.0, dtype=np.float32) for _ in range(2))
        start[window.first + first] = end[window.first + last] = 9.0
        answer = task.decode(example, [window], [(start, end)]).answers[0]
        if not (core := line[begin:stop].strip()):
            continue
        assert answer.text == line[answer.start : answer.end], (line, first, last)
        # What belongs to its last letter: marks, which the uncased leave out of their offsets, and a syllable's rest.
        rest = answer.text.removeprefix(core)
        assert answer.text == core + rest, (line, first, last)
        for each in rest:
            assert unicodedata.category(each).startswith("M") or "\u1160" <= each <= "\u11ff", (line, first, last)
        asked += 1
    assert asked > 250


# ---- special tokens that a caller writes ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_special_tokens_in_a_text_are_plain_text(kind: str, vocabularies: dict[str, Path]) -> None:
    backend = load_tokenizer(vocabularies[kind])
    unknown = "[UNK]" if kind in (*WORDPIECE, "deberta-v2", "modernbert") else "<unk>"
    own = {backend.token_to_id(token): token for token in SPECIAL if backend.token_to_id(token) is not None}
    assert len(own) == (10 if kind == "mpnet" else 5)
    tokenizer = Tokenizer(backend)
    for text in (*SPECIAL, *(f"a{token}b {token} {token}{token}." for token in SPECIAL)):
        (tokens,) = tokenizer([text])
        found = {own[i] for i in tokens.ids.tolist() if i in own} - {unknown}
        assert not found, text
        assert len(tokens) >= len(text.split()) * 2 or kind in SENTENCEPIECE  # "<", "pad", ">" and not "<pad>"
        check_offsets(tokenizer, [text], shortest=0)


# ---- markers of a checkpoint's own ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["bert", "bert-cased", "roberta", "mpnet", "xlm-roberta", "camembert", "albert"])
def test_markers_are_as_transformers_has_them(vocabularies: dict[str, Path], tmp_path: Path, kind: str) -> None:
    """In texts that have no other special token. Those stay text here."""
    theirs = AutoTokenizer.from_pretrained(vocabularies[kind])
    theirs.add_special_tokens({"additional_special_tokens": ["[E1]", "[/E1]"]})
    save_tokenizer(vocabularies[kind], tmp_path)  # the SentencePiece model is left behind
    theirs.save_pretrained(tmp_path)
    tokenizer = open_tokenizer(tmp_path, len(theirs))
    assert tokenizer.markers == ("[E1]", "[/E1]")
    ids = set(theirs.convert_tokens_to_ids(list(tokenizer.markers)))
    plain = open_tokenizer(tmp_path, len(theirs), markers=())
    for text in ("[E1] a film [/E1] by a [E1]man[/E1].", "it[/E1] was [E1][/E1] good", "[E1]", "no", "[e1] a [E1"):
        [tokens] = tokenizer([text])
        encoded = theirs(text, add_special_tokens=False, return_offsets_mapping=True)
        assert tokenizer.ids([text])[0].tolist() == tokens.ids.tolist()
        if kind not in ("xlm-roberta", "camembert", "albert"):  # those are held to SentencePiece's library, above
            assert tokens.ids.tolist() == encoded["input_ids"]
        places = [(i, *offsets) for i, offsets in zip(tokens.ids.tolist(), tokens.offsets.tolist(), strict=True)]
        others = zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
        assert [place for place in places if place[0] in ids] == [(i, *o) for i, o in others if i in ids]
        assert not ids & set(plain.ids([text])[0].tolist())
    special = {theirs.sep_token_id, theirs.cls_token_id, theirs.pad_token_id, theirs.mask_token_id}
    for token in SPECIAL:
        found = tokenizer.ids([f"[E1]a {token} film[/E1] {token}"])[0].tolist()
        assert not special & set(found)
        assert len(ids & set(found)) == 2
