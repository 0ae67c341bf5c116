"""What each family's own tokenizer makes of a text, by other code than the one that is tested."""

import json
import unicodedata
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import regex
import sentencepiece
import tokenizers
from transformers.models.bert.tokenization_bert_legacy import BertTokenizerLegacy

from service.engine.tokenizer import Tokenizer
from tests.training import mixed_script
from training.tokenizers.loading import load_tokenizer

SPACE = "▁"
BYTE_WORDS = regex.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")
"""How GPT-2, and after it RoBERTa, cuts a text to words."""


def prepared(text: str, *, cased: bool) -> str:
    """What ALBERT's reference hands to SentencePiece."""
    text = " ".join(text.split()).replace("``", '"').replace("''", '"')
    if cased:
        return text
    return "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c)).lower()


class Albert:
    """The reference's preparation of a text, SentencePiece's own library, and the reference's rule for numbers."""

    def __init__(self, model: Path, *, cased: bool = False) -> None:
        self.library = sentencepiece.SentencePieceProcessor(model_file=str(model))
        self._cased = cased

    def __call__(self, text: str) -> list[int]:
        pieces: list[str] = []
        for piece in self.library.encode(prepared(text, cased=self._cased), out_type=str):
            if len(piece) < 2 or piece[-1] != "," or not piece[-2].isdigit():
                pieces.append(piece)
                continue
            number = self.library.encode(piece[:-1].replace(SPACE, ""), out_type=str)
            if not piece.startswith(SPACE) and number[0].startswith(SPACE):  # the library begins each text with a space
                number = [*filter(None, [number[0][1:]]), *number[1:]]
            pieces += [*number, ","]
        return [self.library.piece_to_id(piece) for piece in pieces]

    def equal(self, ids: Sequence[int], others: Sequence[int]) -> bool:
        """The same ids; or ids of the same text, whose scores are so near that it hangs on the order of the sum, which
        the library does in 32 bits, which of them is found."""
        return list(ids) == list(others) or (
            self._surface(ids) == self._surface(others) and abs(self._score(ids) - self._score(others)) < 1e-4
        )

    def _surface(self, ids: Sequence[int]) -> str:
        return "".join(self.library.id_to_piece(i) for i in ids)

    def _score(self, ids: Sequence[int]) -> float:
        return sum(self.library.get_score(i) for i in ids)


class Fairseq:
    """SentencePiece's own library, whose ids are moved by `offset`, behind fairseq's special tokens."""

    UNKNOWN = 3

    def __init__(self, model: Path, *, offset: int) -> None:
        self.pieces = Albert(model, cased=True)
        self._offset = offset

    def __call__(self, text: str) -> list[int]:
        return [i + self._offset if i else self.UNKNOWN for i in self.pieces.library.encode(text)]

    def equal(self, ids: Sequence[int], others: Sequence[int]) -> bool:
        """As `Albert.equal`."""
        return self.pieces.equal(self._own(ids), self._own(others))

    def _own(self, ids: Sequence[int]) -> list[int]:
        return [0 if i == self.UNKNOWN else i - self._offset for i in ids]


class Own:
    """SentencePiece's own library and ids."""

    def __init__(self, model: Path) -> None:
        self.pieces = Albert(model, cased=True)

    def __call__(self, text: str) -> list[int]:
        return list(self.pieces.library.encode(text))

    def equal(self, ids: Sequence[int], others: Sequence[int]) -> bool:
        """As `Albert.equal`."""
        return self.pieces.equal(ids, others)


class Bert:
    """WordPiece as it was first written, in Python."""

    def __init__(self, vocabulary: Path, *, cased: bool) -> None:
        self._tokenizer = BertTokenizerLegacy(str(vocabulary), do_lower_case=not cased)
        self._tokenizer.split_special_tokens = True

    def __call__(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.convert_tokens_to_ids(  # type: ignore[assignment]
            self._tokenizer._tokenize(text, split_special_tokens=True)
        )
        return ids


class Roberta:
    """Byte-level BPE (Sennrich et al. 2016, algorithm 1, over the bytes of words)."""

    def __init__(self, vocabulary: dict[str, int], merges: Sequence[tuple[str, str]]) -> None:
        self._vocabulary = vocabulary
        self._ranks = {tuple(pair): rank for rank, pair in enumerate(merges)}
        shown = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
        hidden = [byte for byte in range(256) if byte not in shown]
        self._letters = {byte: chr(byte) for byte in shown} | {byte: chr(256 + i) for i, byte in enumerate(hidden)}

    def __call__(self, text: str) -> list[int]:
        return [self._vocabulary[piece] for word in BYTE_WORDS.findall(text) for piece in self._pieces(word)]

    def _pieces(self, word: str) -> list[str]:
        pieces = [self._letters[byte] for byte in word.encode()]
        while len(pieces) > 1:
            rank, place = min((self._ranks.get(pair, len(self._ranks)), i) for i, pair in enumerate(pairwise(pieces)))
            if rank == len(self._ranks):
                break
            pieces[place : place + 2] = [pieces[place] + pieces[place + 1]]
        return pieces


class ModernBert:
    """Composed characters, cut at what stands in its list of tokens of their own, and RoBERTa's way with the rest."""

    def __init__(self, vocabulary: dict[str, int], merges: Sequence[tuple[str, str]], added: dict[str, int]) -> None:
        self._rest = Roberta(vocabulary, merges)
        self._added = added
        longest_first = sorted(added, key=len, reverse=True)
        self._cut = regex.compile("(" + "|".join(map(regex.escape, longest_first)) + ")")

    def __call__(self, text: str) -> list[int]:
        parts = self._cut.split(unicodedata.normalize("NFC", text))
        return [i for part in parts for i in ([self._added[part]] if part in self._added else self._rest(part))]


def equal_lines(kind: str, folder: Path, count: int) -> int:
    """Count the lines of mixed scripts, of `count`, for which the service's tokenizer gives the reference's ids.

    A line is prepared as the reference must have it (`PREPARED`).
    """
    backend = load_tokenizer(folder)
    reference = REFERENCES[kind](folder, backend)
    lines = [PREPARED.get(kind, str)(line) for line in mixed_script.lines(count)]
    equal = getattr(reference, "equal", lambda ids, others: list(ids) == list(others))
    return sum(
        equal(ids.tolist(), reference(line)) for line, ids in zip(lines, Tokenizer(backend).ids(lines), strict=True)
    )


def _byte_level(_: Path, backend: tokenizers.Tokenizer) -> Callable[[str], list[int]]:
    model = json.loads(backend.to_str())["model"]
    added = {token.content: i for i, token in backend.get_added_tokens_decoder().items() if not token.special}
    merges = [(first, second) for first, second in model["merges"]]
    return ModernBert(model["vocab"], merges, added) if added else Roberta(model["vocab"], merges)


REFERENCES: dict[str, Callable[[Path, tokenizers.Tokenizer], Callable[[str], list[int]]]] = {
    "albert": lambda folder, _: Albert(folder / "spiece.model"),
    "bert": lambda folder, _: Bert(folder / "vocab.txt", cased=False),
    "mpnet": lambda folder, _: Bert(folder / "vocab.txt", cased=False),
    "roberta": _byte_level,
    "bart": _byte_level,
    "modernbert": _byte_level,
    "xlm-roberta": lambda folder, _: Fairseq(folder / "sentencepiece.bpe.model", offset=1),
    "camembert": lambda folder, _: Fairseq(folder / "sentencepiece.bpe.model", offset=4),
    "deberta-v2": lambda folder, _: Own(folder / "spm.model"),
}
"""A kind's reference, from its folder and what its tokenizer.json says."""
PREPARED: dict[str, Callable[[str], str]] = {
    "bert": lambda line: line.replace("Σ", "σ"),
    "mpnet": lambda line: line.replace("Σ", "σ"),
    "xlm-roberta": lambda line: unicodedata.normalize("NFC", line),
    "camembert": lambda line: unicodedata.normalize("NFC", line),
    "deberta-v2": lambda line: unicodedata.normalize("NFC", line),
}
"""What is done to a line first: the first WordPiece knows no letter for sigma at the end of a word, and what keeps
accents may read another order of them otherwise."""
