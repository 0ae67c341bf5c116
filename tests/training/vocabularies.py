"""A tokenizer's folder of each kind, as a published checkpoint has it, learnt in a second from text in many scripts."""

import io
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import sentencepiece
import tokenizers
from sentencepiece import sentencepiece_model_pb2
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from tests.training import mixed_script, references
from tests.training.samples import ADA, PARIS, QUESTIONS, SENTENCES, write_text
from training.tokenizers import pieces

KINDS = (
    "albert", "bert", "bert-cased", "roberta", "xlm-roberta", "camembert", "mpnet", "deberta-v2", "modernbert", "bart",
)  # fmt: skip
FAIRSEQ = {"xlm-roberta": "XLMRobertaTokenizer", "camembert": "CamembertTokenizer"}
"""Kinds whose pieces have fairseq's ids, and transformers' class for them."""
_PLAIN = (*(text for text, _ in SENTENCES), *(text for _, text, _, _ in QUESTIONS), PARIS, ADA)


def make(folder: Path, text: Sequence[str] = ()) -> dict[str, Path]:
    """Folders by kind: SentencePiece of three, WordPiece of two, and byte-level BPE. Learnt from `text`, if given."""
    lines = [" ".join(line.split()) for line in mixed_script.lines(800)]
    lines += random.Random(0).choices(_PLAIN, k=200)
    lines = [*text] or lines
    corpus = write_text(folder / "lines.txt", "\n".join(lines))
    made = {kind: folder / kind for kind in KINDS}
    albert(made["albert"], sentencepiece_model(text))
    pieces.learn(made["bert"], [corpus], kind="wordpiece", size=1500)
    pieces.learn(made["bert-cased"], [corpus], kind="wordpiece", size=1500, cased=True)
    pieces.learn(made["roberta"], [corpus], kind="bytebpe", size=1000)
    mpnet(made["mpnet"], made["bert"])
    modernbert(made["modernbert"], lines)
    bart(made["bart"], made["roberta"])
    model = fairseq_model(text)
    for kind in FAIRSEQ:
        fairseq(made[kind], kind, model)
    deberta(made["deberta-v2"], deberta_model(text))
    for kind, path in made.items():
        (path / "config.json").write_text(json.dumps({"model_type": kind.removesuffix("-cased")}))
    return made


def albert(folder: Path, model: bytes, *, cased: bool = False) -> Path:
    """The tokenizer's files of a published ALBERT: its SentencePiece model, and how text is prepared for it."""
    folder.mkdir(parents=True)
    (folder / "spiece.model").write_bytes(model)
    (folder / "config.json").write_text(json.dumps({"model_type": "albert"}))
    settings = {"tokenizer_class": "AlbertTokenizer", "do_lower_case": not cased, "keep_accents": cased}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def mpnet(folder: Path, bert: Path) -> Path:
    """A published MPNet's vocabulary: BERT's, with fairseq's special tokens before it and its mask behind it."""
    folder.mkdir(parents=True)
    vocabulary = (bert / "vocab.txt").read_text(encoding="utf-8")
    (folder / "vocab.txt").write_text(f"<s>\n<pad>\n</s>\n<unk>\n{vocabulary}<mask>\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "MPNetTokenizer"}))
    return folder


def modernbert(folder: Path, lines: Sequence[str]) -> Path:
    """A published ModernBERT's one file: byte-level BPE of composed characters, with runs of spaces and a name of what
    was taken out of its texts as tokens of their own, and BERT's special tokens."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.train_from_iterator(
        lines,
        trainers.BpeTrainer(
            vocab_size=1000, special_tokens=["|||IP_ADDRESS|||", "[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"],
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False,
        ),
    )  # fmt: skip
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    layout = json.loads(backend.to_str())
    for token in layout["added_tokens"]:
        token["lstrip"] = token["content"] == "[MASK]"
        token["special"] = not token["content"].startswith("|")
        token["normalized"] = not token["special"]
    backend = tokenizers.Tokenizer.from_str(json.dumps(layout))
    backend.add_tokens([tokenizers.AddedToken(" " * count, normalized=True) for count in range(24, 1, -1)])
    PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]",
        mask_token="[MASK]", model_max_length=8192, model_input_names=["input_ids", "attention_mask"],
    ).save_pretrained(folder)  # fmt: skip
    return folder


def bart(folder: Path, roberta: Path) -> Path:
    """A published BART's two files: RoBERTa's vocabulary and merges."""
    folder.mkdir(parents=True)
    model = json.loads((roberta / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    merges = [" ".join(pair) for pair in model["merges"]]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
    return folder


def fairseq(folder: Path, kind: str, model: bytes) -> Path:
    """The tokenizer's files of a published XLM-RoBERTa or CamemBERT of some years ago: its SentencePiece model."""
    folder.mkdir(parents=True)
    (folder / "sentencepiece.bpe.model").write_bytes(model)
    (folder / "config.json").write_text(json.dumps({"model_type": kind}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": FAIRSEQ[kind]}))
    return folder


def deberta(folder: Path, model: bytes) -> Path:
    """The tokenizer's files of a published DeBERTa: its SentencePiece model, and the token that is added behind it."""
    folder.mkdir(parents=True)
    (folder / "spm.model").write_bytes(model)
    (folder / "config.json").write_text(json.dumps({"model_type": "deberta-v2"}))
    settings = {"tokenizer_class": "DebertaV2Tokenizer", "do_lower_case": False, "vocab_type": "spm"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def deberta_json(folder: Path) -> None:
    """Put the `tokenizer.json` that transformers 4 made of a folder's SentencePiece model in its place."""
    proto: Any = sentencepiece_model_pb2
    model = proto.ModelProto.FromString((folder / "spm.model").read_bytes())
    backend = tokenizers.Tokenizer(models.Unigram([(piece.piece, piece.score) for piece in model.pieces], unk_id=3))
    characters = normalizers.Precompiled(model.normalizer_spec.precompiled_charsmap)
    spaces = normalizers.Replace(tokenizers.Regex(" {2,}"), " ")
    backend.normalizer = normalizers.Sequence([normalizers.Strip(), characters, spaces])
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Metaspace()])
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    backend.add_special_tokens(["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"])
    backend.save(str(folder / "tokenizer.json"))
    (folder / "spm.model").unlink()


def deberta_model(text: Sequence[str] = (), *, bytewise: bool = True) -> bytes:
    """A small model as DeBERTa's are made: some characters are unknown to it, which version 3 cuts to bytes."""
    lines = [*text] or [*mixed_script.lines(1500, seed=1), *random.Random(0).choices(_PLAIN, k=300)]
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(references.prepared(line, cased=True) for line in lines), model_writer=written,
        model_type="unigram", vocab_size=1700, character_coverage=0.99, byte_fallback=bytewise, pad_id=0, bos_id=1,
        eos_id=2, unk_id=3, pad_piece="[PAD]", bos_piece="[CLS]", eos_piece="[SEP]", unk_piece="[UNK]", num_threads=1,
        minloglevel=2, num_sub_iterations=1, seed_sentencepiece_size=20_000,
    )  # fmt: skip
    return written.getvalue()


def fairseq_model(text: Sequence[str] = ()) -> bytes:
    """A small model as XLM-RoBERTa's and CamemBERT's were made, with SentencePiece's own ids for what is special."""
    lines = [*text] or [*mixed_script.lines(1500, seed=1), *random.Random(0).choices(_PLAIN, k=300)]
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(references.prepared(line, cased=True) for line in lines), model_writer=written,
        model_type="unigram", vocab_size=1600, character_coverage=1.0, unk_id=0, bos_id=1, eos_id=2, pad_id=-1,
        num_threads=1, minloglevel=2, num_sub_iterations=1, seed_sentencepiece_size=20_000,
    )  # fmt: skip
    return written.getvalue()


def sentencepiece_model(text: Sequence[str] = (), *, cased: bool = False) -> bytes:
    """A small model as ALBERT's was made: symbols that stand alone, and numbers with their commas as pieces."""
    lines = [*text] or [*mixed_script.lines(1500, seed=1), *random.Random(0).choices(_PLAIN, k=300)]
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(references.prepared(line, cased=cased) for line in lines), model_writer=written,
        model_type="unigram", vocab_size=1600 if cased else 1400, character_coverage=1.0, pad_id=0, unk_id=1,
        bos_id=-1, eos_id=-1, pad_piece="<pad>", num_threads=1, control_symbols=["[CLS]", "[SEP]", "[MASK]"],
        user_defined_symbols=list('()"-.–£€'), minloglevel=2, num_sub_iterations=1, seed_sentencepiece_size=20_000,
    )  # fmt: skip
    proto: Any = sentencepiece_model_pb2
    model = proto.ModelProto.FromString(written.getvalue())
    for piece in model.pieces:  # such pieces begin a word in ALBERT's: "▁2010,", and no "0,"
        if piece.piece[-1] == "," and piece.piece[-2:-1].isdigit() and not piece.piece.startswith("▁"):
            piece.type = proto.ModelProto.SentencePiece.UNUSED
    return bytes(model.SerializeToString())
