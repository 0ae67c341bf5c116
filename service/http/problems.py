"""Errors as RFC 9457 problem documents.

Owns the document's shape on the wire and the headers that go with some of the statuses. Knows nothing of where an error
came from.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from pydantic import BaseModel, Field
from pydantic_core import to_json
from starlette.exceptions import HTTPException
from starlette.responses import Response

from service.errors import BertieError, InvalidInput, QueueFull, Unauthorized

MEDIA_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:bertie:problem:"


class FieldError(BaseModel):
    """One wrong field."""

    field: str
    detail: str


class Problem(BaseModel):
    """An error, as RFC 9457 wants it."""

    type: str = Field(description="Names the kind of problem; it does not change.")
    title: str
    status: int
    detail: str
    request_id: str
    field: str | None = Field(default=None, description="Where in the request the fault is, as in `inputs.3.text`.")
    errors: list[FieldError] | None = Field(default=None, description="Every wrong field, where there are several.")


class NoSuchPath(BertieError):
    """Nothing is served at this path."""

    status = 404
    slug = "not-found"
    title = "Not found"


class MethodNotAllowed(BertieError):
    """The path takes other methods.

    Attributes:
        allow: the methods, with commas between them.
    """

    status = 405
    slug = "method-not-allowed"
    title = "Method not allowed"

    def __init__(self, allow: str) -> None:
        super().__init__("this path takes other methods; see Allow")
        self.allow = allow


class Refusal(NamedTuple):
    """An error as an answer: its status, its headers, its body."""

    status: int
    headers: dict[str, str]
    body: bytes

    def response(self) -> Response:
        """Make a response of it."""
        return Response(self.body, self.status, self.headers)


Refuse: TypeAlias = Callable[[BertieError, str], Refusal]
"""Writes an error as an answer, given the request's id."""


def headers(error: BertieError, media_type: str) -> dict[str, str]:
    """Get the headers that go with an error, whatever form its body has."""
    found = {"content-type": media_type}
    if isinstance(error, QueueFull):
        found["retry-after"] = str(max(1, math.ceil(error.retry_after)))
    if isinstance(error, MethodNotAllowed):
        found["allow"] = error.allow
    if isinstance(error, Unauthorized):
        found["www-authenticate"] = "Bearer"
    return found


def told(error: BertieError) -> str:
    """Get an error's words for a form that has no place for the field: it's named before them, where they don't."""
    return f"{error.field}: {error.detail}" if error.field and error.field not in error.detail else error.detail


def refusal(error: BertieError, value: object, status: int | None = None) -> Refusal:
    """Write an error as JSON of another form, under its own status where no other is given."""
    return Refusal(status or error.status, headers(error, "application/json"), to_json(value))


def write(error: BertieError, request_id: str) -> Refusal:
    """Write an error as a problem document."""
    problem = {
        "type": TYPE_PREFIX + error.slug,
        "title": error.title,
        "status": error.status,
        "detail": error.detail,
        "request_id": request_id,
    }
    if error.field is not None:
        problem["field"] = error.field
    if isinstance(error, InvalidInput) and error.errors:
        problem["errors"] = [{"field": field, "detail": detail} for field, detail in error.errors]
    return Refusal(error.status, headers(error, MEDIA_TYPE), to_json(problem))


def of_http(error: HTTPException, request_id: str) -> Response:
    """Write an error of the framework's own as an answer: no such path, or not with this method."""
    if error.status_code == 405:
        return write(MethodNotAllowed((error.headers or {}).get("Allow", "")), request_id).response()
    return write(NoSuchPath("nothing is served at this path; see /docs"), request_id).response()
