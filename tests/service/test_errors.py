"""Every error has a status, a type and a title of its own."""

import http
import inspect

import pytest

from service import errors
from service.errors import BertieError, Draining, InvalidInput, QueueFull

ALL = [c for _, c in inspect.getmembers(errors, inspect.isclass) if issubclass(c, BertieError)]


def test_types_and_titles_are_distinct() -> None:
    assert len(ALL) > 10
    kinds = [error for error in ALL if error is not Draining]  # which is NotReady, to a client
    assert len({error.slug for error in kinds}) == len(kinds)
    assert len({error.title for error in kinds}) == len(kinds)


@pytest.mark.parametrize("error", ALL)
def test_status_is_an_error_of_http(error: type[BertieError]) -> None:
    assert 400 <= http.HTTPStatus(error.status) < 600
    assert error.slug == error.slug.lower().strip()
    assert " " not in error.slug
    assert error.__doc__


@pytest.mark.parametrize(
    ("name", "status", "reason"),
    [
        ("MalformedBody", 400, "invalid"),
        ("Unauthorized", 401, "unauthorized"),
        ("Forbidden", 403, "forbidden"),
        ("UnknownModel", 404, "invalid"),
        ("RolloutError", 409, "invalid"),
        ("TooLarge", 413, "too_large"),
        ("UnsupportedMediaType", 415, "invalid"),
        ("InvalidInput", 422, "invalid"),
        ("QueueFull", 429, "queue_full"),
        ("RateLimited", 429, "rate_limit"),
        ("InferenceError", 500, ""),
        ("NotReady", 503, "not_ready"),
        ("Draining", 503, "draining"),
        ("DeadlineExceeded", 504, "deadline"),
    ],
)
def test_statuses_and_reasons_are_the_contracts(name: str, status: int, reason: str) -> None:
    error = getattr(errors, name)
    assert (error.status, error.reason) == (status, reason)


def test_an_error_carries_what_the_client_may_know() -> None:
    error = InvalidInput("it is empty", field="inputs.3.text")
    assert (str(error), error.detail, error.field) == ("it is empty", "it is empty", "inputs.3.text")
    assert QueueFull("full", retry_after=1.5).retry_after == 1.5
    assert QueueFull("full", retry_after=1.5).field is None


def test_an_error_names_its_input_where_a_task_found_it() -> None:
    error = InvalidInput("it is empty", field="text", index=3)
    assert (error.field, error.in_input().field) == ("text", "inputs.3.text")
    parsed = InvalidInput("it is empty", field="inputs.3.text")
    assert parsed.in_input() is parsed
