"""The JSON of requests: from a body's bytes to the examples that it asks about, or to what is wrong with it.

Tasks own the shapes of their inputs (`service.tasks`). An input's shape is chosen by its fields before anything is
checked: so a wrong field is reported against the shape that was meant, not against every shape there is.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
from pydantic import Field, ValidationError, create_model
from pydantic_core import ErrorDetails, from_json

from service.errors import InvalidInput, MalformedBody, TooLarge
from service.settings import MAX_ITEMS, Settings
from service.tasks import PATHS
from service.tasks.inputs import Input, Options, Shape, choose

M = TypeVar("M", bound=Shape)
T = TypeVar("T")

MAX_ERRORS = 20
"""Most wrong fields that an answer lists."""
MAX_NAME = 200
"""Characters of a model's name, and of an unknown field's name that an answer repeats."""
MAX_VALUES = 1 << 16
"""Most JSON values of a body: what a parser makes of a few bytes ("{},") takes hundreds. A list over its own limit is
named as long as it is below this: over it, looking at it would cost too much."""
LARGE = 1 << 16
"""Bytes of a body that is parsed in a thread."""
_BOM = b"\xef\xbb\xbf"
_SURROGATE = re.compile("[\ud800-\udfff]")


class _Chosen(Shape):
    model: str | None = Field(
        None,
        min_length=1,
        max_length=MAX_NAME,
        description="Name of the model; by default one is chosen by the fields.",
    )
    priority: Literal["high", "normal", "low"] = Field(
        "normal", deprecated=True, description="Deprecated: it is ignored."
    )


class _Many(_Chosen):
    inputs: list[Any] = Field(min_length=1, max_length=MAX_ITEMS)


SHAPES: dict[str, tuple[type[Input], ...]] = {
    path: tuple(dict.fromkeys(shape for task in tasks for shape in task.inputs)) for path, tasks in PATHS.items()
}
"""The shapes of each path's inputs, the more particular first."""
ONE: dict[type[Input], type[Any]] = {
    shape: create_model(shape.__name__.replace("Input", "Request"), __base__=(shape, _Chosen), __doc__=shape.__doc__)
    for shapes in SHAPES.values()
    for shape in shapes
}
"""A request of one input of that shape."""
MANY: dict[type[Options], type[Any]] = {
    shape.shared: create_model(f"Many{shape.shared.__name__}", __base__=(shape.shared, _Many))
    for shapes in SHAPES.values()
    for shape in shapes
}
"""A request of many inputs with such shared options; each input is checked by itself."""


@dataclass(frozen=True, slots=True)
class Call:
    """What a body asks.

    Attributes:
        model: name of the model that is to answer, if it names one.
        examples: one or more.
        many: whether it came as `inputs`, to be answered as `results`.
    """

    model: str | None
    examples: Sequence[Any]
    many: bool


async def off_loop(size: int, work: Callable[[], T]) -> T:
    """Do the work on a body of so many bytes: a large one's in a thread, so that others are answered meanwhile."""
    return await asyncio.to_thread(work) if size > LARGE else work()


def decode(body: bytes, settings: Settings) -> Any:
    """Decode a body's JSON.

    Raises:
        MalformedBody: it is not JSON.
        TooLarge: it holds more values than the settings allow.
        InvalidInput: a text in it is none.
    """
    plain = body.removeprefix(_BOM)
    limit("JSON values", _values(plain), max(MAX_VALUES, 4 * settings.max_request_rows), None)
    return _decode(plain)


def check(shape: type[M], value: Any) -> M:
    """Check a value by its shape. Raises InvalidInput, which names each field that is wrong."""
    errors: list[ErrorDetails] = []
    checked = _checked(shape, value, (), errors)
    if errors:
        raise _invalid(errors)
    found: M = checked
    return found


def parse_value(path: str, data: Any, settings: Settings) -> Call:
    """Parse a body, decoded, that is posted to `path`.

    Raises:
        TooLarge: a list is longer than the settings allow.
        InvalidInput: fields are wrong; names each.
    """
    if not isinstance(data, dict):
        raise InvalidInput("body should be an object", field="body")
    many = "inputs" in data
    inputs = data["inputs"] if many else [data]
    if not isinstance(inputs, list):
        inputs = []  # the check below says so
    limit("inputs", len(inputs), settings.max_inputs, "inputs")
    shape = choose(SHAPES[path], inputs[0] if inputs else {})
    errors: list[ErrorDetails] = []
    common = _checked(MANY[shape.shared], data, (), errors) if many else None
    group = tuple(other for other in SHAPES[path] if other.group == shape.group)
    examples = []
    for i, value in enumerate(inputs):
        if len(errors) > MAX_ERRORS:
            break
        place: tuple[Any, ...] = ("inputs", i) if many else ()
        shape = choose(group, value)
        for field, (noun, setting) in shape.limits.items() if isinstance(value, dict) else ():
            if isinstance(items := value.get(field), list):
                limit(noun, len(items), getattr(settings, setting), ".".join(map(str, (*place, field))))
        checked = _checked(shape if many else ONE[shape], value, place, errors)
        if not errors:
            common = common or checked
            examples.append(checked.example(common))
    if errors:
        raise _invalid(errors)
    assert common is not None
    return Call(common.model, examples, many)


def limit(noun: str, count: int, most: int, field: str | None) -> None:
    """Raise TooLarge where there are more than so many."""
    if count > most:
        raise TooLarge(f"{count} {noun}; the limit is {most}", field=field)


def _values(body: bytes) -> int:
    """Count the JSON values of a body, at most: the commas and brackets outside of strings."""
    marks = b",[{"
    if sum(map(body.count, (b",", b"[", b"{"))) <= MAX_VALUES:
        return 0
    plain = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    characters = np.frombuffer(plain, dtype=np.uint8)
    inside = np.bitwise_xor.accumulate(characters == ord('"'))
    return int((np.isin(characters, np.frombuffer(marks, dtype=np.uint8)) & ~inside).sum())


def _decode(body: bytes) -> Any:
    try:
        return from_json(body, cache_strings="keys")  # NaN too: no field takes a float, so it is told by its field
    except ValueError as error:
        message = str(error)
    if field := _surrogate_place(body):
        raise InvalidInput(f"{field} holds half of a surrogate pair, which is no character", field=field)
    raise MalformedBody(f"the body is not JSON: {message}")


def _checked(model: type[Any], value: Any, place: tuple[Any, ...], errors: list[ErrorDetails]) -> Any:
    """Check a value; what is wrong goes to `errors`, with the value's place in the body."""
    if isinstance(value, dict) and len(value) > len(model.model_fields) + MAX_ERRORS:  # an error each would take long
        known = {name: value[name] for name in model.model_fields if name in value}
        value = known | dict(itertools.islice(value.items(), len(known) + MAX_ERRORS + 1))
    try:
        return model.model_validate(value)
    except ValidationError as error:
        for detail in error.errors(include_url=False, include_input=False, include_context=True):
            errors.append({**detail, "loc": (*place, *detail["loc"])})
        return None


def _invalid(details: Sequence[ErrorDetails]) -> InvalidInput:
    errors = tuple((_field(detail), _reason(detail)) for detail in details[:MAX_ERRORS])
    more = f" (and {len(details) - 1} more)" if len(details) > 1 else ""
    if len(details) > MAX_ERRORS:
        more = f" (and at least {MAX_ERRORS} more)"
    field, reason = errors[0]
    return InvalidInput(f"{field} {reason}{more}", field=field, errors=errors if len(errors) > 1 else ())


def _field(detail: ErrorDetails) -> str:
    *path, last = detail["loc"] or ("",)
    # pydantic puts the tag of a union's chosen member into the place, where a client has no use for it.
    parts = [part for part in path if not str(part).startswith("#")]
    if not str(last).startswith("#") or detail["type"] == "extra_forbidden":
        parts.append(last)
    return ".".join(str(part)[:MAX_NAME] for part in parts) or "body"


def _reason(detail: ErrorDetails) -> str:
    match detail["type"]:
        case "missing":
            return "is missing"
        case "extra_forbidden":
            return "is no field of such a request"
        case "model_type":
            return "should be an object"
        case "list_type":
            return "should be an array"
        case "too_short":
            least = detail["ctx"]["min_length"]
            return "must not be empty" if least == 1 else f"must hold {least} or more"
        case _:
            message = detail["msg"].removeprefix("Input ")
            return message[0].lower() + message[1:]


def _surrogate_place(body: bytes) -> str:
    """Find where a body that is JSON otherwise holds a lone surrogate ("\\ud83d"), empty where it holds none.

    Python's parser lets that pass.
    """
    # A place is a name and the place that it is in, or (): written out for each value, long names would fill memory.
    try:
        stack: list[tuple[tuple[Any, ...], Any]] = [((), json.loads(body))]
    except (ValueError, RecursionError):
        return ""
    while stack:
        place, value = stack.pop()
        if isinstance(value, str) and _SURROGATE.search(value):
            names: list[str] = []
            while place:
                name, place = place
                names.append(str(name)[:MAX_NAME])
            return ".".join(reversed(names))[:MAX_NAME] or "body"
        if isinstance(value, dict):
            stack += [((key, place), inner) for key, inner in value.items()]
            stack += [(place, key) for key in value]  # looked at first: no name that is told has one
        elif isinstance(value, list):
            stack += [((i, place), inner) for i, inner in enumerate(value) if isinstance(inner, str | list | dict)]
    return ""
