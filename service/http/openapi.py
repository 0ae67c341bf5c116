"""What the OpenAPI document says of each path: bodies, answers, headers and examples.

Owns the document. The handlers take bytes, so FastAPI cannot read this off their signatures; the schemas themselves are
those that validate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema
from starlette.routing import BaseRoute

from service.errors import (
    BertieError,
    DeadlineExceeded,
    InvalidInput,
    MalformedBody,
    NotReady,
    QueueFull,
    TooLarge,
    Unauthorized,
    UnknownModel,
    UnsupportedMediaType,
)
from service.http import answers, problems, schemas

_REF = "#/components/schemas/{model}"
_REQUEST_ID = {
    "description": "The caller's own X-Request-Id where that was sane, else a new one.",
    "schema": {"type": "string", "pattern": "^[A-Za-z0-9._-]{1,128}$"},
    "required": True,
}
_SERVER_TIMING = {
    "description": "Milliseconds of each phase: tokenize, queue, inference, decode.",
    "schema": {"type": "string"},
    "required": True,
}
_TOTAL_TIMING = {
    "description": "Milliseconds from the request's head to the answer: total.",
    "schema": {"type": "string"},
    "required": True,
}
_HEADERS: dict[type[BertieError], dict[str, Any]] = {
    QueueFull: {
        "Retry-After": {
            "description": "Seconds until enough of the rows now waiting will have run.",
            "schema": {"type": "integer", "minimum": 1},
            "required": True,
        }
    },
    Unauthorized: {"WWW-Authenticate": {"schema": {"type": "string"}, "required": True}},
}
_BODY_ERRORS: tuple[type[BertieError], ...] = (
    MalformedBody, Unauthorized, UnknownModel, TooLarge, UnsupportedMediaType, InvalidInput, QueueFull, NotReady,
    DeadlineExceeded, BertieError,
)  # fmt: skip

QA_EXAMPLES = {
    "one text": {"question": "Where does Ada live?", "context": "Ada lives in London. Ruth lives in Paris."},
    "documents": {
        "question": "What is the capital of France?",
        "context": ["The capital of Germany is Berlin.", "The capital of France is Paris."],
        "top_k": 2,
        "no_answer": True,
    },
    "options": {
        "question": "Where does Ada live?",
        "context": "Ada lives in London. Ruth lives in Paris.",
        "options": ["London", "Paris", "Berlin"],
    },
    "many": {
        "inputs": [
            {"question": "Who wrote the code?", "context": "Grace Hopper wrote the code."},
            {"question": "Which is the highest mountain?", "context": "The highest mountain is Everest."},
        ]
    },
}
CLASSIFY_EXAMPLES = {
    "sentiment": {"text": "What a wonderful film!"},
    "inference": {"premise": "A man is playing soccer outside.", "hypothesis": "A man is outside."},
    "a pair": {"text": "The dog is sleeping.", "text_pair": "The dog is not sleeping."},
    "zero-shot": {"text": "The team won the soccer game.", "candidate_labels": ["sports", "politics"]},
    "many": {"inputs": [{"text": "What a wonderful film!"}, {"text": "A boring film."}]},
}

_BODIES: dict[str, tuple[schemas.Shapes, dict[str, Any], tuple[str, ...]]] = {
    "/qa": (schemas.QA_BODY, QA_EXAMPLES, ("QaResponse", "QaResponses", "ChoiceResponse", "ChoiceResponses")),
    "/classify": (schemas.CLASSIFY_BODY, CLASSIFY_EXAMPLES, ("ClassifyResponse", "ClassifyResponses")),
}
_ANSWERS = {"/models": "ModelList", "/models/{name}": "ModelInfo", "/health/live": "Health", "/health/ready": "Health"}
_GET_ERRORS: dict[str, tuple[type[BertieError], ...]] = {
    "/models": (Unauthorized, NotReady),
    "/models/{name}": (Unauthorized, UnknownModel, NotReady),
    "/health/live": (),
    "/health/ready": (NotReady,),
    "/metrics": (),
}


def document(
    app: FastAPI, routes: Sequence[BaseRoute], *, keys: bool, can_answer: Callable[[schemas.Shapes, Any], bool]
) -> dict[str, Any]:
    """The OpenAPI document.

    Args:
        routes: what it describes.
        keys: whether API keys are wanted.
        can_answer: whether some model takes such a body; an example that none takes is left out.
    """
    result = get_openapi(
        title=app.title, version=app.version, summary=app.summary, description=app.description, routes=routes
    )
    _, definitions = models_json_schema(
        [
            (model, "serialization")
            for model in (
                answers.QaResponse, answers.QaResponses, answers.ChoiceResponse, answers.ChoiceResponses,
                answers.ClassifyResponse, answers.ClassifyResponses, answers.ModelList, answers.Health,
            )
        ]
        + [(answers.Problem, "validation")],
        ref_template=_REF,
    )  # fmt: skip
    components = result.setdefault("components", {})
    components["schemas"] = definitions["$defs"]
    for path, operations in result["paths"].items():
        for operation in operations.values():
            operation["summary"] = operation.pop("description")  # the handler's docstring; FastAPI's is its name
            if path in _BODIES:
                shapes, examples, models = _BODIES[path]
                schema = shapes.json_schema(ref_template=_REF)
                components["schemas"] |= schema.pop("$defs")
                operation["requestBody"] = {
                    "required": True,
                    "content": {
                        "application/json": {
                            "schema": schema,
                            "examples": {
                                name: {"value": body} for name, body in examples.items() if can_answer(shapes, body)
                            },
                        }
                    },
                }
                answer = _json({"oneOf": [{"$ref": _REF.format(model=name)} for name in models]})
                answer["headers"]["Server-Timing"] = _SERVER_TIMING
                errors = _BODY_ERRORS
            else:
                errors = _GET_ERRORS[path]
                answer = _json({"$ref": _REF.format(model=_ANSWERS[path])}) if path in _ANSWERS else _metrics()
            operation["responses"] = {"200": answer} | {str(error.status): _problem(error) for error in errors}
            if "{name}" in path:
                name = {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}
                operation["parameters"] = [name]
            if keys and Unauthorized in errors:
                operation["security"] = [{"key": []}]
    if keys:
        components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    return result


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {
        "description": "The answer.",
        "headers": {"X-Request-Id": _REQUEST_ID},
        "content": {"application/json": {"schema": schema}},
    }


def _metrics() -> dict[str, Any]:
    types = ("text/plain", "application/openmetrics-text")
    return {
        "description": "The metrics as text.",
        "headers": {"X-Request-Id": _REQUEST_ID},
        "content": {media_type: {"schema": {"type": "string"}} for media_type in types},
    }


def _problem(error: type[BertieError]) -> dict[str, Any]:
    return {
        "description": (error.__doc__ or error.title).splitlines()[0],
        "headers": {"X-Request-Id": _REQUEST_ID, "Server-Timing": _TOTAL_TIMING, **_HEADERS.get(error, {})},
        "content": {
            problems.MEDIA_TYPE: {
                "schema": {"$ref": _REF.format(model="Problem")},
                "example": {
                    "type": problems.TYPE_PREFIX + error.slug,
                    "title": error.title,
                    "status": error.status,
                    "detail": "what was wrong, in a sentence",
                    "request_id": "3f6c0d2f9d1e4c7b8a5e6f7081920a1b",
                },
            }
        },
    }
