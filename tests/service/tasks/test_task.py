"""What every task says of itself: built from a manifest's words, which examples suit it, what is counted of it."""

from dataclasses import asdict, fields
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from service.engine.tokenizer import Tokenizer
from service.http import requests
from service.metrics import Metrics
from service.settings import Settings
from service.tasks import (
    PATHS,
    TASKS,
    AnyTask,
    ClassificationExample,
    ClassificationTask,
    MultiLabelTask,
    MultipleChoiceExample,
    MultipleChoiceTask,
    RerankExample,
    RerankTask,
    ScoreTask,
    SpanExample,
    SpanTask,
    TaskSpec,
    ZeroShotExample,
    ZeroShotTask,
    build,
    derived,
)
from tests.bundles import make_tokenizer

TOKENIZER = Tokenizer(make_tokenizer())
NLI = ("entailment", "neutral", "contradiction")
SPAN = SpanExample("who wrote code", ("ada wrote the code",))
TEXT, PAIR = ClassificationExample("good fun"), ClassificationExample("a dog", "a cat")
ZERO_SHOT = ZeroShotExample("good fun", ("politics", "soccer"))
RERANKING = RerankExample("who wrote code", ("ada wrote the code", "a dog"))
CHOICE = MultipleChoiceExample("who wrote code", "ada wrote the code", ("ada", "ruth"))


def made(task: str = "classification", **changes: Any) -> AnyTask:
    fields: dict[str, Any] = {"task": task, "max_length": 32, "labels": ("negative", "positive"), "doc_stride": 4}
    return build(TaskSpec(**(fields | changes)), TOKENIZER)


SENTIMENT, PAIRS, OWN = made(), made(labels=NLI), made(labels=("a", "b"))
QA, CHOOSING, MULTI = made("span"), made("multiple_choice"), made(multi_label=True)
SCORE, RELEVANCE = made("score", labels=()), made("score", labels=("relevant",), activation="sigmoid")
(ZERO,), (RERANK,) = derived(PAIRS), derived(RELEVANCE)
MANY = made(labels=tuple(f"kind {i}" for i in range(2000)), multi_label=True)
ALL = (SENTIMENT, PAIRS, MULTI, QA, CHOOSING, ZERO, SCORE, RELEVANCE, RERANK)
EXAMPLES = {
    ClassificationTask: TEXT,
    MultiLabelTask: TEXT,
    SpanTask: SPAN,
    MultipleChoiceTask: CHOICE,
    ZeroShotTask: ZERO_SHOT,
    ScoreTask: PAIR,
    RerankTask: RERANKING,
}


def answered(task: AnyTask, example: Any, logit: float = 1.0) -> Any:
    """A prediction from logits that are all the same but for the first of a class graph."""
    (rows,) = task.encode([example])
    logits = [tuple(np.full(width, logit, np.float32) for width in task.widths(len(row))) for row in rows]
    return task.decode(example, rows, logits)


# ---- building -------------------------------------------------------------------------------------------------------


def test_a_manifests_words_make_the_task() -> None:
    task = made("span", max_length=30, doc_stride=3, no_answer=True, no_answer_threshold=1.5, temperature=2.0)
    assert isinstance(task, SpanTask)
    assert (task.max_length, task.doc_stride, task.no_answer) == (30, 3, True)
    assert (task.no_answer_threshold, task.temperature) == (1.5, 2.0)
    assert isinstance(MULTI, MultiLabelTask)
    assert made(multi_label=True, label_threshold=0.25).threshold == 0.25  # type: ignore[attr-defined]
    assert made("multiple_choice", temperature=3.0).temperature == 3.0
    assert made(temperature=0.5).temperature == 0.5
    assert isinstance(SCORE, ScoreTask)
    assert (SCORE.activation, SCORE.label) == ("identity", "LABEL_0")
    assert (RELEVANCE.activation, RELEVANCE.label) == ("sigmoid", "relevant")


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"task": "poetry"}, "'poetry' is no task; there are classification, multiple_choice, score, span"),
        ({"labels": ()}, "two labels or more"),
        ({"labels": ("only",)}, "two labels or more"),
        ({"labels": ("only",), "multi_label": True}, "two labels or more"),
        ({"task": "score"}, "a score is one number, and there are 2 labels"),
        ({"task": "span", "doc_stride": 16}, "doc_stride of 16 leaves no room"),
    ],
)
def test_what_cannot_be_built_is_refused(fields: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        made(**fields)


@pytest.mark.parametrize(
    "fields", [{"max_length": 2}, {"max_length": 10**9}, {"temperature": 0}, {"labels": ("a", "a")}, {"doc_stride": -1}]
)
def test_words_that_make_no_sense_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        made(**fields)


def test_zero_shot_comes_with_labels_that_allow_it() -> None:
    assert isinstance(ZERO, ZeroShotTask)
    assert (ZERO.max_length, ZERO.widths(9)) == (PAIRS.max_length, PAIRS.widths(9))
    assert [derived(task) for task in (SENTIMENT, OWN, QA, CHOOSING)] == [()] * 4


def test_reranking_comes_with_every_score() -> None:
    for task in (SCORE, RELEVANCE):
        (ranking,) = derived(task)
        assert isinstance(ranking, RerankTask)
        assert (ranking.max_length, ranking.widths(9)) == (task.max_length, (1,))


def test_every_task_is_listed_where_it_is_asked_for() -> None:
    assert set(TASKS) == {"classification", "multiple_choice", "score", "span"}
    for path, tasks in PATHS.items():
        assert {task.path for task in tasks} == {path}
    assert {type(task) for task in ALL} - {MultiLabelTask} == {task for tasks in PATHS.values() for task in tasks}


# ---- which examples -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("named", [False, True])
def test_an_example_suits_the_tasks_of_its_kind_alone(named: bool) -> None:
    for task in ALL:
        for example in (SPAN, ZERO_SHOT, CHOICE, RERANKING):
            assert bool(task.suits(example, named=named)) == (EXAMPLES[type(task)] is example)


def test_a_text_suits_sentiment_best_and_a_pair_an_nli_model_and_a_score_comes_last() -> None:
    ranks = [task.suits(TEXT, named=False) for task in (SENTIMENT, MULTI, OWN, SCORE, PAIRS)]
    assert ranks == [3, 3, 2, 1, 0]
    assert [task.suits(PAIR, named=False) for task in (SENTIMENT, OWN, PAIRS, RELEVANCE)] == [0, 0, 2, 1]
    assert all(task.suits(PAIR, named=True) for task in (SENTIMENT, OWN, PAIRS, SCORE))
    assert PAIRS.suits(TEXT, named=True) == 0  # a hypothesis of nothing would be answered with nonsense


def test_each_says_what_it_takes() -> None:
    assert len({task.takes for task in (SENTIMENT, PAIRS, QA, CHOOSING, ZERO, SCORE, RERANK)}) == 7
    assert all(task.takes.startswith("a ") for task in ALL)


# ---- rows and answers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ALL, ids=lambda task: type(task).__name__)
def test_rows_fit_and_are_no_fewer_than_was_said(task: AnyTask) -> None:
    example = EXAMPLES[type(task)] if task is not PAIRS else PAIR
    encoded = task.encode([example, example])
    assert len(encoded) == 2
    for rows in encoded:
        assert len(rows) >= example.least_rows
        assert all(len(row) <= task.max_length for row in rows)
    assert example.characters > 0
    assert task.encode([]) == []


@pytest.mark.parametrize("task", ALL, ids=lambda task: type(task).__name__)
def test_a_prediction_is_of_the_kind_that_is_announced(task: AnyTask) -> None:
    example = EXAMPLES[type(task)] if task is not PAIRS else PAIR
    prediction = answered(task, example)
    assert type(prediction) is task.prediction
    adapter = TypeAdapter(task.prediction)
    assert adapter.dump_python(prediction) == adapter.dump_python(adapter.validate_python(asdict(prediction)))
    assert adapter.json_schema(mode="serialization")["description"]


@pytest.mark.parametrize(
    ("task", "example", "labels"),
    [
        (SENTIMENT, TEXT, {"negative"}),
        (MULTI, TEXT, {"negative", "positive"}),
        (PAIRS, PAIR, {"entailment"}),
        (ZERO, ZERO_SHOT, {"zero_shot"}),  # and no client's own label
        (RELEVANCE, PAIR, {"score"}),
        (RERANK, RERANKING, {"rerank"}),
        (MANY, TEXT, {"other"}),  # and not thousands of time series
        (QA, SPAN, {"answer"}),
        (CHOOSING, CHOICE, {"option"}),
    ],
)
def test_what_is_counted_of_an_answer_holds_no_clients_text(task: AnyTask, example: Any, labels: set[str]) -> None:
    metrics = Metrics()
    task.observe(metrics, "m", answered(task, example))
    counted = {
        sample.labels["label"]
        for metric in metrics.predictions.collect()
        for sample in metric.samples
        if sample.name.endswith("_total")
    }
    assert counted == labels
    assert metrics.registry.get_sample_value("bertie_confidence_count", {"model": "m"}) == 1


def test_a_number_that_is_no_probability_is_no_confidence() -> None:
    metrics = Metrics()
    for task, example in ((SCORE, PAIR), (*derived(SCORE), RERANKING)):
        task.observe(metrics, "m", answered(task, example, logit=4.5))
    assert metrics.registry.get_sample_value("bertie_confidence_count", {"model": "m"}) is None
    assert metrics.registry.get_sample_value("bertie_predictions_total", {"model": "m", "label": "score"}) == 1


def test_questions_are_counted_by_their_windows_and_those_without_an_answer() -> None:
    metrics, value = Metrics(), lambda name: metrics.registry.get_sample_value(name, {"model": "m"})
    task = made("span", no_answer=True, no_answer_threshold=-100.0)
    task.observe(metrics, "m", answered(task, SpanExample("who", ("ada wrote the code " * 20,))))
    assert value("bertie_qa_windows_sum") > 3
    assert value("bertie_no_answer_total") == 1
    assert metrics.registry.get_sample_value("bertie_predictions_total", {"model": "m", "label": "no_answer"}) == 1


# ---- the JSON of inputs ---------------------------------------------------------------------------------------------


SHAPES = [shape for shapes in requests.SHAPES.values() for shape in shapes]


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.__name__)
def test_a_shape_says_how_it_is_told_from_others_and_how_long_its_lists_may_be(shape: Any) -> None:
    assert shape.marks <= set(shape.model_fields)
    assert set(shape.limits) <= set(shape.model_fields)
    assert all(limit.setting in Settings.model_fields for limit in shape.limits.values())
    assert shape.__doc__
    schema = shape.model_json_schema()
    lists = {
        name
        for name, field in schema["properties"].items()
        if "array" in {each.get("type") for each in (field, *field.get("oneOf", ()))}
    }
    assert lists == set(shape.limits)  # no list is without a limit
    assert schema["additionalProperties"] is False


def test_no_two_shapes_of_a_path_are_told_apart_by_nothing() -> None:
    for shapes in map(list, requests.SHAPES.values()):
        assert [shape for shape in shapes if not shape.marks] == shapes[-1:]
        assert sum(len(shape.marks) for shape in shapes) == len(set().union(*(shape.marks for shape in shapes)))


@pytest.mark.parametrize(
    ("values", "shared", "expected"),
    [
        ({}, {}, (1, 30, None)),
        ({}, {"top_k": 3, "no_answer": True}, (3, 30, True)),
        ({"top_k": 1}, {"top_k": 3, "max_answer_tokens": 5}, (1, 5, None)),  # its own goes first, the default too
        ({"no_answer": None}, {"no_answer": True}, (1, 30, None)),
        ({"top_k": 2.0}, {}, (2, 30, None)),  # to JSON, a whole number
    ],
)
def test_an_inputs_own_options_go_before_shared_ones(values: Any, shared: Any, expected: Any) -> None:
    (shape,) = SpanTask.inputs
    example = shape.model_validate({"question": "q", "context": "c"} | values).example(shape.shared(**shared))
    assert (example.top_k, example.max_answer_tokens, example.no_answer) == expected
    assert example.documents == ("c",)


@pytest.mark.parametrize(
    ("shape", "values", "example"),
    [
        ("QaInput", {"question": "q", "context": ["a", "b"]}, SpanExample("q", ("a", "b"))),
        ("TextInput", {"text": "a"}, ClassificationExample("a")),
        ("TextInput", {"text": "a", "top_k": 3.0}, ClassificationExample("a", top_k=3)),
        ("RerankInput", {"query": "a", "texts": ["b", "b"]}, RerankExample("a", ("b", "b"))),
        ("RerankInput", {"query": "a", "texts": ["b"], "top_k": 1}, RerankExample("a", ("b",), 1)),
        ("PremiseInput", {"premise": "a", "hypothesis": "b"}, ClassificationExample("a", "b")),
        ("TextPairInput", {"text": "a", "text_pair": "b"}, ClassificationExample("a", "b")),
        ("ZeroShotInput", {"text": "a", "candidate_labels": ["b"]}, ZeroShotExample("a", ("b",))),
        (
            "ChoiceInput",
            {"question": "q", "context": "c", "options": ["a", "a"]},
            MultipleChoiceExample("q", "c", ("a", "a")),
        ),
    ],
)
def test_an_input_is_the_tasks_example(shape: str, values: Any, example: Any) -> None:
    (kind,) = (each for each in SHAPES if each.__name__ == shape)
    checked = kind.model_validate(values)
    assert checked.example(kind.shared()) == example


@pytest.mark.parametrize("text", ["", " ", "\n\t", "\u200b\ufeff", "a\0b", 7, None, ["a"]])
def test_a_text_that_nobody_can_see_is_refused(text: Any) -> None:
    (kind,) = (each for each in SHAPES if each.__name__ == "TextInput")
    with pytest.raises(ValidationError):
        kind.model_validate({"text": text})


@pytest.mark.parametrize(
    "values",
    [
        {"candidate_labels": []},
        {"candidate_labels": ["a", "a"]},
        {"candidate_labels": ["a" * 201]},
        {"candidate_labels": ["a"] * 5000},
        {"hypothesis_template": "no place"},
        {"hypothesis_template": "{} twice {}"},
        {"hypothesis_template": "{label}"},
        {"hypothesis_template": "x" * 1000 + "{}"},
        {"multi_label": "yes"},
        {"unknown": 1},
    ],
)
def test_labels_and_templates_are_bounded(values: Any) -> None:
    (kind,) = (each for each in SHAPES if each.__name__ == "ZeroShotInput")
    with pytest.raises(ValidationError):
        kind.model_validate({"text": "a", "candidate_labels": ["a", "b"]} | values)


def test_the_options_of_a_question_are_all_shared() -> None:
    (shape,) = SpanTask.inputs
    options = set(shape.shared.model_fields)
    assert options == {each.name for each in fields(SpanExample)} - {"question", "documents"}
