"""A tokenizer of each family that Bertie serves, trained in code on a few lines; and text that is hard for them."""

import functools
from collections.abc import Callable

import tokenizers
from hypothesis import strategies as st
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

LINES = [
    "The quick brown fox jumps over the lazy dog, and the dog never minds.",
    "Ada Lovelace wrote the first program; Grace Hopper found the first bug.",
    "Who lives in Paris? Nobody whom I know of, but many who know the town.",
    "Zürich, Ångström, café, naïve: words with marks. 東京は日本の首都です。",
    "A film that is good, great, poor or awful: 1984, 2001, 3.14159.",
]
HARD_TEXTS = [
    "I 💜 you",
    "👩‍👩‍👧‍👦 family, 🏳️‍🌈 flag, 👍🏽 thumb",
    "e\u0301te\u0301 cafe\u0301 a\u030a\u0323b",
    "東京は日本の首都です",
    "مرحبا بالعالم שלום עולם",
    "हिन्दी में नमस्ते",
    "a\u200bb\u00a0c\ufeffd",
    "tab\tnew\nline\r\n end  ",
    "[SEP] [CLS] </s> <s> [MASK] <pad>",
    "𝒜𝓃 ｆｕｌｌｗｉｄｔｈ ﬁne ½ ①",
    "x" * 300,
]
TEXT = st.one_of(
    st.sampled_from(HARD_TEXTS),
    st.text(st.characters(blacklist_categories=["Cs"]), max_size=60),
    st.lists(st.sampled_from([*" ".join(LINES).split(), *HARD_TEXTS[:7]]), max_size=40).map(" ".join),
)
"""Text in many scripts, without lone surrogates: those are refused long before a tokenizer."""


@functools.cache
def _wordpiece() -> str:
    backend = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    backend.train_from_iterator(
        LINES, trainers.WordPieceTrainer(vocab_size=300, special_tokens=special, show_progress=False)
    )
    backend.post_processor = processors.BertProcessing(
        ("[SEP]", backend.token_to_id("[SEP]")), ("[CLS]", backend.token_to_id("[CLS]"))
    )
    return backend.to_str()


@functools.cache
def _byte_level() -> str:
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.train_from_iterator(
        LINES,
        trainers.BpeTrainer(
            vocab_size=400,
            special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    backend.post_processor = processors.RobertaProcessing(
        ("</s>", backend.token_to_id("</s>")), ("<s>", backend.token_to_id("<s>"))
    )
    return backend.to_str()


@functools.cache
def _unigram() -> str:
    backend = tokenizers.Tokenizer(models.Unigram())
    backend.normalizer = normalizers.Sequence([normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase()])
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.train_from_iterator(
        LINES,
        trainers.UnigramTrainer(
            vocab_size=200,
            special_tokens=["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"],
            unk_token="<unk>",
            show_progress=False,
        ),
    )
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, backend.token_to_id(token)) for token in ("[CLS]", "[SEP]")],
    )
    return backend.to_str()


_FAMILIES: dict[str, Callable[[], str]] = {"bert": _wordpiece, "roberta": _byte_level, "albert": _unigram}
FAMILIES = tuple(_FAMILIES)


def backend(family: str) -> tokenizers.Tokenizer:
    """A fresh tokenizer of `family`: nothing that a test sets on it reaches another."""
    return tokenizers.Tokenizer.from_str(_FAMILIES[family]())
