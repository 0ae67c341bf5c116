"""From a body's bytes to examples, or to what is wrong with it; and what a body may cost at most."""

import contextlib
import json
import threading
import time
import tracemalloc
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import settings as rounds
from hypothesis import strategies as st

from service.errors import BertieError, InvalidInput, MalformedBody, TooLarge
from service.http import requests
from service.http.openapi import EXAMPLES
from service.http.requests import LARGE, MAX_ERRORS, MAX_NAME, MAX_VALUES, Call
from service.settings import Settings
from service.tasks import PATHS, ClassificationExample, MultipleChoiceExample, SpanExample, ZeroShotExample
from service.tasks.inputs import MAX_LABEL, MAX_TEMPLATE

QA = {"question": "Who?", "context": "Ada."}
CHOICE = QA | {"options": ["Ada", "Ruth"]}
ZERO_SHOT = {"text": "t", "candidate_labels": ["a", "b"]}
SETTINGS = Settings()


def parse(path: str, body: bytes, settings: Settings = SETTINGS) -> Call:
    return requests.parse_value(path, requests.decode(body, settings), settings)


def parsed(route: str, body: Any) -> Call:
    return parse(f"/{route}", json.dumps(body).encode())


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
    call = parsed(route, body)
    assert call.examples == expected
    assert call.many == ("inputs" in body)
    assert call.model == body.get("model")


@pytest.mark.parametrize("path", PATHS)
def test_the_documents_examples_are_bodies(path: str) -> None:
    for body in EXAMPLES[path].values():
        parse(path, json.dumps(body).encode())


@pytest.mark.parametrize("priority", ["high", "normal", "low"])
def test_a_priority_changes_nothing(priority: str) -> None:
    """It is deprecated, and one that was wrong is wrong still."""
    assert parsed("classify", {"text": "t", "priority": priority}) == parsed("classify", {"text": "t"})
    assert parsed("qa", {"inputs": [QA], "priority": priority}) == parsed("qa", {"inputs": [QA]})


def test_pairs_of_both_kinds_share_a_request_in_their_order() -> None:
    inputs = [{"text": "a", "text_pair": "b"}, {"premise": "c", "hypothesis": "d"}, {"text": "e", "text_pair": "f"}]
    examples = parsed("classify", {"inputs": inputs}).examples
    assert [(example.text, example.text_pair) for example in examples] == [("a", "b"), ("c", "d"), ("e", "f")]


def test_the_fourth_of_many_inputs_is_named() -> None:
    error = refusal("classify", {"inputs": [{"text": "a"}] * 3 + [{"text": ""}, {"text": "a"}]})
    assert (error.field, error.errors) == ("inputs.3.text", ())


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
    error = refusal("classify", {"inputs": [{"text": ""}] * 100})
    assert len(error.errors) == MAX_ERRORS
    assert error.detail.endswith("(and at least 20 more)")


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
        parse("/classify", body)
    assert caught.value.field == field


def test_looking_for_a_surrogate_copies_no_name() -> None:
    """A long name over very many values: written out for each, it would be 60 GB."""
    body = rb'{"text": "\ud83d", "' + b"k" * 1_000_000 + b'": [' + b'"a",' * 60_000 + b"1]}"
    tracemalloc.start()
    with pytest.raises(InvalidInput) as caught:
        parse("/classify", body)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert caught.value.field == "text"
    assert most < 100e6


def test_lengths_of_zero_shot_fields() -> None:
    template, label = "{}".ljust(MAX_TEMPLATE), "l" * MAX_LABEL
    body = {"text": "t", "candidate_labels": [label], "hypothesis_template": template}
    assert parsed("classify", body).examples == [ZeroShotExample("t", (label,), template)]
    shape = next(shape for shape in requests.SHAPES["/classify"] if "candidate_labels" in shape.model_fields)
    fields = requests.ONE[shape].model_json_schema()["properties"]
    assert fields["hypothesis_template"]["maxLength"] == MAX_TEMPLATE
    assert fields["candidate_labels"]["items"]["maxLength"] == MAX_LABEL


def test_a_whole_surrogate_pair_is_a_character() -> None:
    assert parse("/classify", rb'{"text": "\ud83d\ude00"}').examples == [ClassificationExample("😀")]


@pytest.mark.parametrize(
    "body",
    [b"", b" ", b"{", b'{"text": "x"', b"{'text': 'x'}", b'{"text": "x"} x', b"\xff", b'{"text": "\xff"}', b"[" * 5000,
     b'{"a":' * 5000, '{"text": "x"}'.encode("utf-16"), b'{"text": "\n"}', b"text=x"],
)  # fmt: skip
def test_what_is_no_json_is_malformed(body: bytes) -> None:
    with pytest.raises(MalformedBody):
        parse("/classify", body)


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
FIELDS = st.sampled_from(
    ["text", "text_pair", "premise", "hypothesis", "candidate_labels", "inputs", "top_k", "context", "options"]
)
VALUES = SCALARS | st.lists(SCALARS, max_size=3) | st.dictionaries(FIELDS, SCALARS, max_size=3)
OBJECTS = st.dictionaries(
    FIELDS, VALUES | st.lists(st.dictionaries(FIELDS, VALUES, max_size=3), max_size=2), max_size=4
)


@rounds(max_examples=100, deadline=None)
@given(body=OBJECTS | VALUES)
def test_any_json_is_a_request_or_a_clear_error(body: Any) -> None:
    for path in PATHS:
        try:
            error = None
            parse(path, json.dumps(body).encode())
        except BertieError as caught:
            error = caught
        assert error is None or error.status == 400 or (error.status == 422 and error.field)


@rounds(max_examples=100, deadline=None)
@given(body=st.binary(max_size=64))
def test_any_bytes_are_a_request_or_a_clear_error(body: bytes) -> None:
    """Hypothesis knows the literals of this file, whole requests among them."""
    with contextlib.suppress(BertieError):
        assert parse("/classify", body).examples


class TestBounds:
    """What a body may cost, whatever is in it: limits by settings come before anything is checked."""

    @pytest.mark.parametrize(
        ("route", "body", "field", "detail"),
        [
            ("classify", {"inputs": [{}] * 129}, "inputs", "129 inputs; the limit is 128"),
            ("classify", {"inputs": [0] * 30_000}, "inputs", "30000 inputs; the limit is 128"),
            ("qa", {"inputs": [QA] * 10_000}, "inputs", "10000 inputs; the limit is 128"),
            ("qa", QA | {"context": [1] * 65}, "context", "65 documents; the limit is 64"),
            ("qa", QA | {"options": [1] * 65}, "options", "65 options; the limit is 64"),
            ("qa", {"inputs": [QA, QA | {"context": [""] * 65}]}, "inputs.1.context", "65 documents; the limit is 64"),
            (
                "classify",
                {"text": 1, "candidate_labels": ["a"] * 65},
                "candidate_labels",
                "65 candidate labels; the limit is 64",
            ),
        ],
    )
    def test_a_list_over_its_limit_is_named_before_it_is_checked(
        self, route: str, body: Any, field: str, detail: str
    ) -> None:
        with pytest.raises(TooLarge) as caught:
            parsed(route, body)
        assert (caught.value.field, caught.value.detail) == (field, detail)

    def test_limits_are_the_settings(self) -> None:
        body = json.dumps({"inputs": [QA | {"context": ["a"] * 3}] * 3}).encode()
        for limits, field in (({"max_inputs": 2}, "inputs"), ({"max_documents": 2}, "inputs.0.context")):
            with pytest.raises(TooLarge, match="the limit is 2") as caught:
                parse("/qa", body, SETTINGS.model_copy(update=limits))
            assert caught.value.field == field
        assert len(parse("/qa", body, SETTINGS.model_copy(update={"max_inputs": 3})).examples) == 3

    @pytest.mark.parametrize("item", [b"0", b"{}", b"[]", b'{"text":[{}]}', b'"\\"\\\\",0'])
    def test_a_body_of_too_many_values_is_not_parsed(self, item: bytes) -> None:
        body = b'{"inputs":[' + b",".join([item] * (MAX_VALUES + 1)) + b"]}"
        tracemalloc.start()
        with pytest.raises(TooLarge, match=rf"JSON values; the limit is {MAX_VALUES}$") as caught:
            parse("/classify", body)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert caught.value.field is None
        assert most < 20 * len(body)

    @pytest.mark.parametrize("text", [",[{" * 200_000, '\\",[' * 200_000, '",' * 200_000 + "\\"])
    def test_what_stands_in_a_text_is_no_value(self, text: str) -> None:
        assert parsed("classify", {"text": text}).examples == [ClassificationExample(text)]

    def test_as_many_values_as_the_rows_may_be_are_taken(self) -> None:
        body = json.dumps({"inputs": [QA | {"context": ["a"] * 1000}] * 70}).encode()
        wide = SETTINGS.model_copy(update={"max_documents": 1000, "max_request_rows": 70_000})
        assert len(parse("/qa", body, wide).examples) == 70

    @pytest.mark.parametrize("many", [False, True])
    def test_very_many_wrong_fields_are_not_all_looked_at(self, many: bool) -> None:
        body: dict[str, Any] = {"text": 1} | {f"f{i}": 1 for i in range(60_000)}
        tracemalloc.start()
        error = refusal("classify", {"inputs": [body]} if many else body)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert error.field == ("inputs.0.text" if many else "text")  # a known field goes first
        assert len(error.errors) == MAX_ERRORS
        assert most < 30e6

    def test_a_byte_order_mark_is_skipped(self) -> None:
        assert parse("/classify", b'\xef\xbb\xbf{"text": "t"}').examples == [ClassificationExample("t")]
        with pytest.raises(MalformedBody):
            parse("/classify", b'\xef\xbb\xbf\xef\xbb\xbf{"text": "t"}')

    @pytest.mark.parametrize(("size", "elsewhere"), [(LARGE // 2, False), (2 * LARGE, True)])
    async def test_large_bodies_are_parsed_in_a_thread(
        self, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, size: int, elsewhere: bool
    ) -> None:
        threads = []
        parse_value = requests.parse_value

        def watching(*arguments: Any) -> Call:
            threads.append(threading.current_thread())
            return parse_value(*arguments)

        monkeypatch.setattr(requests, "parse_value", watching)
        body = {"text": "good " * (size // 5)}
        assert (await client.post("/classify", json=body)).status_code == 200
        assert [thread is not threading.main_thread() for thread in threads] == [elsewhere]

    @pytest.mark.parametrize("digit", ['{"top_k": ', '{"top_k": 1e', '{"top_k": 0.'])
    def test_a_number_of_two_million_digits_is_refused_at_once(self, digit: str) -> None:
        began = time.perf_counter()
        with pytest.raises(BertieError):
            parse("/qa", f"{digit}{'1' * 1_900_000}}}".encode())
        assert time.perf_counter() - began < 2
