"""Which columns are a model's input, and a row as an example."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from service.errors import InvalidInput
from service.inprocess import Model, load
from service.scoring.errors import ScoringError
from service.scoring.fields import choose
from service.tasks import ClassificationExample, MultipleChoiceExample, RerankExample, SpanExample, ZeroShotExample

MANY = 1000


@pytest.fixture(scope="module")
def models(models_dir: Path) -> Mapping[str, Model]:
    return {kind: load(models_dir / kind, threads=1).model for kind in ("nli", "qa", "sentiment")}


@pytest.mark.parametrize(
    ("model", "row", "example"),
    [
        ("sentiment", {"id": 1, "text": "good"}, ClassificationExample("good")),
        ("nli", {"premise": "a dog", "hypothesis": "a cat"}, ClassificationExample("a dog", "a cat")),
        ("nli", {"text": "a dog", "text_pair": "a cat"}, ClassificationExample("a dog", "a cat")),
        ("qa", {"question": "who?", "context": "Ada"}, SpanExample("who?", ("Ada",))),
        ("qa", {"question": "who?", "context": '["Ada", "Ruth"]'}, SpanExample("who?", ("Ada", "Ruth"))),
        ("qa", {"question": "who?", "context": ["Ada", "Ruth"]}, SpanExample("who?", ("Ada", "Ruth"))),
        ("qa", {"question": "who?", "context": "[1] Ada"}, SpanExample("who?", ("[1] Ada",))),
        ("qa", {"question": "who?", "context": "[1]"}, SpanExample("who?", ("[1]",))),
        ("qa", {"question": "who?", "context": b"Ada"}, SpanExample("who?", ("Ada",))),
    ],
)
def test_columns_of_the_fields_names_are_the_input(
    model: str, row: dict[str, Any], example: Any, models: Mapping[str, Model]
) -> None:
    fields = choose(models[model], row, {}, {})
    if row.get("context") == "[1]":  # a list of what is no text
        with pytest.raises(InvalidInput):
            fields.example(row, most_characters=MANY)
    else:
        assert fields.example(row, most_characters=MANY) == example


def test_columns_and_options_are_named(models: Mapping[str, Model]) -> None:
    fields = choose(models["qa"], ["q", "c", "n"], {"question": "q", "context": "c", "top_k": "n"}, {"no_answer": True})
    row = {"q": "who?", "c": "Ada", "n": 3}
    assert fields.example(row, most_characters=MANY) == SpanExample("who?", ("Ada",), 3, no_answer=True)
    assert fields.example(row | {"n": None}, most_characters=MANY).top_k == 1
    labels = {"candidate_labels": ["sports", "politics"]}
    fields = choose(models["nli"], ["text"], {}, labels)
    assert fields.example({"text": "a game"}, most_characters=MANY) == ZeroShotExample("a game", ("sports", "politics"))


def test_lists_of_other_tasks_are_columns_too(bundle_factory: Callable[..., Path]) -> None:
    choice = choose(load(bundle_factory("choice"), threads=1).model, ["question", "context", "options"], {}, {})
    row = {"question": "who?", "context": "Ada", "options": '["Ada", "Ruth"]'}
    assert choice.example(row, most_characters=MANY) == MultipleChoiceExample("who?", "Ada", ("Ada", "Ruth"))
    rerank = choose(load(bundle_factory("rerank"), threads=1).model, ["query", "texts"], {}, {})
    row = {"query": "who?", "texts": ["Ada", "Ruth"]}
    assert rerank.example(row, most_characters=MANY) == RerankExample("who?", ("Ada", "Ruth"))


@pytest.mark.parametrize(
    ("row", "field", "reason"),
    [
        ({"text": None}, "text", "it is null"),
        ({}, "text", "it has no 'text'"),
        ({"text": "  "}, "text", "blank"),
        ({"text": 3}, "text", "valid string"),
        ({"text": b"\xff"}, "text", "it is not UTF-8"),
        ({"text": "x" * 1001}, None, "it has 1001 characters; 1000 are possible"),
    ],
)
def test_a_bad_row_is_told_why(
    row: dict[str, Any], field: str | None, reason: str, models: Mapping[str, Model]
) -> None:
    fields = choose(models["sentiment"], ["text"], {}, {})
    with pytest.raises(InvalidInput) as raised:
        fields.example(row, most_characters=MANY)
    assert raised.value.field == field
    assert reason in raised.value.detail


@pytest.mark.parametrize(
    ("model", "present", "mapping", "options", "message"),
    [
        ("sentiment", ["review"], {}, {}, "takes a text: the input lacks .*'text'.* and has 'review'"),
        ("nli", ["text"], {}, {}, "lacks 'premise' and 'hypothesis', or 'text_pair'"),
        ("qa", ["question"], {}, {}, "lacks 'context'"),
        ("qa", [], {}, {}, "has no columns"),
        ("qa", ["q"], {"query": "q"}, {}, "'query' is no field of model 'qa'; it has .*question"),
        ("qa", ["q"], {"question": "r"}, {}, "there is no column 'r'; there are q"),
        ("qa", ["question", "context"], {}, {"top_k": "x"}, "--option top_k: "),
        ("nli", ["text"], {}, {"candidate_labels": []}, "--option candidate_labels: "),
    ],
)
def test_columns_that_are_no_input_are_refused(
    model: str,
    present: list[str],
    mapping: dict[str, str],
    options: dict[str, Any],
    message: str,
    models: Mapping[str, Model],
) -> None:
    with pytest.raises(ScoringError, match=message):
        choose(models[model], present, mapping, options)
