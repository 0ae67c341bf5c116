"""Errors as RFC 9457 problem documents.

Owns the document's shape on the wire and the headers that go with some of the statuses. Knows nothing of where an error
came from.
"""

from __future__ import annotations

import math

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
    """The path takes other methods."""

    status = 405
    slug = "method-not-allowed"
    title = "Method not allowed"


def write(error: BertieError, request_id: str) -> tuple[dict[str, str], bytes]:
    """Write an error as an answer's headers and body."""
    headers = {"content-type": MEDIA_TYPE}
    if isinstance(error, QueueFull):
        headers["retry-after"] = str(max(1, math.ceil(error.retry_after)))
    if isinstance(error, Unauthorized):
        headers["www-authenticate"] = "Bearer"
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
    return headers, to_json(problem)


def response(error: BertieError, request_id: str) -> Response:
    """Make an error's answer."""
    headers, body = write(error, request_id)
    return Response(body, error.status, headers)


def of_http(error: HTTPException, request_id: str) -> Response:
    """Write an error of the framework's own as an answer: no such path, or not with this method."""
    if error.status_code == 405:
        answer = response(MethodNotAllowed("this path takes other methods; see Allow"), request_id)
    else:
        answer = response(NoSuchPath("nothing is served at this path; see /docs"), request_id)
    answer.headers.update(error.headers or {})
    return answer
