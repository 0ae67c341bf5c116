"""Bundles called in this process: the forms of calls and answers, and that the answers are the service's own."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

import service
from service import inprocess
from service.engine.tokenizer import Tokenizer
from service.errors import BertieError, BundleError, InferenceError, InvalidInput
from service.inprocess import PIPELINES, Pipeline, load, spans
from service.repository import loading
from service.tasks import TASKS, SpanExample, SpanTask, whole_words
from tests.backends import LINES, backend
from tests.engines import FakeEngine

FRANCE = {"question": "What is the capital of France?", "context": "The capital of France is Paris, not Berlin."}
CODE = {"question": "Who wrote code?", "context": "Grace Hopper wrote code."}


@pytest.fixture(scope="module")
def qa(models_dir: Path) -> Pipeline:
    return load(models_dir / "qa", threads=2)


@pytest.fixture(scope="module")
def sentiment(models_dir: Path) -> Pipeline:
    return load(models_dir / "sentiment", threads=2)


@pytest.fixture(scope="module")
def nli(models_dir: Path) -> Pipeline:
    return load(models_dir / "nli", threads=2)


@pytest.fixture
def choice(bundle_factory: Callable[..., Path]) -> Pipeline:
    return load(bundle_factory("choice"), threads=2)


# ---- questions ------------------------------------------------------------------------------------------------------


def test_a_question_gets_a_dict(qa: Pipeline) -> None:
    answer = qa(**FRANCE)
    assert list(answer) == ["score", "start", "end", "answer"]
    assert answer["answer"] == "Paris" == FRANCE["context"][answer["start"] : answer["end"]]
    assert 0 < answer["score"] <= 1


def test_the_door_of_the_package_is_the_same(models_dir: Path, qa: Pipeline) -> None:
    assert service.load(models_dir / "qa", device="cpu", threads=1)(**FRANCE) == pytest.approx(qa(**FRANCE))


def test_a_list_in_is_a_list_out(qa: Pipeline) -> None:
    both = [qa(**FRANCE), qa(**CODE)]
    assert [each["answer"] for each in both] == ["Paris", "Grace Hopper"]
    assert qa([FRANCE, CODE]) == both
    assert qa([FRANCE]) == both[:1]
    assert qa([]) == []
    assert qa(each for each in (FRANCE, CODE)) == both
    assert qa(FRANCE) == both[0]
    assert qa(*FRANCE.values()) == both[0]
    names = ("question", "context")
    assert qa(**{name: [FRANCE[name], CODE[name]] for name in names}) == both
    assert [each["answer"] for each in qa(question=["Who?", FRANCE["question"]], context=FRANCE["context"])]


def test_squads_records_and_examples_are_inputs(qa: Pipeline) -> None:
    record = FRANCE | {"id": "1", "title": "France", "answers": {"text": ["Paris"], "answer_start": [25]}}
    example = SimpleNamespace(question_text=FRANCE["question"], context_text=FRANCE["context"])
    assert qa(record) == qa(example) == qa(**FRANCE)
    assert qa([record, example]) == [qa(**FRANCE)] * 2


def test_top_k_is_a_list_without_duplicates(qa: Pipeline) -> None:
    answers = qa(**FRANCE, top_k=3)
    assert len(answers) == 3
    assert answers[0] == qa(**FRANCE)
    assert len({each["answer"].lower() for each in answers}) == 3
    assert [each["score"] for each in answers] == sorted((each["score"] for each in answers), reverse=True)
    assert qa([FRANCE], top_k=3) == [answers]
    assert len(qa(question="Who?", context="Ada.", top_k=50)) < 50


def test_the_same_text_at_two_places_is_one_answer(qa: Pipeline) -> None:
    twice = {"question": FRANCE["question"], "context": "The capital of France is Paris. Yes, PARIS is the capital."}
    (best, *others) = qa(**twice, top_k=5)
    assert best["answer"] in ("Paris", "PARIS")
    assert not [each for each in others if each["answer"].lower() == "paris"]
    assert best["score"] > max(each["score"] for each in qa(**FRANCE, top_k=5)[1:])


def test_no_answer_is_asked_for(qa: Pipeline) -> None:
    nothing = {"question": FRANCE["question"], "context": "Nobody knows it."}
    assert qa(**nothing)["answer"] != ""
    found = qa(**nothing, handle_impossible_answer=True)
    assert (found["answer"], found["start"], found["end"]) == ("", 0, 0)
    assert 0.3 < found["score"] <= 1
    assert qa(**FRANCE, handle_impossible_answer=True)["answer"] == "Paris"
    listed = qa(**FRANCE, handle_impossible_answer=True, top_k=50)
    assert listed[0]["answer"] == "Paris"
    assert [each["answer"] for each in listed].count("") == 1
    assert [each["score"] for each in listed] == sorted((each["score"] for each in listed), reverse=True)


def test_the_bundles_own_default_of_no_answer_does_not_count(bundle_factory: Callable[..., Path]) -> None:
    pipeline = load(bundle_factory("qa", no_answer=True, no_answer_threshold=-100.0), threads=1)
    assert pipeline(**FRANCE)["answer"] == "Paris"
    assert pipeline(**FRANCE, handle_impossible_answer=True)["answer"] == ""


def test_answers_are_as_long_as_is_asked(qa: Pipeline) -> None:
    assert qa(**CODE)["answer"] == "Grace Hopper"
    assert " " not in qa(**CODE, max_answer_len=1)["answer"]


def test_windows_are_as_long_as_is_asked(qa: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    encode = SpanTask.encode
    monkeypatch.setattr(SpanTask, "encode", lambda task, examples: seen.append(encode(task, examples)) or seen[-1])
    long = {"question": FRANCE["question"], "context": "nothing here . " * 60 + FRANCE["context"]}
    for options in ({}, {"max_seq_len": 32}, {"max_seq_len": 32, "doc_stride": 4}, {"doc_stride": 4}):
        assert qa(**long, **options)["answer"] == "Paris"
    own, short, steps, wide = ([len(window) for window in rows[0]] for rows in seen)
    assert max(own) <= 64
    assert max(short) <= 32
    assert len(own) < len(short)
    assert len(steps) < len(short)
    assert len(wide) < len(own)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"top_k": 0}, "top_k must be 1 or more"),
        ({"max_answer_len": 0}, "max_answer_len must be 1 or more"),
        ({"max_seq_len": 384}, "max_seq_len: rows have at most 64 tokens"),
        ({"max_seq_len": 16, "doc_stride": 8}, "leaves no room"),
        ({"doc_stride": -1}, "doc_stride: a doc_stride of -1 is no overlap"),
        ({"question": " "}, "'question': is blank"),
        ({"question": 7}, "a dict"),
        ({"question": None}, "a dict"),
        ({"context": ["a", "b"]}, "one question has one context"),
        ({"question": ["a", "b"], "context": ["c"]}, "2 questions and 1 contexts"),
        ({"question": "who " * 100}, "the question is 100 tokens long"),
        ({"question": {"question": "a", "context": ["b"]}}, "one question has one context"),
        ({"question": {"question": "a", "context": "b", "top_k": 2}}, "'top_k' is not known here"),
        ({"question": {"question": "a"}}, "'context' is missing: model 'qa' takes a question and a context"),
        ({"question": {"question": "a", "kontext": "b", "context": "c"}}, "'kontext' is not known here"),
    ],
)
def test_what_cannot_be_asked_is_named(qa: Pipeline, options: dict[str, Any], match: str) -> None:
    whole = {**FRANCE, **options}
    if not isinstance(whole["question"], str | list):
        del whole["context"]
    with pytest.raises(InvalidInput, match=match):
        qa(**whole)


def test_the_place_of_a_bad_input_is_told(qa: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inprocess, "EXAMPLES", 2)
    for bad, field in (({"question": " "}, "question"), ({"question": "who " * 100}, "question")):
        with pytest.raises(InvalidInput, match=r"^inputs\.3: ") as error:
            qa([CODE, CODE, CODE, CODE | bad])
        assert error.value.field == f"inputs.3.{field}"
    with pytest.raises(TypeError, match="topk"):
        qa(**FRANCE, topk=3)


def test_arguments_without_meaning_change_nothing(qa: Pipeline) -> None:
    assert qa(**FRANCE, padding="max_length", max_question_len=64, batch_size=8, num_workers=2) == qa(**FRANCE)


@pytest.mark.parametrize(
    ("text", "span", "whole"),
    [
        ("the quickest dog", "ck", "quickest"),
        ("in 1990s.", "1990", "1990s"),
        ("a well-known man", "know", "known"),
        ("in Zürich, then", "ich", "Zürich"),
        ("of 東京都.", "京", "京"),
        ("he said שלום to", "לו", "שלום"),
        ("$5km", "5", "5km"),
        ("a b", "a", "a"),
    ],
)
def test_words_are_whole(text: str, span: str, whole: str) -> None:
    at = text.index(span)
    start, end = whole_words(text, at, at + len(span))
    assert text[start:end] == whole


def of_the_pipeline(
    encoding: tokenizers.Encoding, document: str, start: Any, end: Any, top_k: int, longest: int, align: bool
) -> list[dict[str, Any]]:
    """What transformers' pipeline made of a window's logits, in a few lines of its own algorithm (5.2.0)."""
    inside = np.array([part == 1 for part in encoding.sequence_ids])
    probabilities = [
        np.where(inside, np.exp(logits - logits[inside].max()), 0.0) for logits in map(np.float64, (start, end))
    ]
    products = np.outer(*(each / each.sum() for each in probabilities))
    flat = np.tril(np.triu(products), longest - 1).ravel()
    answers: list[dict[str, Any]] = []
    for i in np.argsort(-flat)[: 2 * top_k + 10 if align else top_k]:
        if not flat[i]:
            continue
        s, e = (int(each) for each in divmod(i, len(encoding)))
        begins, ends = encoding.offsets[s][0], encoding.offsets[e][1]
        if align:
            begins = encoding.word_to_chars(encoding.token_to_word(s), 1)[0]
            ends = encoding.word_to_chars(encoding.token_to_word(e), 1)[1]
        text = document[begins:ends]
        same = [each for each in answers if each["answer"].lower() == text.lower()]
        if same:
            same[0]["score"] += flat[i]
        else:
            answers.append({"score": flat[i], "start": begins, "end": ends, "answer": text})
    return sorted(answers, key=lambda each: -each["score"])[:top_k]


@given(
    words=st.lists(st.sampled_from(" ".join(LINES).split()), min_size=1, max_size=20),
    seed=st.integers(0, 2**32 - 1),
    scale=st.sampled_from([0.5, 2.0, 6.0]),
    longest=st.integers(1, 15),
    top_k=st.sampled_from([1, 3]),
    align=st.booleans(),
)
@settings(deadline=None, max_examples=150)
def test_answers_are_those_of_the_removed_pipeline(
    words: list[str], seed: int, scale: float, longest: int, top_k: int, align: bool
) -> None:
    document = " ".join(words)
    task = SpanTask(Tokenizer(backend("bert")), max_length=384, doc_stride=128)
    count = 2 * top_k + 10 if align else top_k
    example = SpanExample("fox", (document,), count, longest, no_answer=False)
    (window,) = task.encode([example])[0]
    random = np.random.default_rng(seed)
    start, end = (random.normal(scale=scale, size=len(window)).astype(np.float32) for _ in range(2))
    found = spans(task.decode(example, [window], [(start, end)]), document, False, align)[:top_k]
    wanted = of_the_pipeline(backend("bert").encode("fox", document), document, start, end, top_k, longest, align)
    assert [each["answer"].lower() for each in found] == [each["answer"].lower() for each in wanted]
    ratio = found[0]["score"] / wanted[0]["score"]
    assert [each["score"] for each in found] == pytest.approx([ratio * each["score"] for each in wanted], rel=1e-4)


# ---- texts ----------------------------------------------------------------------------------------------------------


def test_texts_get_their_labels(sentiment: Pipeline) -> None:
    (good,) = sentiment("a good film")
    assert (good["label"], list(good)) == ("positive", ["label", "score"])
    (bad,) = sentiment("a bad film")
    assert sentiment(["a good film", "a bad film"]) == [good, bad]
    assert sentiment({"text": "a good film"}) == good
    assert sentiment("a good film", top_k=1) == [good]
    every = sentiment("a good film", top_k=None)
    assert [each["label"] for each in every] == ["positive", "negative"]
    assert sum(each["score"] for each in every) == pytest.approx(1)
    assert sentiment(["a good film"], top_k=2) == [every]


def test_pairs_get_their_labels(nli: Pipeline) -> None:
    pair = {"text": "a man is sleeping", "text_pair": "a man is not sleeping"}
    assert nli(pair)["label"] == "contradiction"
    assert nli([pair, {"premise": "a man is sleeping", "hypothesis": "a man sleeping"}], top_k=1) == [
        [nli(pair)],
        [nli({"text": "a man is sleeping", "text_pair": "a man sleeping"})],
    ]
    assert len(nli(pair, top_k=None)) == 3


def test_zero_shot_through_an_nli_model(nli: Pipeline) -> None:
    text = "the team won the soccer game"
    found = nli(text, candidate_labels=["politics", "soccer", "film"])
    assert list(found) == ["sequence", "labels", "scores"]
    assert (found["sequence"], found["labels"][0], sorted(found["labels"])) == (
        text, "soccer", ["film", "politics", "soccer"],
    )  # fmt: skip
    assert found["scores"] == sorted(found["scores"], reverse=True)
    assert sum(found["scores"]) == pytest.approx(1)
    assert nli(text, "politics, soccer , film") == found
    assert nli([text, "a film"], "politics, soccer, film")[0] == found
    each = nli([text], ["soccer", "game"], multi_label=True, hypothesis_template="it is about {}.")
    assert sum(each[0]["scores"]) > 1


@pytest.mark.parametrize(
    ("inputs", "options", "match"),
    [
        ("text", {}, "this is no input of it: model 'nli' takes a premise and a hypothesis"),
        ("text", {"candidate_labels": []}, "candidate_labels"),
        ("text", {"candidate_labels": ["a", "a"]}, "must be distinct"),
        ("text", {"candidate_labels": ["a"], "hypothesis_template": "none"}, "must hold {} exactly once"),
        ("text", {"candidate_labels": ["a"], "top_k": 1}, "top_k"),
        ("text", {"multi_label": True}, "multi_label goes with candidate_labels"),
        ("text", {"function_to_apply": "sigmoid"}, "function_to_apply"),
        ({"text": "a", "text_pair": "b"}, {"top_k": 0}, "top_k must be 1 or more"),
        ([["a", "b"]], {}, "'text': Input should be a valid string"),
        ({"text": "a man " * 60, "text_pair": "b"}, {}, "longer than the model's 64 tokens; truncation=True"),
        ([{"text": text, "text_pair": "b"} for text in ("a", "a " * 70)], {}, r"^inputs\.1: the text is longer"),
    ],
)
def test_what_cannot_be_classified_is_named(nli: Pipeline, inputs: Any, options: dict[str, Any], match: str) -> None:
    with pytest.raises(InvalidInput, match=match):
        nli(inputs, **options)


def test_a_model_says_what_it_takes(sentiment: Pipeline) -> None:
    with pytest.raises(InvalidInput, match="'candidate_labels' is not known here: model 'sentiment' takes a text"):
        sentiment("a film", candidate_labels=["a", "b"])


@pytest.mark.parametrize("truncation", [True, "longest_first", "only_first"])
def test_a_long_text_is_cut_where_that_is_asked_for(sentiment: Pipeline, truncation: object) -> None:
    assert sentiment("good " * 100, truncation=truncation)[0]["label"] == "positive"
    with pytest.raises(InvalidInput, match="longer than"):
        sentiment("good " * 100, truncation="do_not_truncate")


def test_labels_that_do_not_exclude_one_another(bundle_factory: Callable[..., Path]) -> None:
    pipeline = load(bundle_factory("sentiment", multi_label=True), threads=1)
    both = pipeline("a film", top_k=None)
    assert [each["score"] for each in both] == [pytest.approx(0.5)] * 2


# ---- options --------------------------------------------------------------------------------------------------------


def test_a_question_with_options(choice: Pipeline) -> None:
    asked = {"question": "Who wrote the code?", "context": "Ruth lives in Paris. Ada wrote the code."}
    best = choice(**asked, options=["dogs", "Ada wrote"])
    assert (best["option"], best["answer"], list(best)) == (1, "Ada wrote", ["score", "option", "answer"])
    both = choice(asked | {"options": ("dogs", "Ada wrote")}, top_k=2)
    assert both[0] == best
    assert sum(each["score"] for each in both) == pytest.approx(1)
    assert choice([asked | {"options": ["dogs", "Ada wrote"]}] * 2) == [best] * 2
    with pytest.raises(InvalidInput, match="options"):
        choice(**asked, options=["one"])
    with pytest.raises(InvalidInput, match="top_k"):
        choice(**asked, options=["dogs", "Ada wrote"], top_k=0)
    long = asked | {"context": "Ada wrote the code. " * 50}
    with pytest.raises(InvalidInput, match="longer than the model's"):
        choice(**long, options=["dogs", "Ada wrote"])
    assert choice(**long, options=["dogs", "Ada wrote"], truncation=True)["option"] == 1


# ---- how it runs ----------------------------------------------------------------------------------------------------


# ---- scores ---------------------------------------------------------------------------------------------------------


DOG, CAT = {"text": "a dog", "text_pair": "the dog"}, {"text": "a dog", "text_pair": "the cat"}
YES, NO = 1 / (1 + math.exp(-4)), 1 / (1 + math.exp(4))


@pytest.fixture
def rerank(bundle_factory: Callable[..., Path]) -> Any:
    return load(bundle_factory("rerank", labels=("relevant",)), threads=2)


def test_a_score_is_a_label_and_a_number(rerank: Any) -> None:
    yes, no = ({"label": "relevant", "score": pytest.approx(score)} for score in (YES, NO))
    assert rerank(DOG) == yes
    assert rerank([DOG, CAT]) == [yes, no]
    assert rerank("a dog") == [no]
    assert rerank(DOG, top_k=1) == [yes]
    assert rerank([DOG, CAT], top_k=None) == [[yes], [no]]
    assert rerank([]) == []


def test_the_function_of_a_score_is_chosen(rerank: Any, bundle_factory: Callable[..., Path]) -> None:
    assert rerank(DOG, function_to_apply="none")["score"] == pytest.approx(4.0)
    assert rerank(DOG, function_to_apply="sigmoid") == rerank(DOG)
    raw: Any = load(bundle_factory("rerank", name="raw", activation="identity"), threads=1)
    assert raw(DOG) == {"label": "LABEL_0", "score": pytest.approx(4.0)}
    with pytest.raises(InvalidInput, match="function_to_apply is sigmoid or none, not 'softmax'"):
        rerank(DOG, function_to_apply="softmax")


def test_pairs_are_scored_as_by_a_cross_encoder(rerank: Any) -> None:
    assert rerank.predict([("a dog", "the dog"), ["a dog", "the cat"]]) == pytest.approx([YES, NO])
    assert rerank.predict(("a dog", "the dog")) == pytest.approx(YES)
    assert rerank.predict([("a dog", "the dog " * 100)]) == pytest.approx([YES])  # cut
    assert rerank.predict([]) == []
    for pairs in (["a dog"], [("a", "b", "c")]):
        with pytest.raises(InvalidInput, match="a pair is two texts"):
            rerank.predict(pairs)


def test_documents_are_ranked_as_by_a_cross_encoder(rerank: Any) -> None:
    documents = ("the cat", "the dog", "a film")
    ranked = rerank.rank("a dog", documents)
    assert [each["corpus_id"] for each in ranked] == [1, 0, 2]
    assert [each["score"] for each in ranked] == pytest.approx([YES, NO, NO])
    assert rerank.rank("a dog", documents, top_k=1, return_documents=True) == [ranked[0] | {"text": "the dog"}]
    assert rerank.rank("a dog", []) == []
    with pytest.raises(InvalidInput, match="query"):
        rerank.rank(" ", documents)


def test_a_score_is_of_a_text_that_fits(rerank: Any) -> None:
    with pytest.raises(InvalidInput, match="truncation=True"):
        rerank(DOG | {"text_pair": "the dog " * 100})
    assert rerank(DOG | {"text_pair": "the dog " * 100}, truncation=True)["score"] == pytest.approx(YES)


def test_every_task_can_be_called() -> None:
    assert PIPELINES.keys() == TASKS.keys()


def test_rows_run_in_batches_of_like_length_and_come_back_in_order(qa: Pipeline) -> None:
    questions = [
        {"question": "Who wrote code?", "context": f"{'nothing . ' * (i % 7)}{name} wrote code."}
        for i, name in enumerate(["Ada", "Ruth", "Grace Hopper", "Paris"] * 10)
    ]
    alone = [qa(**each) for each in questions]
    assert qa(questions) == [pytest.approx(each) for each in alone]
    assert [each["answer"] for each in alone[:4]] == ["Ada", "Ruth", "Grace Hopper", "Paris"]

    engine = FakeEngine(None, None)
    model = replace(qa.model, engine=engine, batch_tokens=64)
    type(qa)(model)(questions)
    assert engine.rows == len(questions)
    assert max(batch.input_ids.size for batch in engine.batches) <= 64
    assert max(batch.padding_ratio for batch in engine.batches) < inprocess.PADDING + 1e-9
    assert len(engine.batches) < len(questions)


def test_a_row_alone_runs_on_all_cores(qa: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = FakeEngine(None, None)
    monkeypatch.setattr(inprocess, "open_low_latency", lambda bundle, graph, cores: alone)
    monkeypatch.setattr(inprocess, "LOW_LATENCY_TOKENS", 32)
    pipeline = type(qa)(replace(qa.model))
    pipeline(**CODE)
    assert alone.rows == 0  # a shorter row is sooner done on one
    pipeline(question="Who wrote code?", context="nothing . " * 5 + "Ada wrote code.")
    assert alone.rows == 1
    assert type(qa)(replace(qa.model, low_latency=False))(**CODE)["answer"] == "Grace Hopper"


def test_several_threads_may_call(qa: Pipeline) -> None:
    barrier = threading.Barrier(4)

    def call(_: int) -> list[Any]:
        barrier.wait()
        return [qa([FRANCE, CODE])[1]["answer"] for _ in range(10)]

    with ThreadPoolExecutor(4) as pool:
        assert [*pool.map(call, range(4))] == [["Grace Hopper"] * 10] * 4


def test_what_is_no_number_is_an_error(qa: Pipeline) -> None:
    broken = type(qa)(replace(qa.model, engine=FakeEngine((float("nan"),) * 400, None), low_latency=False))
    with pytest.raises(InferenceError, match="not a finite number"):
        broken(**FRANCE)


def test_a_folder_that_is_no_bundle(tmp_path: Path, bundle_factory: Callable[..., Path]) -> None:
    with pytest.raises(BundleError, match="missing"):
        load(tmp_path)
    with pytest.raises(BundleError, match="its graph gives"):
        load(bundle_factory("sentiment", labels=("a", "b", "c")))
    with pytest.raises(BertieError):
        load(bundle_factory("nli"), device="cuda")


def test_answers_are_the_services(models_dir: Path, qa: Pipeline) -> None:
    """The same task on the same graph: what was measured of a bundle holds here too."""
    (task,) = qa.model.tasks
    assert type(task) is type(loading.open_task(qa.model.bundle)[1])
    example = SpanExample(FRANCE["question"], (FRANCE["context"],), max_answer_tokens=15)
    (prediction,) = qa.model.predict(task, [example])
    found = qa(**FRANCE, align_to_words=False)
    assert (prediction.answer.text, prediction.answer.score) == (found["answer"], pytest.approx(found["score"]))
