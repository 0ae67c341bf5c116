"""Every error has a status, a type and a title of its own."""

import http
import inspect

import pytest

from service import errors
from service.errors import BertieError, InvalidInput, QueueFull

ALL = [c for _, c in inspect.getmembers(errors, inspect.isclass) if issubclass(c, BertieError)]


def test_types_and_titles_are_distinct() -> None:
    assert len(ALL) > 10
    assert len({error.slug for error in ALL}) == len(ALL)
    assert len({error.title for error in ALL}) == len(ALL)


@pytest.mark.parametrize("error", ALL)
def test_status_is_an_error_of_http(error: type[BertieError]) -> None:
    assert 400 <= http.HTTPStatus(error.status) < 600
    assert error.slug == error.slug.lower().strip()
    assert " " not in error.slug
    assert error.__doc__


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("MalformedBody", 400),
        ("Unauthorized", 401),
        ("UnknownModel", 404),
        ("TooLarge", 413),
        ("UnsupportedMediaType", 415),
        ("InvalidInput", 422),
        ("QueueFull", 429),
        ("InferenceError", 500),
        ("NotReady", 503),
        ("DeadlineExceeded", 504),
    ],
)
def test_statuses_are_the_contracts(name: str, status: int) -> None:
    assert getattr(errors, name).status == status


def test_an_error_carries_what_the_caller_may_know() -> None:
    error = InvalidInput("it is empty", field="inputs.3.text")
    assert (str(error), error.detail, error.field) == ("it is empty", "it is empty", "inputs.3.text")
    assert QueueFull("full", retry_after=1.5).retry_after == 1.5
    assert QueueFull("full", retry_after=1.5).field is None
