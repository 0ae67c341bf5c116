"""Lines of text in many scripts, with everything in them that tokenizers disagree about; drawn from a seed."""

import random

LETTERS = {
    "latin": "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ",
    "accents": "àéîõüçñßøåžšđłœæÿİıŞğẞÅÆŒŁǅǆﬁﬀĳŉſ",
    "decomposed": "e\u0301a\u0308o\u0302n\u0303s\u030cq\u0323\u0301i\u0307x\u0336z\u20dd",
    "greek": "αβγδεζηθικλμνξοπρσςτυφχψωάέήίόύώϊΐΰΑΒΓΔΕΣΩΆΏᾳὮ",
    "cyrillic": "абвгдежзийклмнопрстуфхцчшщъыьэюяёїєґўАБВГДЁЙЇ",
    "hebrew": "אבגדהוזחטיכךלמםנןסעפףצץקרשת\u05b0\u05b7\u05bc\u05c1\ufb2a",
    "arabic": "ابتثجحخدذرزسشصضطظعغفقكلمنهويءآأؤإئةى\u064b\u064e\u0651\u0652ﷺﻻ",
    "devanagari": "अआइईउकखगघचजटडणतदनपबमयरलवशसह\u093c\u093e\u093f\u0940\u0941\u0947\u094b\u094d\u0902क\u093c",
    "bengali": "অআকখগতনবমরলস\u09be\u09bf\u09c7\u09cd\u09cb\u09bc",
    "thai": "กขคงจชดตทนบปพมยรลวสหอ\u0e31\u0e34\u0e35\u0e38\u0e48\u0e49\u0e33เแโ",
    "cjk": "東京都日本国首都人口中文汉字漢語山川水火木金土學生體\uf900\U0002f800\U00020000",
    "kana": "あいうえおかがきぎぱカガキギパヴｶﾞﾊﾟーゞ\u304b\u3099",
    "hangul": "한국어서울대학교사람ㄱㅏ\u1112\u1161\u11ab",
    "full-width": "ＡＢＣａｂｃ０１２９！？（）－．，～￡",
    "compatibility": "①②Ⅷⅷ½¾²ªº™℡㎏㌔…‥″ﬃ𝒜𝕓𝟘🄰µ¨´¸",
}
WHOLE = (
    "👩‍👩‍👧‍👦", "🏳️‍🌈", "👍🏽", "🇫🇷", "1️⃣", "❤️", "🙂", "💜", "☕︎",
    "ΟΔΥΣΣΕΥΣ", "ΣΑΣ.", "Σ", "ΑΣ'Α", "ΑΣ\u00ad", "İstanbul", "it's", "I'M", "``quoted''", "''", "`", "e-mail", "(sic)",
    "£5–€6", "-", "–", "—", "...", "…", "“curly”", "«", "$1,000", "1,000", "10,500.75", "2010,", "1999,", "7,", "11,",
    "3.14", "1984.", "٣٤٥", "१२३", "１２３,", "0", "00", "42", "100%", "C++", "a_b", "@name", "#tag",
    "http://x.org/?q=1&r=2", "<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]", "[PAD]", "[UNK]", "<s>", "</s>", "<mask>",
    "▁", "▁a", "a▁b", "##a", "Ġ",
)  # fmt: skip
INVISIBLE = (
    "\u0001\u0007\u001b\u007f\u0080\u009f\u00ad\u034f\u061c\u180e\u200b\u200c\u200d\u200e\u200f\u2060\u202a"
    "\ufe0f\ufeff\ufffd\U000e0001"
)
BLANKS = (
    " ", " ", " ", " ", " ", " ", "  ", "   ", "\t", "\n", "\r\n", "\u00a0", "\u2003", "\u2009", "\u3000", "\u1680",
    "\u2028", "\u2029", "\u202f", "\u000b", "\u000c", "\u001c", "\u001f", "\u0085", "\u200b",
)  # fmt: skip


def lines(count: int, seed: int = 20) -> list[str]:
    """As many lines, each of a few words in one script or several."""
    generator = random.Random(seed)
    return [_line(generator) for _ in range(count)]


def _line(generator: random.Random) -> str:
    scripts = generator.sample(list(LETTERS), generator.randint(1, 3))
    parts = [generator.choice(BLANKS)] if generator.random() < 0.2 else []
    for _ in range(generator.randint(1, 12)):
        parts += [_word(generator, generator.choice(scripts)), generator.choice(BLANKS)]
    if generator.random() < 0.8:
        parts.pop()
    return "".join(parts)


def _word(generator: random.Random, script: str) -> str:
    kind = generator.random()
    if kind < 0.25:
        return generator.choice(WHOLE)
    if kind < 0.35:
        return f"{generator.randint(0, 2030)}{generator.choice((',', '.', '', ',', '-'))}"
    word = "".join(generator.choices(LETTERS[script], k=generator.randint(1, 8)))
    if kind < 0.45:
        place = generator.randint(0, len(word))
        word = word[:place] + generator.choice(INVISIBLE) + word[place:]
    elif kind < 0.6:
        word += generator.choice(",.;:!?)\"'’”»।،。、-–")
    return word
