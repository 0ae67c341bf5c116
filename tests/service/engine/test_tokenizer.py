"""Tokens, templates and offsets, held to what `tokenizers` itself lays out."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tokenizers import models, pre_tokenizers

from service.engine import tokenizer as module
from service.engine.tokenizer import Tokenizer
from tests.backends import FAMILIES, HARD_TEXTS, LINES, TEXT, backend

TOKENIZERS = {family: Tokenizer(backend(family)) for family in FAMILIES}


def reference(family: str) -> tokenizers.Tokenizer:
    plain = backend(family)
    plain.encode_special_tokens = True
    return plain


REFERENCES = {family: reference(family) for family in FAMILIES}
family = pytest.mark.parametrize("family", FAMILIES)


@pytest.mark.parametrize(
    ("family", "single", "pair", "types"),
    [
        ("bert", "[CLS] {} [SEP]", "[CLS] {} [SEP] {} [SEP]", (0, 1)),
        ("albert", "[CLS] {} [SEP]", "[CLS] {} [SEP] {} [SEP]", (0, 1)),
        ("roberta", "<s> {} </s>", "<s> {} </s></s> {} </s>", (0, 0)),
    ],
)
def test_templates_are_read_off_the_post_processor(family: str, single: str, pair: str, types: tuple[int, int]) -> None:
    tokenizer, tokens = TOKENIZERS[family], REFERENCES[family]

    def ids(template: str) -> list[list[int]]:
        parts = [part.strip() for part in template.split("{}")]
        return [
            [tokens.token_to_id(token) for token in part.replace("</s></s>", "</s> </s>").split()] for part in parts
        ]

    assert [part.tolist() for part in tokenizer.single.parts] == ids(single)
    assert [part.tolist() for part in tokenizer.pair.parts] == ids(pair)
    assert tokenizer.single.text_types == (0,)
    assert tokenizer.pair.text_types == types
    assert tokenizer.pair.special_tokens == sum(map(len, ids(pair)))
    assert tokenizer.pair.part_types[-1].tolist() == [types[1]]


@family
@given(first=TEXT, second=TEXT)
@settings(deadline=None, max_examples=50)
def test_rows_equal_the_backends_own(family: str, first: str, second: str) -> None:
    assume(family != "albert" or "<pad>" not in first + second)  # its backend alone takes that for its special token
    tokenizer = TOKENIZERS[family]
    a, b = tokenizer([first, second])
    for row, expected in (
        (tokenizer.single.fill(a.ids), REFERENCES[family].encode(first)),
        (tokenizer.pair.fill(a.ids, b.ids), REFERENCES[family].encode(first, second)),
    ):
        assert row.input_ids.tolist() == expected.ids
        assert row.token_type_ids.tolist() == expected.type_ids
        assert len(row) == len(expected.ids)
    assert [ids.tolist() for ids in tokenizer.ids([first, second])] == [a.ids.tolist(), b.ids.tolist()]
    assert len(a) == len(a.offsets)


@family
@given(text=TEXT)
@settings(deadline=None, max_examples=50)
def test_offsets_are_ranges_of_code_points_in_order(family: str, text: str) -> None:
    (tokens,) = TOKENIZERS[family]([text])
    assert tokens.offsets.shape == (len(tokens), 2)
    starts, ends = tokens.offsets[:, 0], tokens.offsets[:, 1]
    assert ((starts >= 0) & (starts <= ends) & (ends <= len(text))).all()
    assert (np.diff(starts) >= 0).all()


@pytest.mark.parametrize("text", HARD_TEXTS)
def test_byte_level_offsets_cover_every_character(text: str) -> None:
    (tokens,) = TOKENIZERS["roberta"]([text])
    covered = {i for start, end in tokens.offsets.tolist() for i in range(start, end)}
    assert {i for i, character in enumerate(text) if not character.isspace()} <= covered


@family
def test_special_tokens_in_a_text_are_plain_text(family: str) -> None:
    tokenizer = TOKENIZERS[family]
    special = {int(i) for part in tokenizer.pair.parts for i in part} | {tokenizer.pad_id}
    mask = REFERENCES[family].token_to_id("<mask>" if family == "roberta" else "[MASK]")
    texts = ["a [SEP] b", "[CLS]", "a</s></s>b <pad>", "[PAD] [MASK]", "x<pad><mask>"]
    for text, tokens, ids in zip(texts, tokenizer(texts), tokenizer.ids(texts), strict=True):
        assert tokens.ids.tolist() == ids.tolist()
        assert len(ids)
        assert not (special | {mask}) & set(ids.tolist())
        assert tokens.offsets[0, 0] == 0
        assert tokens.offsets[-1, 1] == len(text)


def test_a_tokenizer_that_takes_text_for_special_tokens_is_refused() -> None:
    whole = tokenizers.Tokenizer(models.WordPiece({"[UNK]": 0, "[CLS]": 1, "a": 2}, unk_token="[UNK]"))
    whole.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    whole.add_special_tokens(["[UNK]"])
    Tokenizer(whole)  # what is unknown may be found in a text
    whole.add_special_tokens(["[CLS]"])
    with pytest.raises(ValueError, match=r"takes '\[CLS\]' in a text for its special token"):
        Tokenizer(whole)


def test_the_id_of_what_the_vocabulary_lacks() -> None:
    for family, name in (("bert", "[UNK]"), ("albert", "<unk>")):
        tokenizer = TOKENIZERS[family]
        assert tokenizer.unknown_id == REFERENCES[family].token_to_id(name)
        (tokens,) = tokenizer(["\N{SNOWMAN}"])
        assert tokenizer.unknown_id in tokens.ids
    assert TOKENIZERS["roberta"].unknown_id is None  # it has every byte


@family
def test_no_text_is_cut_and_none_is_padded(family: str) -> None:
    configured = backend(family)
    configured.enable_truncation(4)
    configured.enable_padding(length=16)
    tokenizer = Tokenizer(configured)
    short, long = tokenizer(["fox", " ".join(LINES)])
    assert len(short) < 16
    assert len(long) > 16


@family
def test_empty_text_is_no_tokens(family: str) -> None:
    (tokens,) = TOKENIZERS[family]([""])
    assert len(tokens) == 0
    assert tokens.offsets.shape == (0, 2)
    assert TOKENIZERS[family]([]) == []


@pytest.mark.parametrize(("family", "token"), [("bert", "[PAD]"), ("albert", "<pad>"), ("roberta", "<pad>")])
def test_pad_id_is_the_vocabularys(family: str, token: str) -> None:
    assert TOKENIZERS[family].pad_id == REFERENCES[family].token_to_id(token)
    assert TOKENIZERS[family].vocabulary_size == REFERENCES[family].get_vocab_size()


def test_concurrent_use_is_safe() -> None:
    """Configuring a tokenizer that another thread is using raises "Already borrowed": it is configured once."""
    tokenizer = TOKENIZERS["bert"]
    texts = [line * (1 + i % 7) for i, line in enumerate(LINES * 4)]
    expected = [ids.tolist() for ids in tokenizer.ids(texts)]

    def work(_: int) -> bool:
        return [t.ids.tolist() for t in tokenizer(texts)] == expected == [i.tolist() for i in tokenizer.ids(texts)]

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(64), timeout=30))


def test_a_text_is_tokenised_once_however_often_it_stands_there(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = Tokenizer(backend("bert"))
    texts = [LINES[0], LINES[1], LINES[0], LINES[0]]
    alone = [tokenizer.ids([text])[0].tolist() for text in texts]
    seen: list[str] = []

    class Watching:
        def encode_batch(self, given: list[str], **options: Any) -> Any:
            seen.extend(given)
            return inner.encode_batch(given, **options)

        encode_batch_fast = encode_batch

    inner = tokenizer._backend
    monkeypatch.setattr(tokenizer, "_backend", Watching())
    assert [ids.tolist() for ids in tokenizer.ids(texts)] == alone
    assert [tokens.ids.tolist() for tokens in tokenizer(texts)] == alone
    assert seen == [LINES[0], LINES[1]] * 2


def test_from_file(tmp_path: Path) -> None:
    backend("bert").save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer.from_file(tmp_path / "tokenizer.json")
    assert tokenizer.ids(LINES)[0].tolist() == TOKENIZERS["bert"].ids(LINES)[0].tolist()
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(Exception, match=r"."):
        Tokenizer.from_file(tmp_path / "tokenizer.json")


def test_a_tokenizer_that_drops_text_is_refused() -> None:
    with pytest.raises(ValueError, match="lays out 0 texts where 1 were given"):
        Tokenizer(tokenizers.Tokenizer(models.BPE()))  # no vocabulary: "a" has no token to be seen by


@given(st.integers(0, 50), st.integers(0, 50))
@settings(deadline=None, max_examples=20)
def test_fill_keeps_texts_of_any_length(first: int, second: int) -> None:
    template = TOKENIZERS["bert"].pair
    row = template.fill(np.full(first, 7), np.full(second, 8))
    assert len(row) == first + second + template.special_tokens
    assert row.token_type_ids.sum() == second + 1


# ---- markers --------------------------------------------------------------------------------------------------------

MARKERS = ("[E1]", "[/E1]", "<a b>")
MARKED = "The [E1]quick[/E1] fox [E1] Ada [/E1], [e1] and<a b>the [E1][E1]dog."


def marked(family: str, **options: Any) -> tokenizers.Tokenizer:
    made = backend(family)
    made.add_special_tokens([tokenizers.AddedToken(marker, special=True, **options) for marker in MARKERS])
    return made


@family
@pytest.mark.parametrize("strips", [{}, {"lstrip": True}, {"rstrip": True}])
def test_markers_are_their_ids_at_their_places(family: str, strips: dict[str, bool]) -> None:
    own = marked(family, **strips)
    tokenizer = Tokenizer(marked(family, **strips), MARKERS)
    expected = own.encode(
        MARKED, add_special_tokens=False
    )  # it takes every special token for one, and there is no other
    [tokens], [ids] = tokenizer([MARKED]), tokenizer.ids([MARKED])
    assert tokens.ids.tolist() == ids.tolist() == expected.ids
    assert tokens.offsets.tolist() == [list(span) for span in expected.offsets]
    at = {marker: own.token_to_id(marker) for marker in MARKERS}
    found = list(zip(tokens.ids.tolist(), tokens.offsets.tolist(), strict=True))
    places = [[MARKED[a:b].strip() for i, (a, b) in found if i == at[marker]] for marker in MARKERS]
    assert places == [["[E1]"] * 4, ["[/E1]"] * 2, ["<a b>"]]
    assert tokenizer.markers == MARKERS
    assert [part.tolist() for part in tokenizer.pair.parts] == [part.tolist() for part in TOKENIZERS[family].pair.parts]


@family
def test_what_is_no_marker_is_plain_text(family: str) -> None:
    some, none = Tokenizer(marked(family), ["[E1]"]), Tokenizer(marked(family))
    special = {int(i) for part in some.pair.parts for i in part} | {some.pad_id}
    one, other, _ = (marked(family).token_to_id(marker) for marker in MARKERS)
    for text in ("a [SEP] b [E1]", "[CLS][E1] </s><s><pad>", "[PAD] [MASK] [E1] <mask>"):
        found = some.ids([text])[0].tolist()
        assert found.count(one) == 1
        assert not special & set(found)
        assert one not in none.ids([text])[0]
    assert other not in some.ids(["[/E1]"])[0]


def test_a_marker_that_the_tokenizer_has_not_is_refused() -> None:
    for wrong in ("[E2]", "quick"):
        with pytest.raises(ValueError, match=r"has no special token '.*', which is to be a marker"):
            Tokenizer(marked("bert"), [wrong])


@family
@given(data=st.data(), piece=st.integers(40, 90))
@settings(deadline=None, max_examples=60)
def test_markers_of_a_long_text_are_not_cut(family: str, data: st.DataObject, piece: int) -> None:
    words = st.sampled_from([*MARKERS, "fox", "Ada,", "x" * 30, " [E1] ", "<a b><a b>"])
    text = data.draw(st.sampled_from([" ", ""])).join(data.draw(st.lists(words, min_size=20, max_size=60)))
    strips = data.draw(st.sampled_from([{}, {"rstrip": True}, {"lstrip": True}]))
    whole = Tokenizer(marked(family, **strips), MARKERS)
    own = {marked(family).token_to_id(marker) for marker in MARKERS}
    [tokens] = whole([text])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("service.engine.tokenizer.PIECE", piece)
        [cut], [cut_ids] = whole([text]), whole.ids([text])
        begins = [part[:1] for part in module._pieces(text, MARKERS)][1:]

    def markers(of: Any) -> list[tuple[int, int, str]]:
        """Each marker with its place, without the spaces that it took."""
        found = zip(of.ids.tolist(), of.offsets.tolist(), strict=True)
        spans = [(i, a, text[a:b]) for i, (a, b) in found if i in own]
        return [(i, a + len(span) - len(span.lstrip()), span.strip()) for i, a, span in spans]

    assert markers(cut) == markers(tokens)
    assert cut_ids.tolist() == cut.ids.tolist()
    if set(begins) <= {" "} and not strips:  # among markers alone there may be no place but beside one
        assert cut.ids.tolist() == tokens.ids.tolist()
        assert cut.offsets.tolist() == tokens.offsets.tolist()


@family
@pytest.mark.parametrize("strips", [{}, {"lstrip": True}, {"rstrip": True}])
def test_a_long_text_is_not_cut_beside_a_marker(
    family: str, strips: dict[str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = Tokenizer(marked(family, **strips), MARKERS)
    text = " ".join([MARKED] * 30)
    [whole] = tokenizer([text])
    for piece in range(60, 90):
        monkeypatch.setattr(module, "PIECE", piece)
        [cut] = tokenizer([text])
        assert cut.ids.tolist() == whole.ids.tolist()
        if strips != {"lstrip": True}:  # a marker at the beginning of a piece may leave its space out
            assert cut.offsets.tolist() == whole.offsets.tolist()


# ---- long texts -----------------------------------------------------------------------------------------------------


@family
@given(texts=st.lists(st.sampled_from([*LINES, *HARD_TEXTS]), min_size=1, max_size=12), piece=st.integers(40, 90))
@settings(deadline=None, max_examples=60)
def test_a_long_text_in_pieces_is_the_text_as_a_whole(family: str, texts: list[str], piece: int) -> None:
    text = " ".join(text for text in texts if family != "albert" or "<pad>" not in text)
    whole, [tokens] = TOKENIZERS[family], TOKENIZERS[family]([text])
    ids = whole.ids([text])[0].tolist()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("service.engine.tokenizer.PIECE", piece)
        [cut], [cut_ids] = whole([text]), whole.ids([text])
        begins = [part[:1] for part in module._pieces(text)][1:]
    if set(begins) - {" "}:  # no space for half a piece: cut anywhere, and still the text's own places
        assert cut.offsets[-1, 1] == tokens.offsets[-1, 1]
        return
    assert cut.ids.tolist() == tokens.ids.tolist() == ids
    assert cut_ids.tolist() == ids
    assert cut.offsets.tolist() == tokens.offsets.tolist()


def test_pieces_are_the_text_and_none_is_longer() -> None:
    text = " ".join(LINES) * 2000 + "!" * 100_000
    pieces = list(module._pieces(text))
    assert "".join(pieces) == text
    assert max(map(len, pieces)) <= module.PIECE
    assert sum(piece.startswith(" ") for piece in pieces) > len(pieces) - 6


def test_long_texts_and_short_ones_keep_their_places() -> None:
    texts = ["short", "long " * 20_000, "short", "another", "long " * 20_000]
    lengths = [len(ids) for ids in TOKENIZERS["bert"].ids(texts)]
    assert lengths[0] == lengths[2] < lengths[1] == lengths[4]
    assert [len(tokens) for tokens in TOKENIZERS["bert"](texts)] == lengths
