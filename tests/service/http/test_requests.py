import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.errors import BertieError, InvalidInput, MalformedBody
from service.http.openapi import CLASSIFY_EXAMPLES, QA_EXAMPLES
from service.http.schemas import CLASSIFY_BODY, MAX_ERRORS, MAX_LABEL, MAX_NAME, MAX_TEMPLATE, QA_BODY, examples, parse
from service.tasks import ClassificationExample, MultipleChoiceExample, SpanExample, ZeroShotExample

BODIES = {"qa": QA_BODY, "classify": CLASSIFY_BODY}
QA = {"question": "Who?", "context": "Ada."}
CHOICE = QA | {"options": ["Ada", "Ruth"]}
ZERO_SHOT = {"text": "t", "candidate_labels": ["a", "b"]}


def parsed(route: str, body: Any) -> Any:
    return parse(BODIES[route], json.dumps(body).encode())


def refusal(route: str, body: Any) -> InvalidInput:
    with pytest.raises(InvalidInput) as caught:
        parsed(route, body)
    return caught.value


@pytest.mark.parametrize(
    ("route", "body", "expected"),
    [
        ("qa", QA, [SpanExample("Who?", ("Ada.",))]),
        ("qa", QA | {"context": ["a", "b"]}, [SpanExample("Who?", ("a", "b"))]),
        (
            "qa",
            QA | {"top_k": 3, "max_answer_tokens": 5, "no_answer": False, "model": "qa"},
            [SpanExample("Who?", ("Ada.",), top_k=3, max_answer_tokens=5, no_answer=False)],
        ),
        ("qa", QA | {"top_k": 3.0}, [SpanExample("Who?", ("Ada.",), top_k=3)]),
        (
            "qa",
            {"inputs": [QA, QA | {"top_k": 1}], "top_k": 9},
            [SpanExample("Who?", ("Ada.",), top_k=9), SpanExample("Who?", ("Ada.",), top_k=1)],
        ),
        ("qa", CHOICE | {"model": "race"}, [MultipleChoiceExample("Who?", "Ada.", ("Ada", "Ruth"))]),
        ("qa", QA | {"options": ["a"] * 2}, [MultipleChoiceExample("Who?", "Ada.", ("a", "a"))]),
        ("qa", {"inputs": [CHOICE] * 2}, [MultipleChoiceExample("Who?", "Ada.", ("Ada", "Ruth"))] * 2),
        ("classify", {"text": "t"}, [ClassificationExample("t")]),
        ("classify", {"text": "t", "model": None}, [ClassificationExample("t")]),
        ("classify", {"premise": "p", "hypothesis": "h"}, [ClassificationExample("p", "h")]),
        ("classify", {"text": "p", "text_pair": "h"}, [ClassificationExample("p", "h")]),
        ("classify", ZERO_SHOT, [ZeroShotExample("t", ("a", "b"))]),
        (
            "classify",
            ZERO_SHOT | {"hypothesis_template": "It is {}!", "multi_label": True},
            [ZeroShotExample("t", ("a", "b"), "It is {}!", multi_label=True)],
        ),
        ("classify", {"inputs": [{"text": "t"}] * 2}, [ClassificationExample("t")] * 2),
        (
            "classify",
            {"inputs": [{"text": "p", "text_pair": "h"}, {"premise": "p", "hypothesis": "h"}]},
            [ClassificationExample("p", "h")] * 2,
        ),
        ("classify", {"inputs": [ZERO_SHOT]}, [ZeroShotExample("t", ("a", "b"))]),
        ("classify", {"text": "שלום 你好 👩🏽‍🚀 é"}, [ClassificationExample("שלום 你好 👩🏽‍🚀 é")]),
    ],
)
def test_a_body_becomes_examples(route: str, body: Any, expected: list[Any]) -> None:
    assert examples(parsed(route, body)) == expected


@pytest.mark.parametrize("route", BODIES)
def test_the_documents_examples_are_bodies(route: str) -> None:
    for body in (QA_EXAMPLES if route == "qa" else CLASSIFY_EXAMPLES).values():
        parsed(route, body)


@pytest.mark.parametrize(
    ("route", "body", "field", "reason"),
    [
        ("qa", {"question": "Who?"}, "context", "is missing"),
        ("qa", {"context": "Ada"}, "question", "is missing"),
        ("qa", QA | {"context": ""}, "context", "blank"),
        ("qa", QA | {"question": " \t\n\u200b\ufeff"}, "question", "blank"),
        ("qa", QA | {"context": []}, "context", "empty"),
        ("qa", QA | {"context": ["a", " "]}, "context.1", "blank"),
        ("qa", QA | {"context": ["a", 1]}, "context.1", "string"),
        ("qa", QA | {"context": {"a": 1}}, "context", "string"),
        ("qa", QA | {"question": 1}, "question", "string"),
        ("qa", QA | {"question": None}, "question", "string"),
        ("qa", QA | {"question": float("nan")}, "question", "string"),
        ("qa", QA | {"top_k": 0}, "top_k", "greater"),
        ("qa", QA | {"top_k": 101}, "top_k", "less"),
        ("qa", QA | {"top_k": "1"}, "top_k", "integer"),
        ("qa", QA | {"top_k": True}, "top_k", "integer"),
        ("qa", QA | {"top_k": float("inf")}, "top_k", "integer"),
        ("qa", QA | {"top_k": 1.5}, "top_k", "integer"),
        ("qa", QA | {"max_answer_tokens": 201}, "max_answer_tokens", "less"),
        ("qa", QA | {"no_answer": 1}, "no_answer", "boolean"),
        ("qa", QA | {"model": ""}, "model", "at least 1"),
        ("qa", QA | {"model": 7}, "model", "string"),
        ("qa", QA | {"txt": "x"}, "txt", "no field"),
        ("qa", QA | {"#one": "x"}, "#one", "no field"),
        ("qa", QA | {"inputs": [QA]}, "question", "no field"),
        ("qa", {"inputs": []}, "inputs", "empty"),
        ("qa", {"inputs": {}}, "inputs", "array"),
        ("qa", {"inputs": [QA, {"question": "Who?"}]}, "inputs.1.context", "missing"),
        ("qa", {"inputs": [QA, QA | {"model": "qa"}]}, "inputs.1.model", "no field"),
        ("qa", [QA], "body", "object"),
        ("qa", "text", "body", "object"),
        ("qa", QA | {"options": ["a"]}, "options", "must hold 2 or more"),
        ("qa", QA | {"options": []}, "options", "must hold 2 or more"),
        ("qa", QA | {"options": "ab"}, "options", "array"),
        ("qa", QA | {"options": ["a", " "]}, "options.1", "blank"),
        ("qa", QA | {"options": ["a", 2]}, "options.1", "string"),
        ("qa", {"context": "Ada.", "options": ["a", "b"]}, "question", "missing"),
        ("qa", CHOICE | {"context": ["Ada."]}, "context", "string"),
        ("qa", CHOICE | {"top_k": 2}, "top_k", "no field"),
        ("qa", CHOICE | {"no_answer": True}, "no_answer", "no field"),
        ("qa", {"inputs": [CHOICE, QA]}, "inputs.1.options", "missing"),
        ("qa", {"inputs": [QA, CHOICE]}, "inputs.1.options", "no field"),
        ("qa", {"inputs": [QA], "options": ["a", "b"]}, "options", "no field"),
        ("qa", {"inputs": [CHOICE, CHOICE | {"options": ["a"]}]}, "inputs.1.options", "must hold 2 or more"),
        ("classify", {}, "text", "missing"),
        ("classify", {"text": ""}, "text", "blank"),
        ("classify", {"text": "a\0b"}, "text", "NUL"),
        ("classify", {"text": ["a"]}, "text", "string"),
        ("classify", {"premise": "p"}, "hypothesis", "missing"),
        ("classify", {"hypothesis": "p"}, "premise", "missing"),
        ("classify", {"text_pair": "p"}, "text", "missing"),
        ("classify", {"text": "t", "premise": "p", "hypothesis": "h"}, "text", "no field"),
        ("classify", {"text": "t", "multi_label": True}, "candidate_labels", "missing"),
        ("classify", ZERO_SHOT | {"candidate_labels": []}, "candidate_labels", "empty"),
        ("classify", ZERO_SHOT | {"candidate_labels": ["a", "a"]}, "candidate_labels", "distinct"),
        ("classify", ZERO_SHOT | {"candidate_labels": ["a", " "]}, "candidate_labels.1", "blank"),
        ("classify", ZERO_SHOT | {"candidate_labels": "a"}, "candidate_labels", "array"),
        (
            "classify",
            ZERO_SHOT | {"candidate_labels": ["a", "b" * 201]},
            "candidate_labels.1",
            "at most 200 characters",
        ),
        ("classify", ZERO_SHOT | {"hypothesis_template": "{}" * 501}, "hypothesis_template", "at most 1000 characters"),
        ("classify", ZERO_SHOT | {"priority": "urgent"}, "priority", "'high', 'normal' or 'low'"),
        ("classify", {"inputs": [ZERO_SHOT | {"priority": "low"}]}, "inputs.0.priority", "no field"),
        ("classify", ZERO_SHOT | {"hypothesis_template": "no place"}, "hypothesis_template", "exactly once"),
        ("classify", ZERO_SHOT | {"hypothesis_template": "{} {}"}, "hypothesis_template", "exactly once"),
        ("classify", ZERO_SHOT | {"hypothesis_template": "{} {x}"}, "hypothesis_template", "brace"),
        ("classify", ZERO_SHOT | {"multi_label": "yes"}, "multi_label", "boolean"),
        ("classify", {"inputs": [1]}, "inputs.0", "object"),
        ("classify", {"inputs": [{"text": "t"}, ZERO_SHOT]}, "inputs.1.candidate_labels", "no field"),
        ("classify", {"inputs": [{"text": "t", "text_pair": "p"}, {"text": "t"}]}, "inputs.1.text_pair", "missing"),
    ],
)
def test_a_wrong_field_is_named_with_the_reason(route: str, body: Any, field: str, reason: str) -> None:
    error = refusal(route, body)
    assert error.field == field
    assert reason in error.detail
    assert error.detail.startswith(field)


def test_a_wrong_field_is_told_of_the_shape_that_was_meant() -> None:
    assert refusal("classify", {"premise": "p", "hypothesis": 1}).errors == ()
    assert refusal("qa", QA | {"context": ["a", ""]}).errors == ()


def test_several_wrong_fields_are_all_listed() -> None:
    error = refusal("qa", {"question": "", "context": 1, "extra": 1})
    assert [field for field, _ in error.errors] == ["question", "context", "extra"]
    assert error.detail.endswith("(and 2 more)")
    assert len(refusal("classify", {"inputs": [{"text": ""}] * 100}).errors) == MAX_ERRORS


def test_an_unknown_field_of_any_length_is_repeated_in_part() -> None:
    error = refusal("classify", {"text": "t", "x" * 10_000: 1})
    assert error.field == "x" * MAX_NAME


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (rb'{"text": "\ud83d"}', "text"),
        (rb'{"text": "\ude00 a"}', "text"),
        (b'{"text": "\xed\xa0\xbd"}', "text"),
        (rb'{"inputs": [{"text": "fine"}, {"text": "\ud83d\ud83d"}]}', "inputs.1.text"),
        (rb'{"text": "fine", "\ud83d": 1}', "body"),
        (rb'{"\ud83d": {"text": "\ud83d"}}', "body"),  # and not under a name that no answer could repeat
        (rb'{"text": {"' + b"k" * 300 + rb'": [0, [1, "\ud83d"]]}}', f"text.{'k' * 195}"),
    ],
)
def test_half_a_surrogate_pair_is_a_wrong_field(body: bytes, field: str) -> None:
    with pytest.raises(InvalidInput, match="surrogate") as caught:
        parse(CLASSIFY_BODY, body)
    assert caught.value.field == field


def test_looking_for_a_surrogate_copies_no_name() -> None:
    """A long name over very many values: written out for each, it would be 100 GB."""
    body = rb'{"text": "\ud83d", "' + b"k" * 1_000_000 + b'": [' + b'"a",' * 100_000 + b"1]}"
    tracemalloc.start()
    with pytest.raises(InvalidInput) as caught:
        parse(CLASSIFY_BODY, body)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert caught.value.field == "text"
    assert most < 100e6


def test_lengths_of_zero_shot_fields() -> None:
    template, label = "{}".ljust(MAX_TEMPLATE), "l" * MAX_LABEL
    body = {"text": "t", "candidate_labels": [label], "hypothesis_template": template}
    assert examples(parsed("classify", body)) == [ZeroShotExample("t", (label,), template)]
    fields = CLASSIFY_BODY.json_schema()["$defs"]["ZeroShotRequest"]["properties"]
    assert fields["hypothesis_template"]["maxLength"] == MAX_TEMPLATE
    assert fields["candidate_labels"]["items"]["maxLength"] == MAX_LABEL


def test_a_whole_surrogate_pair_is_a_character() -> None:
    assert parse(CLASSIFY_BODY, rb'{"text": "\ud83d\ude00"}').text == "😀"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "body",
    [b"", b" ", b"{", b'{"text": "x"', b"{'text': 'x'}", b'{"text": "x"} x', b"\xff", b'{"text": "\xff"}', b"[" * 5000,
     b'{"a":' * 5000, '{"text": "x"}'.encode("utf-16"), b'{"text": "\n"}', b"text=x"],
)  # fmt: skip
def test_what_is_no_json_is_malformed(body: bytes) -> None:
    with pytest.raises(MalformedBody):
        parse(CLASSIFY_BODY, body)


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
FIELDS = st.sampled_from(
    ["text", "text_pair", "premise", "hypothesis", "candidate_labels", "inputs", "top_k", "context", "options"]
)
VALUES = SCALARS | st.lists(SCALARS, max_size=3) | st.dictionaries(FIELDS, SCALARS, max_size=3)
OBJECTS = st.dictionaries(
    FIELDS, VALUES | st.lists(st.dictionaries(FIELDS, VALUES, max_size=3), max_size=2), max_size=4
)


@settings(max_examples=100, deadline=None)
@given(body=OBJECTS | VALUES)
def test_any_json_is_a_request_or_a_clear_error(body: Any) -> None:
    encoded = json.dumps(body).encode()
    for adapter in BODIES.values():
        try:
            error = None
            parse(adapter, encoded)
        except BertieError as caught:
            error = caught
        assert error is None or error.status == 400 or (error.status == 422 and error.field)


@settings(max_examples=100, deadline=None)
@given(body=st.binary(max_size=64))
def test_any_bytes_are_a_clear_error(body: bytes) -> None:
    with pytest.raises(BertieError):
        parse(CLASSIFY_BODY, body)
