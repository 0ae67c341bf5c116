"""The JSON of requests: which fields there are, what they may hold, and what is said of a wrong one.

Owns the pydantic models of requests (the OpenAPI document is made of them too) and the way from a body's bytes to a
request. Knows nothing of answers and HTTP, and no limit that a setting can change.

A body is told apart by the fields that it has, before anything is checked: so a wrong field is reported against the
shape that was meant, not against every shape there is.
"""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, TypeAlias

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    TypeAdapter,
    ValidationError,
    WithJsonSchema,
)
from pydantic_core import ErrorDetails, PydanticCustomError

from service.errors import InvalidInput, MalformedBody
from service.scheduler.queue import Priority
from service.tasks import ClassificationExample, MultipleChoiceExample, SpanExample, ZeroShotExample
from service.tasks.zero_shot import DEFAULT_TEMPLATE

MAX_ERRORS = 20
"""Most wrong fields that an answer lists."""
MAX_NAME = 200
"""Characters of a model's name, and of an unknown field's name that an answer repeats."""
MAX_TEMPLATE = 1000
MAX_LABEL = 200
"""Characters of a hypothesis template and of a candidate label: one is filled with each of the others and tokenised."""

_INVISIBLE = r"\s\u0000-\u001f\u007f-\u009f\u00ad\u200b-\u200f\u2028-\u202e\u2060\ufeff"
_VISIBLE = re.compile(f"[^{_INVISIBLE}]")
TEXT_PATTERN = rf"^[^\u0000]*[^{_INVISIBLE}][^\u0000]*$"
TEMPLATE_PATTERN = r"^[^{}\u0000]*\{\}[^{}\u0000]*$"
_TEMPLATE = re.compile(TEMPLATE_PATTERN)
_SURROGATE = re.compile("[\ud800-\udfff]")


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
Text: TypeAlias = Annotated[
    str, AfterValidator(_text), WithJsonSchema({"type": "string", "minLength": 1, "pattern": TEXT_PATTERN})
]
Label: TypeAlias = Annotated[
    str,
    Field(max_length=MAX_LABEL),
    AfterValidator(_text),
    WithJsonSchema({"type": "string", "minLength": 1, "maxLength": MAX_LABEL, "pattern": TEXT_PATTERN}),
]
Template: TypeAlias = Annotated[
    str,
    Field(max_length=MAX_TEMPLATE),
    AfterValidator(_template),
    WithJsonSchema({"type": "string", "maxLength": MAX_TEMPLATE, "pattern": TEMPLATE_PATTERN}),
]
Context: TypeAlias = Annotated[
    Annotated[Text, Tag("#text")] | Annotated[list[Text], Field(min_length=1), Tag("#documents")],
    Discriminator(lambda value: "#documents" if isinstance(value, list) else "#text"),
]


class _Request(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class _Chosen(_Request):
    model: str | None = Field(
        None,
        min_length=1,
        max_length=MAX_NAME,
        description="Name of the model; by default one is chosen by the fields.",
    )
    priority: Priority = Field("normal", description="Requests of a higher one go first; no other waits for ever.")


class ManyRequest(_Chosen):
    """Many inputs of a kind, answered in their order."""

    inputs: list[Any]

    def examples(self) -> list[Any]:
        """The example of each input."""
        return [item.example() for item in self.inputs]


# ---- /qa: requests --------------------------------------------------------------------------------------------------


class QaOptions(_Request):
    top_k: Integer = Field(default=1, ge=1, le=100, description="Most answers to give.")
    max_answer_tokens: Integer = Field(default=30, ge=1, le=200, description="Tokens of the longest answer.")
    no_answer: bool | None = Field(
        default=None, description="Whether there may be no answer; the model's own default when not given."
    )


class QaInput(QaOptions):
    question: Text
    context: Context = Field(description="The text to look in, or several (documents).")

    def example(self, shared: QaOptions | None = None) -> SpanExample:
        """The example, with `shared` for options that this input does not set."""
        chosen = {
            name: getattr(self if shared is None or name in self.model_fields_set else shared, name)
            for name in QaOptions.model_fields
        }
        documents = (self.context,) if isinstance(self.context, str) else tuple(self.context)
        return SpanExample(self.question, documents, **chosen)


class QaRequest(QaInput, _Chosen):
    """A question about a text, or about several."""


class QaManyRequest(QaOptions, ManyRequest):
    """Many questions, answered in their order. Options hold for every input that does not set its own."""

    inputs: list[QaInput] = Field(min_length=1)

    def examples(self) -> list[SpanExample]:
        return [item.example(self) for item in self.inputs]


class ChoiceInput(_Request):
    question: Text = Field(description="A single `_` in it is where the option goes; else the option follows it.")
    context: Text = Field(description="The text to look in.")
    options: list[Text] = Field(min_length=2)

    def example(self) -> MultipleChoiceExample:
        return MultipleChoiceExample(self.question, self.context, tuple(self.options))


class ChoiceRequest(ChoiceInput, _Chosen):
    """A question about a text, and the options to answer it with."""


class ManyChoicesRequest(ManyRequest):
    """Many questions with options, answered in their order."""

    inputs: list[ChoiceInput] = Field(min_length=1)


def _qa_kind(value: Any) -> str:
    if not isinstance(value, dict):
        return "#one"
    if "inputs" not in value:
        return "#choice" if "options" in value else "#one"
    return "#choices" if "options" in _first(value["inputs"]) else "#many"


def _first(inputs: Any) -> dict[str, Any]:
    """The first of many inputs, which says what sort all of them are; empty where there is none that could."""
    first = inputs[0] if isinstance(inputs, list) and inputs else None
    return first if isinstance(first, dict) else {}


QaBody: TypeAlias = Annotated[
    Annotated[QaRequest, Tag("#one")]
    | Annotated[QaManyRequest, Tag("#many")]
    | Annotated[ChoiceRequest, Tag("#choice")]
    | Annotated[ManyChoicesRequest, Tag("#choices")],
    Discriminator(_qa_kind),
]


# ---- /classify: requests --------------------------------------------------------------------------------------------


class TextInput(_Request):
    text: Text

    def example(self) -> ClassificationExample:
        return ClassificationExample(self.text)


class PremiseInput(_Request):
    premise: Text
    hypothesis: Text

    def example(self) -> ClassificationExample:
        return ClassificationExample(self.premise, self.hypothesis)


class TextPairInput(_Request):
    text: Text
    text_pair: Text

    def example(self) -> ClassificationExample:
        return ClassificationExample(self.text, self.text_pair)


class ZeroShotInput(_Request):
    text: Text
    candidate_labels: Annotated[list[Label], AfterValidator(_distinct)] = Field(
        min_length=1, json_schema_extra={"uniqueItems": True}
    )
    hypothesis_template: Template = Field(default=DEFAULT_TEMPLATE, description="`{}` is where the label goes.")
    multi_label: bool = Field(default=False, description="Score each label alone, so that several may be right.")

    def example(self) -> ZeroShotExample:
        return ZeroShotExample(
            self.text, tuple(self.candidate_labels), self.hypothesis_template, multi_label=self.multi_label
        )


def _kind(value: Any) -> str:
    """What sort of input an object's fields are meant for."""
    if not isinstance(value, dict):
        return "#text"
    if not value.keys().isdisjoint(("candidate_labels", "hypothesis_template", "multi_label")):
        return "#zero-shot"
    if not value.keys().isdisjoint(("premise", "hypothesis")):
        return "#premise"
    return "#text-pair" if "text_pair" in value else "#text"


_TAGS = frozenset(
    (
        "#one", "#many", "#choice", "#choices", "#text", "#documents", "#premise", "#text-pair", "#zero-shot", "#texts",
        "#pairs", "#zero-shots",
    )
)  # fmt: skip
"""Names of the shapes above and below. pydantic puts them into an error's place, where a caller has no use for them."""
_KINDS_OF_MANY = {"#text": "#texts", "#premise": "#pairs", "#text-pair": "#pairs", "#zero-shot": "#zero-shots"}

PairInput: TypeAlias = Annotated[
    Annotated[PremiseInput, Tag("#premise")] | Annotated[TextPairInput, Tag("#text-pair")],
    Discriminator(lambda value: "#premise" if _kind(value) == "#premise" else "#text-pair"),
]


class TextRequest(TextInput, _Chosen):
    """A text by itself: its sentiment."""


class PremiseRequest(PremiseInput, _Chosen):
    """Whether the premise entails the hypothesis, contradicts it, or neither."""


class TextPairRequest(TextPairInput, _Chosen):
    """A pair of texts, under the names that other tools give them."""


class ZeroShotRequest(ZeroShotInput, _Chosen):
    """A text and the labels to choose from."""


class ManyTextsRequest(ManyRequest):
    """Many texts, each by itself."""

    inputs: list[TextInput] = Field(min_length=1)


class ManyPairsRequest(ManyRequest):
    """Many pairs of texts."""

    inputs: list[PairInput] = Field(min_length=1)


class ManyZeroShotsRequest(ManyRequest):
    """Many texts, each with labels of its own."""

    inputs: list[ZeroShotInput] = Field(min_length=1)


def _classify_kind(value: Any) -> str:
    if not isinstance(value, dict) or "inputs" not in value:
        return _kind(value)
    return _KINDS_OF_MANY[_kind(_first(value["inputs"]))]


ClassifyBody: TypeAlias = Annotated[
    Annotated[TextRequest, Tag("#text")]
    | Annotated[PremiseRequest, Tag("#premise")]
    | Annotated[TextPairRequest, Tag("#text-pair")]
    | Annotated[ZeroShotRequest, Tag("#zero-shot")]
    | Annotated[ManyTextsRequest, Tag("#texts")]
    | Annotated[ManyPairsRequest, Tag("#pairs")]
    | Annotated[ManyZeroShotsRequest, Tag("#zero-shots")],
    Discriminator(_classify_kind),
]

Shapes: TypeAlias = TypeAdapter[Any]
"""The shapes that a route's body may have."""
QA_BODY: Shapes = TypeAdapter(QaBody)
CLASSIFY_BODY: Shapes = TypeAdapter(ClassifyBody)


# ---- bytes to requests ----------------------------------------------------------------------------------------------


def parse(shapes: Shapes, body: bytes) -> Any:
    """The request that a body holds: one with an `example`, or a `ManyRequest`.

    Raises:
        MalformedBody: it is not JSON.
        InvalidInput: fields are wrong; names each.
    """
    try:
        return shapes.validate_json(body)
    except ValidationError as error:
        details = error.errors(include_url=False, include_input=False)
    if details[0]["type"] == "json_invalid":
        field = _lone_surrogate(body)
        if field is None:
            raise MalformedBody(f"the body is not JSON: {details[0]['ctx']['error']}")
        raise InvalidInput(f"{field} holds half of a surrogate pair, which is no character", field=field)
    errors = tuple((_field(detail), _reason(detail)) for detail in details[:MAX_ERRORS])
    more = f" (and {len(details) - 1} more)" if len(details) > 1 else ""
    field, reason = errors[0]
    raise InvalidInput(f"{field} {reason}{more}", field=field, errors=errors if len(errors) > 1 else ())


def examples(request: Any) -> list[Any]:
    """What a parsed body asks: the example of each of its inputs, or its own."""
    return request.examples() if isinstance(request, ManyRequest) else [request.example()]


def _field(detail: ErrorDetails) -> str:
    *path, last = detail["loc"] or ("",)
    parts = [part for part in path if part not in _TAGS]
    if last not in _TAGS or detail["type"] == "extra_forbidden":
        parts.append(last)
    return ".".join(str(part)[:MAX_NAME] for part in parts) or "body"


def _reason(detail: ErrorDetails) -> str:
    match detail["type"]:
        case "missing":
            return "is missing"
        case "extra_forbidden":
            return "is no field of such a request"
        case "too_short":
            least = detail["ctx"]["min_length"]
            return "must not be empty" if least == 1 else f"must hold {least} or more"
        case _:
            message = detail["msg"].removeprefix("Input ")
            return message[0].lower() + message[1:]


def _lone_surrogate(body: bytes) -> str | None:
    """Where a body that is JSON otherwise holds a lone surrogate ("\\ud83d"): Python's parser lets that pass."""
    # A place is a name and the place that it is in, or (): written out for each value, long names would fill memory.
    try:
        stack: list[tuple[tuple[Any, ...], Any]] = [((), json.loads(body))]
    except (ValueError, RecursionError):
        return None
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
    return None
