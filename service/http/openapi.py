"""What the OpenAPI document says of each path beyond what FastAPI reads off it: bodies, answers, headers and examples.

The shapes are those that parse requests and write answers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from pydantic_core import from_json

from service.errors import (
    BertieError,
    DeadlineExceeded,
    Forbidden,
    InvalidInput,
    MalformedBody,
    NotReady,
    QueueFull,
    TooLarge,
    Unauthorized,
    UnknownModel,
    UnsupportedMediaType,
)
from service.http import answers, problems, requests
from service.http.endpoints import Endpoint
from service.settings import Settings
from service.tasks import PATHS

_REF = "#/components/schemas/{model}"
_REQUEST_ID = {
    "description": "The client's own X-Request-Id where that was sane, else a new one.",
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
            "description": "Seconds until what is in flight will have run.",
            "schema": {"type": "integer", "minimum": 1},
            "required": True,
        }
    },
    Unauthorized: {"WWW-Authenticate": {"schema": {"type": "string"}, "required": True}},
}
_BODY_ERRORS: tuple[type[BertieError], ...] = (
    MalformedBody, Unauthorized, Forbidden, UnknownModel, TooLarge, UnsupportedMediaType, InvalidInput, QueueFull,
    NotReady, DeadlineExceeded, BertieError,
)  # fmt: skip
_LIMITS = {
    field: limit.setting
    for shapes in requests.SHAPES.values()
    for shape in shapes
    for field, limit in shape.limits.items()
}
"""The settings of lists' lengths, by the names of fields, which are the same in every protocol."""
_LOOK_UP_ERRORS: tuple[type[BertieError], ...] = (Unauthorized, Forbidden, UnknownModel, NotReady)
EXAMPLES: dict[str, dict[str, Any]] = {
    "/qa": {
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
    },
    "/classify": {
        "sentiment": {"text": "What a wonderful film!"},
        "inference": {"premise": "A man is playing soccer outside.", "hypothesis": "A man is outside."},
        "a pair": {"text": "The dog is sleeping.", "text_pair": "The dog is not sleeping."},
        "zero-shot": {"text": "The team won the soccer game.", "candidate_labels": ["sports", "politics"]},
        "rerank": {
            "query": "What is the capital of France?",
            "texts": ["The highest mountain is Everest.", "The capital of France is Paris."],
        },
        "many": {"inputs": [{"text": "What a wonderful film!"}, {"text": "A boring film."}]},
    },
}
_ANSWERS: dict[str, type[BaseModel]] = {
    "/models": answers.ModelList,
    "/models/{name}": answers.ModelInfo,
    "/health/live": answers.Health,
    "/health/ready": answers.Health,
}
_GET_ERRORS: dict[str, tuple[type[BertieError], ...]] = {
    "/models": (Unauthorized, NotReady),
    "/models/{name}": (Unauthorized, Forbidden, UnknownModel, NotReady),
    "/health/live": (NotReady,),
    "/health/ready": (NotReady,),
    "/metrics": (),
}


def document(
    app: FastAPI, endpoints: Iterable[Endpoint], settings: Settings, *, can_answer: Callable[[str, Any], bool]
) -> dict[str, Any]:
    """Write the OpenAPI document.

    Args:
        app: whose other routes it describes too.
        settings: say whether API keys are wanted, and how long lists may be.
        can_answer: whether some model takes such a body at a path; an example that none takes is left out.
    """
    other = get_openapi(
        title=app.title, version=app.version, summary=app.summary, description=app.description, routes=app.routes
    )
    result = other | {"paths": {}}
    components = result.setdefault("components", {})
    schemas = components["schemas"] = _shared(endpoints)
    for endpoint in endpoints:
        operation = _operation(endpoint, schemas, settings)
        if endpoint.path in PATHS:
            _add_own(operation, endpoint, schemas, settings, can_answer)
        result["paths"].setdefault(endpoint.path, {})[endpoint.method.lower()] = operation
    for path, operations in other["paths"].items():
        for operation in operations.values():
            operation["summary"] = operation.pop("description")  # the handler's docstring; FastAPI's is its name
            answer = _json({"$ref": _REF.format(model=_ANSWERS[path].__name__)}) if path in _ANSWERS else _metrics()
            problem = _REF.format(model=problems.Problem.__name__)
            refused = {str(error.status): _problem(error, problem) for error in _GET_ERRORS[path]}
            operation["responses"] = {"200": answer} | refused
            if "{name}" in path:
                operation["parameters"] = _parameters(path)
            if settings.wants_keys and Unauthorized in _GET_ERRORS[path]:
                operation["security"] = [{"key": []}]
        result["paths"].setdefault(path, {}).update(operations)
    for schema in schemas.values():
        for field, setting in _LIMITS.items():
            if field in schema.get("properties", {}):
                _bound(schema["properties"][field], getattr(settings, setting))
    if settings.wants_keys:
        for endpoint in endpoints:
            if not endpoint.open:
                result["paths"][endpoint.path][endpoint.method.lower()]["security"] = [{"key": []}]
        components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    return result


def _shared(endpoints: Iterable[Endpoint]) -> dict[str, Any]:
    models: list[type[BaseModel]] = [*_ANSWERS.values(), *(each.document.error for each in endpoints)]
    models += [each.document.other_error for each in endpoints if each.document.other_error]
    unique = [(model, "serialization") for model in dict.fromkeys(models)]
    _, shared = models_json_schema(unique, ref_template=_REF)  # type: ignore[arg-type]
    found: dict[str, Any] = shared["$defs"]
    return found


def _operation(endpoint: Endpoint, schemas: dict[str, Any], settings: Settings) -> dict[str, Any]:
    """Describe an endpoint: what its `read` says of itself, and each error in the endpoint's own form."""
    said, posted = endpoint.document, endpoint.method == "POST"
    shape = said.answer
    told = _define(shape, schemas, "serialization") if isinstance(shape, type) else shape
    answer: dict[str, Any] = _json(dict(told)) if told else _plain()
    if posted and said.predicts:
        answer["headers"]["Server-Timing"] = _SERVER_TIMING
    errors = _BODY_ERRORS if posted else _LOOK_UP_ERRORS
    operation: dict[str, Any] = {
        "tags": [said.tag],
        "summary": (endpoint.read.__doc__ or "").strip().splitlines()[0],
        "operationId": _operation_id(endpoint),
        "responses": {"200": answer},
    }
    problem = _REF.format(model=said.error.__name__)
    other = {"schema": {"$ref": _REF.format(model=said.other_error.__name__)}} if said.other_error else None
    for error in errors:
        example = QueueFull("", retry_after=1) if error is QueueFull else error("what was wrong, in a sentence")
        status, headers, body = endpoint.refuse(example, "3f6c0d2f9d1e4c7b8a5e6f7081920a1b")
        refused = _problem(error, problem, headers["content-type"], body)
        if other is not None:
            refused["content"]["application/json"] = other
        operation["responses"].setdefault(str(status), refused)
    if said.bodies:
        shapes = [_define(shape, schemas) for shape in said.bodies]
        for shape in said.bodies:
            for field in schemas[shape.__name__]["properties"].values():
                _bound(field, settings.max_inputs)
        content: dict[str, Any] = {"schema": shapes[0] if len(shapes) == 1 else {"anyOf": shapes}}
        if said.example is not None:
            content["example"] = said.example
        operation["requestBody"] = {"required": True, "content": {"application/json": content}}
    if "{" in endpoint.path:
        operation["parameters"] = _parameters(endpoint.path)
    return operation


def _add_own(
    operation: dict[str, Any],
    endpoint: Endpoint,
    schemas: dict[str, Any],
    settings: Settings,
    can_answer: Callable[[str, Any], bool],
) -> None:
    """Add Bertie's own bodies and answers to what is described of a path that may take others as well."""
    found = [{"anyOf": _responses(endpoint.path, schemas)}]
    body = _request(endpoint.path, schemas, settings, can_answer)
    if "requestBody" in operation:
        body["content"]["application/json"]["schema"]["anyOf"] += [
            operation["requestBody"]["content"]["application/json"]["schema"]
        ]
        found.append(operation["responses"]["200"]["content"]["application/json"]["schema"])
    operation["requestBody"] = body
    operation["responses"]["200"]["content"] = {"application/json": {"schema": {"anyOf": found}}}


def _operation_id(endpoint: Endpoint) -> str:
    words = re.sub(r"\W+", "_", endpoint.path).strip("_") or "root"
    return words if endpoint.method == "POST" else f"{endpoint.method.lower()}_{words}"


def _parameters(path: str) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"{(\w+)}", path)
    ]


def _request(
    path: str, schemas: dict[str, Any], settings: Settings, can_answer: Callable[[str, Any], bool]
) -> dict[str, Any]:
    shapes: list[dict[str, Any]] = []
    groups: dict[str, list[dict[str, Any]]] = {}
    for shape in requests.SHAPES[path]:
        groups.setdefault(shape.group, []).append(_define(shape, schemas))
        shapes.append(_define(requests.ONE[shape], schemas))
    for shape in {shape.group: shape for shape in requests.SHAPES[path]}.values():
        many = requests.MANY[shape.shared].model_json_schema(ref_template=_REF)
        inputs = groups[shape.group]
        many["properties"]["inputs"] |= {"items": inputs[0] if len(inputs) == 1 else {"oneOf": inputs}}
        _bound(many["properties"]["inputs"], settings.max_inputs)
        name = f"Many{shape.__name__.removesuffix('Input')}Request"
        schemas[name] = many | {"title": name, "description": f"Many inputs, answered in their order: {shape.__doc__}"}
        shapes.append({"$ref": _REF.format(model=name)})
    examples = {name: {"value": body} for name, body in EXAMPLES[path].items() if can_answer(path, body)}
    return {"required": True, "content": {"application/json": {"schema": {"anyOf": shapes}, "examples": examples}}}


def _responses(path: str, schemas: dict[str, Any]) -> Sequence[dict[str, Any]]:
    model = {"model": {"type": "string", "description": "The model that answered."}}
    references = []
    for kind in dict.fromkeys(task.prediction for task in PATHS[path]):
        schema = answers.ADAPTERS[kind].json_schema(mode="serialization", ref_template=_REF)
        schemas |= schema.pop("$defs", {})
        schemas[kind.__name__] = schema
        schemas[f"{kind.__name__}Response"] = schema | {
            "title": f"{kind.__name__}Response",
            "properties": model | schema["properties"],
            "required": ["model", *schema["required"]],
        }
        results = {"type": "array", "items": {"$ref": _REF.format(model=kind.__name__)}}
        schemas[f"{kind.__name__}Responses"] = {
            "title": f"{kind.__name__}Responses",
            "description": "The answers to many inputs, in their order.",
            "type": "object",
            "properties": model | {"results": results},
            "required": ["model", "results"],
        }
        references += [{"$ref": _REF.format(model=f"{kind.__name__}Response{plural}")} for plural in ("", "s")]
    return references


def _bound(schema: dict[str, Any], most: int) -> None:
    """Give a list's schema the length that the settings allow."""
    for part in (schema, *schema.get("oneOf", ()), *schema.get("anyOf", ())):
        if part.get("type") == "array":
            part["maxItems"] = min(most, part.get("maxItems", most))


def _define(
    model: type[BaseModel], schemas: dict[str, Any], mode: Literal["validation", "serialization"] = "validation"
) -> dict[str, Any]:
    schema = model.model_json_schema(ref_template=_REF, mode=mode)
    schemas |= schema.pop("$defs", {})
    schemas[model.__name__] = schema
    return {"$ref": _REF.format(model=model.__name__)}


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {
        "description": "The answer.",
        "headers": {"X-Request-Id": _REQUEST_ID},
        "content": {"application/json": {"schema": schema}},
    }


def _plain() -> dict[str, Any]:
    return {"description": "It is well.", "headers": {"X-Request-Id": _REQUEST_ID}}


def _metrics() -> dict[str, Any]:
    types = ("text/plain", "application/openmetrics-text")
    return {
        "description": "The metrics as text.",
        "headers": {"X-Request-Id": _REQUEST_ID},
        "content": {media_type: {"schema": {"type": "string"}} for media_type in types},
    }


def _problem(
    error: type[BertieError], schema: str, media_type: str = problems.MEDIA_TYPE, example: bytes | None = None
) -> dict[str, Any]:
    content: dict[str, Any] = {"schema": {"$ref": schema}}
    if example is not None:
        content["example"] = from_json(example)
    return {
        "description": (error.__doc__ or error.title).splitlines()[0],
        "headers": {"X-Request-Id": _REQUEST_ID, "Server-Timing": _TOTAL_TIMING, **_HEADERS.get(error, {})},
        "content": {media_type: content},
    }
