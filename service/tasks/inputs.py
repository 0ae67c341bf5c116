"""The JSON that inputs are made of: texts, labels, whole numbers, and the base of every input's shape."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, NamedTuple, TypeAlias

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from service.settings import MAX_ITEMS

MAX_LABEL = 200
MAX_TEMPLATE = 1000
"""Characters of a candidate label and of a hypothesis template: one is filled with each of the others and tokenised."""

_INVISIBLE = r"\s\u0000-\u001f\u007f-\u009f\u00ad\u200b-\u200f\u2028-\u202e\u2060\ufeff"
_VISIBLE = re.compile(f"[^{_INVISIBLE}]")
TEXT_PATTERN = rf"^[^\u0000]*[^{_INVISIBLE}][^\u0000]*$"
TEMPLATE_PATTERN = r"^[^{}\u0000]*\{\}[^{}\u0000]*$"
_TEMPLATE = re.compile(TEMPLATE_PATTERN)


class Limit(NamedTuple):
    """How long a list of an input may be: the noun for it, and the setting that says."""

    noun: str
    setting: str


class Shape(BaseModel):
    """Base of everything in a request's body: strict types, no unknown field."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class Options(Shape):
    """Base of the options that a request of many inputs may set for all of them."""


class Input(Shape):
    """Base of an input's shape.

    Attributes:
        marks: fields that tell it from the other shapes of its path; none: it is the shape of what has no marks.
        group: inputs of one request may differ in shape within a group.
        limits: of its lists, by field.
        shared: options that a request of many inputs may set for all of them.
    """

    marks: ClassVar[frozenset[str]] = frozenset()
    group: ClassVar[str]
    limits: ClassVar[dict[str, Limit]] = {}
    shared: ClassVar[type[Options]] = Options

    def example(self, shared: Any) -> Any:
        """Make the task's example of it, with `shared` for the options that it does not set."""
        raise NotImplementedError


def choose(shapes: Sequence[type[Input]], value: Any) -> type[Input]:
    """Choose the shape that an input's fields are meant for; the last one where they tell nothing."""
    keys = value.keys() if isinstance(value, dict) else ()
    return next((shape for shape in shapes if not shape.marks.isdisjoint(keys)), shapes[-1])


def _text(value: str) -> str:
    # A NUL in a text is the trace of bytes read wrongly (UTF-16 as Latin-1, a binary file): an answer computed from it
    # would be wrong without a word, and many a database would refuse the answer's text.
    if "\0" in value:
        raise PydanticCustomError("nul", "holds the character NUL (U+0000): was it decoded rightly?")
    if not _VISIBLE.search(value):
        raise PydanticCustomError("blank", "is blank: it needs a character that can be seen")
    return value


def _template(value: str) -> str:
    if not _TEMPLATE.search(value):
        raise PydanticCustomError("template", "must hold {} exactly once, where the label goes, and no other brace")
    return value


def _distinct(values: list[str]) -> list[str]:
    if len(set(values)) < len(values):
        raise PydanticCustomError("not_distinct", "must be distinct")
    return values


def _whole(value: Any) -> Any:
    # To JSON, 1.0 is an integer like 1, and some languages write every number so.
    return int(value) if isinstance(value, float) and value.is_integer() else value


Integer: TypeAlias = Annotated[int, BeforeValidator(_whole)]
Count: TypeAlias = Annotated[int, Field(ge=1, le=MAX_ITEMS), BeforeValidator(_whole)]
"""How many of a list to give."""
Text: TypeAlias = Annotated[
    str, AfterValidator(_text), WithJsonSchema({"type": "string", "minLength": 1, "pattern": TEXT_PATTERN})
]
Label: TypeAlias = Annotated[
    str,
    Field(max_length=MAX_LABEL),
    AfterValidator(_text),
    WithJsonSchema({"type": "string", "minLength": 1, "maxLength": MAX_LABEL, "pattern": TEXT_PATTERN}),
]
Labels: TypeAlias = Annotated[
    list[Label],
    Field(min_length=1, max_length=MAX_ITEMS, json_schema_extra={"uniqueItems": True}),
    AfterValidator(_distinct),
]
Template: TypeAlias = Annotated[
    str,
    Field(max_length=MAX_TEMPLATE),
    AfterValidator(_template),
    WithJsonSchema({"type": "string", "maxLength": MAX_TEMPLATE, "pattern": TEMPLATE_PATTERN}),
]
