"""Spans and their scores, held to a decoder that looks at every span with plain loops."""

import math
import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from service.tasks import RowLogits, SpanExample, Window
from service.tasks.words import trim
from tests.backends import HARD_TEXTS, LINES
from tests.spans import (
    ALL_FAMILIES,
    DOCUMENT,
    SHAPES,
    TOKENIZERS,
    begin_of,
    document_tokens,
    encode,
    random_logits,
    span_task,
)

Places = dict[tuple[int, int, int], float]


def shown(document: str, window: Window) -> tuple[int, int]:
    """The code points of a document that a window shows."""
    return trim(document, int(window.offsets[0, 0]), int(window.offsets[-1, 1]))


def every_span(example: SpanExample, windows: list[Window], logits: list[RowLogits]) -> tuple[Places, float, float]:
    """The best logit of every place in the documents, log sum exp of all spans, and the null logit; with loops."""
    places: Places = {}
    every = []
    for window, (start, end) in zip(windows, logits, strict=True):
        for begin in range(*window.owned):
            for last in range(begin, min(begin + example.max_answer_tokens, len(window.offsets))):
                logit = float(start[window.first + begin]) + float(end[window.first + last])
                every.append(logit)
                text = example.documents[window.document]
                s, e = trim(text, int(window.offsets[begin][0]), int(window.offsets[last][1]))
                if s < e:
                    place = (window.document, s, e)
                    places[place] = max(logit, places.get(place, -math.inf))
    top = max(every)
    total = top + math.log(sum(math.exp(logit - top) for logit in every))
    return places, total, min(float(start[0]) + float(end[0]) for start, end in logits)


# ---- decoding -------------------------------------------------------------------------------------------------------


@ALL_FAMILIES
@given(
    documents=st.lists(DOCUMENT, min_size=1, max_size=3).map(tuple),
    shape=SHAPES,
    top_k=st.sampled_from([1, 2, 5, 50]),
    max_answer=st.integers(1, 12),
    no_answer=st.booleans(),
    threshold=st.sampled_from([-3.0, 0.0, 3.0]),
    seed=st.integers(0, 2**32 - 1),
    scale=st.sampled_from([0.0, 1.0, 8.0]),
    temperature=st.sampled_from([1.0, 1.0, 0.5, 2.5]),
)
@settings(deadline=None, max_examples=40)
def test_decode_equals_looking_at_every_span(
    family: str,
    documents: tuple[str, ...],
    shape: tuple[int, int],
    top_k: int,
    max_answer: int,
    no_answer: bool,
    threshold: float,
    seed: int,
    scale: float,
    temperature: float,
) -> None:
    task = span_task(family, shape, no_answer_threshold=threshold).with_temperature(temperature)
    example = SpanExample("fox", documents, top_k, max_answer, no_answer)
    windows = encode(task, example)
    logits = random_logits(windows, seed, scale, padding=3)
    cooled = [(start.astype(np.float64) / temperature, end.astype(np.float64) / temperature) for start, end in logits]
    places, total, null = every_span(example, windows, cooled)
    prediction = task.decode(example, windows, logits)
    answers = prediction.answers

    assert len(answers) == min(top_k, len(places))
    found = [(a.document, a.start, a.end) for a in answers]
    assert len(set(found)) == len(found)
    # Spans of equal logits may come in any order: the scores must be those of the best places, and each its place's.
    everything = float(np.logaddexp(total, null))
    log_total = everything if no_answer else total
    best = sorted(places.values(), reverse=True)[:top_k]
    assert [a.score for a in answers] == pytest.approx([math.exp(logit - log_total) for logit in best])
    for answer, place in zip(answers, found, strict=True):
        assert answer.score == pytest.approx(math.exp(places[place] - log_total))
        assert documents[answer.document][answer.start : answer.end] == answer.text
        assert answer.text == answer.text.strip() != ""
        stretches = [(w.document, *shown(documents[w.document], w)) for w in windows]
        assert (answer.document, answer.window.start, answer.window.end) in stretches
        assert answer.window.start <= answer.start < answer.end <= answer.window.end
    assert list(answers) == sorted(answers, key=lambda a: -a.score)
    assert sum(a.score for a in answers) + no_answer * prediction.no_answer_score <= 1 + 1e-9
    assert prediction.no_answer_score == pytest.approx(math.exp(null - everything))
    assert prediction.windows == len(windows)
    if not answers:
        assert prediction.answer is None
    elif no_answer:
        margin = temperature * (null - best[0])  # the threshold is on logits as they come
        assert prediction.no_answer_margin == pytest.approx(margin)
        if abs(margin - threshold) > 1e-6:
            assert (prediction.answer is None) == (margin > threshold)
    else:
        assert prediction.answer == answers[0]


@ALL_FAMILIES
@given(document=DOCUMENT, shape=SHAPES, data=st.data())
@settings(deadline=None, max_examples=40)
def test_a_spiked_span_is_found_wherever_windows_fall(
    family: str, document: str, shape: tuple[int, int], data: st.DataObject
) -> None:
    task = span_task(family, shape)
    longest = max(1, task.doc_stride)
    example = SpanExample("fox", (document,), max_answer_tokens=longest)
    windows = encode(task, example)
    (tokens,) = TOKENIZERS[family]([document])
    begin = data.draw(st.integers(0, len(tokens) - 1))
    last = data.draw(st.integers(begin, min(begin + longest, len(tokens)) - 1))
    start, end = trim(document, int(tokens.offsets[begin, 0]), int(tokens.offsets[last, 1]))
    assume(start < end)
    owners = document_tokens(windows)
    logits = [(np.zeros(len(w), np.float32), np.zeros(len(w), np.float32)) for w in windows]
    for window, (starts, ends) in zip(windows, logits, strict=True):
        first = begin_of(tokens.offsets, owners, window)
        for index, array in ((begin, starts), (last, ends)):
            if 0 <= index - first < len(window.offsets):
                array[window.first + index - first] = 30.0
    answer = task.decode(example, windows, logits).answer
    assert answer is not None
    assert (answer.start, answer.end, answer.text) == (start, end, document[start:end])
    owner, _ = owners[begin]
    assert (answer.window.start, answer.window.end) == shown(document, owner)
    assert answer.score > 0.99 or len(tokens) > 1  # several tokens may share the spikes' offsets


@ALL_FAMILIES
@pytest.mark.parametrize(
    ("document", "wanted"),
    [
        ("Ada likes 💜 and Grace 💛 best", "💛"),
        ("the 👩‍👩‍👧‍👦 family lives in 東京", "東京"),
        ("first cafe\u0301, then the cafe\u0301s", "cafe\u0301"),
        ("the word \u1112\u1161\u11ab\u1100\u1173\u11af is Korean", "\u1112\u1161\u11ab\u1100\u1173\u11af"),
        ("he said שלום to all", "שלום"),
        ("they met in Zürich, then in Ångström", "Zürich"),
        ("東京は日本の首都です", "東京"),
        ("हिन्दी में नमस्ते", "हिन्दी"),
    ],
)
def test_known_answers_in_many_scripts(family: str, document: str, wanted: str) -> None:
    task = span_task(family, (64, 16))
    example = SpanExample("fox", (document,))
    (window,) = task.encode([example])[0]
    begins = document.index(wanted)
    ends = begins + len(wanted)
    inside = [
        i for i, (s, e) in enumerate(window.offsets.tolist()) if s < ends and e > begins and document[s:e].strip()
    ]
    start, end = np.zeros(len(window), np.float32), np.zeros(len(window), np.float32)
    start[window.first + inside[0]] = end[window.first + inside[-1]] = 30
    answer = task.decode(example, [window], [(start, end)]).answer
    assert answer is not None
    assert document[answer.start : answer.end] == answer.text
    assert wanted in answer.text
    if wanted in document.replace(",", "").split():  # a word, so no token reaches over its ends
        assert answer.text == wanted


def test_marks_belong_to_the_letter_before() -> None:
    text = "cafe\u0301s"
    assert trim(text, 0, 4) == (0, 5)
    assert trim(text, 4, 4) == (4, 4)
    assert trim("  a  ", 0, 5) == (2, 3)
    assert trim(" \n ", 0, 3)[0] == trim(" \n ", 0, 3)[1]


def test_an_answer_is_no_longer_than_asked() -> None:
    task = span_task("bert", (64, 8))
    document = "the fox and the dog"
    for longest in (1, 2, 5):
        example = SpanExample("fox", (document,), top_k=100, max_answer_tokens=longest)
        (window,) = task.encode([example])[0]
        answers = task.decode(example, [window], random_logits([window], 1)).answers
        assert len(answers) == sum(5 - n + 1 for n in range(1, longest + 1))
        assert max(len(a.text.split()) for a in answers) == longest


def test_repeated_text_at_other_places_is_another_answer() -> None:
    task = span_task("bert", (64, 8))
    example = SpanExample("fox", ("dog dog dog",), top_k=3, max_answer_tokens=1)
    (window,) = task.encode([example])[0]
    answers = task.decode(example, [window], random_logits([window], 2)).answers
    assert [a.text for a in answers] == ["dog"] * 3
    assert {a.start for a in answers} == {0, 4, 8}


def test_pieces_of_one_character_crowd_out_nothing() -> None:
    """Byte-level tokens of one emoji all have its offsets: its spans fill a window's list, and are one answer."""
    task = span_task("roberta", (64, 8))
    example = SpanExample("fox", ("💜💛 dog",), top_k=2, max_answer_tokens=8)
    (window,) = task.encode([example])[0]
    pieces = [i for i, (s, e) in enumerate(window.offsets.tolist()) if s < 2 and e <= 2]
    assert len(pieces) == 8
    start, end = np.zeros(len(window), np.float32), np.zeros(len(window), np.float32)
    for i in pieces[:4]:
        start[window.first + i], end[window.first + i] = 20, 20
    # every span inside the first heart: 10 of them; then those that begin in it
    prediction = task.decode(example, [window], [(start, end)])
    places, *_ = every_span(example, [window], [(start, end)])
    assert prediction.answers[0].text == "💜"
    assert len(prediction.answers) == 2
    ranked = sorted(places.values(), reverse=True)
    assert prediction.answers[1].score / prediction.answers[0].score == pytest.approx(math.exp(ranked[1] - ranked[0]))


def test_a_crowded_window_keeps_its_second_answer() -> None:
    """One window's first candidates are one and the same text; its next still beats the other window's best."""
    task = span_task("roberta", (128, 8))
    accents = "e" + "\u0301" * 20  # every span that begins at the e ends, for a reader, behind the last accent
    example = SpanExample("fox", (accents + " dog", "the bug"), top_k=2, max_answer_tokens=16)
    windows = task.encode([example])[0]
    random = np.random.default_rng(5)
    logits = [tuple(random.random(len(w)).astype(np.float32) for _ in range(2)) for w in windows]
    first = windows[0].first
    logits[0][0][first : first + 2] = 20, 15
    answers = task.decode(example, windows, logits).answers
    assert [(a.document, a.start) for a in answers] == [(0, 0), (0, 1)]
    places, *_ = every_span(example, windows, logits)
    assert [(a.document, a.start, a.end) for a in answers] == sorted(places, key=lambda p: -places[p])[:2]


def test_only_blank_tokens_are_no_answer() -> None:
    task = span_task("roberta")
    example = SpanExample("fox", (" \n ",), top_k=3)
    windows = task.encode([example])[0]
    prediction = task.decode(example, windows, random_logits(windows, 0))
    assert prediction.answers == ()
    assert prediction.answer is None


def test_documents_are_comparable() -> None:
    """The same text with the same logits scores the same in any document, and a better one wins from wherever it is."""
    task = span_task()
    example = SpanExample("fox", ("the dog", "the bug", "the dog"), top_k=100)
    windows = task.encode([example])[0]
    logits = random_logits(windows, 3)
    logits[2] = logits[0]
    logits[1] = tuple(array + 10 for array in logits[0])
    prediction = task.decode(example, windows, logits)
    assert prediction.answer is not None
    assert prediction.answer.document == 1
    by_place = {(a.document, a.start, a.end): a.score for a in prediction.answers}
    for (document, start, end), score in by_place.items():
        if document == 0:
            assert by_place[2, start, end] == score
            assert by_place[1, start, end] / score == pytest.approx(math.exp(20), rel=1e-3)
    assert sum(by_place.values()) == pytest.approx(1.0)


# ---- no answer ------------------------------------------------------------------------------------------------------


def null_and_best(windows: list[Window], nulls: list[float], best: float) -> list[RowLogits]:
    logits = []
    for i, window in enumerate(windows):
        start, end = np.full(len(window), -20, np.float32), np.full(len(window), -20, np.float32)
        start[0] = nulls[i]
        end[0] = 0
        if i == 0:
            start[window.first], end[window.first] = best, 0
        logits.append((start, end))
    return logits


def test_no_answer_needs_every_window_to_say_so() -> None:
    task = span_task(no_answer=True)
    example = SpanExample("fox", ("the dog", "the bug"))
    windows = task.encode([example])[0]
    assert task.decode(example, windows, null_and_best(windows, [9, 8], 5)).answer is None
    prediction = task.decode(example, windows, null_and_best(windows, [9, 1], 5))
    assert prediction.answer is not None
    assert prediction.no_answer_margin == pytest.approx(1 - 5)


@pytest.mark.parametrize(("threshold", "abstains"), [(2.9, True), (3.1, False), (-1.0, True)])
def test_no_answer_uses_the_fitted_threshold(threshold: float, abstains: bool) -> None:
    task = span_task().with_no_answer(threshold)
    example = SpanExample("fox", ("the dog",))
    windows = task.encode([example])[0]
    logits = null_and_best(windows, [8], 5)  # a margin of 3
    prediction = task.decode(example, windows, logits)
    assert (prediction.answer is None) == abstains
    assert prediction.answers  # what it would have been is still told
    assert prediction.no_answer_score == pytest.approx(1 / (1 + math.exp(-3)), rel=1e-3)
    assert task.decode(replace(example, no_answer=False), windows, logits).answer is not None


def test_a_request_may_ask_for_no_answer() -> None:
    task = span_task()
    example = SpanExample("fox", ("the dog",))
    windows = task.encode([example])[0]
    logits = null_and_best(windows, [8], 5)
    assert task.decode(example, windows, logits).answer is not None
    assert task.decode(replace(example, no_answer=True), windows, logits).answer is None


# ---- extremes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("values", [(-100, 1), (-1e4, 1e4), (1e4, 1e4), (-1e4, -1e4), (3e38, -3e38)])
@pytest.mark.parametrize("no_answer", [False, True])
def test_probabilities_are_finite(values: tuple[float, float], no_answer: bool) -> None:
    task = span_task()
    example = SpanExample("fox", (" ".join(LINES),), top_k=5, no_answer=no_answer)
    windows = task.encode([example])[0]
    logits = [tuple(np.resize(np.array(values, np.float32), len(w)) for _ in range(2)) for w in windows]
    prediction = task.decode(example, windows, logits)
    assert len(prediction.answers) == 5
    assert all(0 <= a.score <= 1 for a in prediction.answers)
    assert 0 <= prediction.no_answer_score <= 1


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_logits_that_are_no_numbers_end(value: float) -> None:
    """A broken graph must not hang the service."""
    task = span_task()
    example = SpanExample("fox", (" ".join(LINES),), top_k=5)
    windows = task.encode([example])[0]
    with np.errstate(all="ignore"):
        task.decode(example, windows, [(np.full(len(w), value, np.float32),) * 2 for w in windows])


def test_a_context_of_200_000_words_takes_seconds() -> None:
    task = span_task("bert", (384, 128))
    words = (" ".join(LINES).split() * 5000)[:200_000]
    document = " ".join(words)
    example = SpanExample("Who wrote the first program?", (document,), top_k=5)
    began = time.perf_counter()
    windows = task.encode([example])[0]
    target = len(windows) // 2
    logits = [(np.zeros(len(w), np.float32), np.zeros(len(w), np.float32)) for w in windows]
    window = windows[target]
    at = window.first + window.owned[0] + 3
    logits[target][0][at] = logits[target][1][at] = 50
    answer = task.decode(example, windows, logits).answer
    seconds = time.perf_counter() - began
    assert answer is not None
    assert (answer.start, answer.end) == tuple(window.offsets[window.owned[0] + 3].tolist())
    assert seconds < 30  # about 2 on an idle core


def test_windows_of_whole_text_give_hard_texts_back() -> None:
    for family in TOKENIZERS:
        task = span_task(family, (64, 16))
        for text in HARD_TEXTS:
            example = SpanExample("fox", (text,), top_k=10)
            windows = task.encode([example])[0]
            for answer in task.decode(example, windows, random_logits(windows, 4)).answers:
                assert text[answer.start : answer.end] == answer.text
