"""Windows over documents: every token is seen, and owned by one window."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.errors import InvalidInput
from service.tasks import SpanExample
from tests.backends import LINES
from tests.spans import ALL_FAMILIES, DOCUMENT, SHAPES, TOKENIZERS, begin_of, document_tokens, encode, span_task


@ALL_FAMILIES
@given(document=DOCUMENT, shape=SHAPES, max_answer=st.integers(1, 40))
@settings(deadline=None, max_examples=40)
def test_windows_cover_every_token_and_own_each_once(
    family: str, document: str, shape: tuple[int, int], max_answer: int
) -> None:
    task = span_task(family, shape)
    example = SpanExample("fox", (document,), max_answer_tokens=max_answer)
    windows = encode(task, example)
    question, (tokens,) = TOKENIZERS[family].ids(["fox"])[0], TOKENIZERS[family]([document])
    template = TOKENIZERS[family].pair
    owners = document_tokens(windows)
    assert [w.input_ids[w.first + i] for w, i in owners] == tokens.ids.tolist()
    assert [w.offsets[i].tolist() for w, i in owners] == tokens.offsets.tolist()
    begin = 0
    for i, window in enumerate(windows):
        assert len(window) <= task.max_length
        stretch = len(window.offsets)
        expected = template.fill(question, tokens.ids[begin : begin + stretch])
        assert window.input_ids.tolist() == expected.input_ids.tolist()
        assert window.token_type_ids.tolist() == expected.token_type_ids.tolist()
        assert 0 <= window.owned[0] < window.owned[1] <= stretch
        assert stretch == len(windows[0].offsets)  # equal lengths: a batch of them needs no padding
        if i + 1 < len(windows):
            following = begin_of(tokens.offsets, owners, windows[i + 1])
            assert begin < following
            overlap = begin + stretch - following
            assert overlap >= task.doc_stride
            # Every answer no longer than the overlap lies whole in the window that owns its first token.
            assert window.owned[1] - 1 + min(max_answer, overlap) <= stretch
            begin = following
    assert begin + len(windows[-1].offsets) == len(tokens)


def test_a_short_document_is_one_window() -> None:
    windows = span_task().encode([SpanExample("fox", ("the dog",))])[0]
    assert len(windows) == 1
    assert windows[0].owned == (0, len(windows[0].offsets))


def test_several_examples_and_documents_keep_their_order() -> None:
    task = span_task()
    examples = [
        SpanExample("fox", (LINES[0], "", LINES[1])),
        SpanExample("Grace Hopper", (" ".join(LINES),)),
        SpanExample("dog", ("dog",)),
    ]
    together = task.encode(examples)
    assert [w.document for w in together[0]] == sorted(w.document for w in together[0])
    assert {w.document for w in together[0]} == {0, 2}  # an empty document makes no window and keeps its index
    for example, windows in zip(examples, together, strict=True):
        alone = task.encode([example])[0]
        assert [w.input_ids.tolist() for w in windows] == [w.input_ids.tolist() for w in alone]


@pytest.mark.parametrize("question", ["", "  \n", "fox " * 100])
def test_a_question_of_no_or_too_many_tokens_is_refused(question: str) -> None:
    with pytest.raises(InvalidInput, match="tokens long; 1 to 13 are possible") as error:
        span_task().encode([SpanExample(question, ("dog",))])
    assert error.value.field == "question"


@pytest.mark.parametrize("documents", [("",), ("  ", "\n"), ("\u0000",), ()])
def test_documents_without_a_token_are_refused(documents: tuple[str, ...]) -> None:
    with pytest.raises(InvalidInput) as error:
        span_task().encode([SpanExample("fox", documents)])
    assert error.value.field == "context"


@pytest.mark.parametrize("doc_stride", [0, 1, 14])
def test_the_longest_question_leaves_room_to_advance(doc_stride: int) -> None:
    task = span_task("bert", (32, doc_stride))
    assert task.max_question_tokens + max(1, 2 * doc_stride) + 3 == 32
    question = "? " * task.max_question_tokens
    windows = task.encode([SpanExample(question, (" ".join(LINES),))])[0]
    assert all(len(window) <= 32 for window in windows)
    assert len(document_tokens(windows)) == len(TOKENIZERS["bert"]([" ".join(LINES)])[0])


def test_a_stride_without_room_is_refused() -> None:
    with pytest.raises(ValueError, match="leaves no room"):
        span_task("bert", (32, 15))
