"""`{"instances"}` in, `{"predictions"}` out, as KServe's first protocol and Vertex AI have it.

An instance is one of Bertie's own inputs, or a bare text; a prediction is Bertie's own. `parameters` are fields that
all instances share.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, Field, WithJsonSchema
from starlette.responses import Response

from service.errors import InvalidInput
from service.http import answers, requests
from service.http.endpoints import Ask, Document, Done, Work
from service.protocols import own
from service.tasks.inputs import Shape

_OBJECT = {"type": "object", "properties": {"text": own.TEXT}, "required": ["text"], "maxProperties": 1}
_INSTANCE = {"anyOf": [own.TEXT, _OBJECT]}


class InstancesBody(Shape):
    """Inputs of Bertie's own, or texts, each by itself."""

    instances: Annotated[list[Any], WithJsonSchema({"type": "array", "items": _INSTANCE, "minItems": 1})] = Field(
        min_length=1
    )
    parameters: dict[str, Any] | None = Field(
        None, json_schema_extra={"maxProperties": 0}, description="Fields that all instances share."
    )
    signature_name: Any = Field(None, description="Ignored.")


class InstancesError(BaseModel):
    """An error."""

    error: str


def read(ask: Ask) -> Work:
    """Read the instances, which may be for several models."""
    data = ask.json()
    if isinstance(data, dict) and isinstance(listed := data.get("instances"), list):
        requests.limit("instances", len(listed), ask.settings.max_inputs, "instances")
    body = requests.check(InstancesBody, data)
    values = [
        {**(body.parameters or {}), **(value if isinstance(value, dict) else {"text": value})}
        for value in body.instances
    ]
    calls = own.calls(values, ask.settings, noun="instances")
    if any(call.many for call in calls):
        raise InvalidInput("an instance is one input: leave out `inputs`", field="instances")
    named = {call.model for call in calls}
    if len(named) > 1:
        raise InvalidInput("all instances of a request are for one `model`", field="instances")

    def write(done: Done) -> Response:
        return answers.response({"predictions": [answers.dump(prediction) for prediction in done.predictions]})

    model = ask.name or next(iter(named))
    return Work([call.examples[0] for call in calls], write, model, noun="instances", mixed=True)


_ANSWER = {"type": "object", "properties": {"predictions": {"type": "array"}}, "required": ["predictions"]}


def document(tag: str) -> Document:
    """What the OpenAPI document says of a path that takes instances."""
    return Document(tag, _ANSWER, (InstancesBody,), {"instances": ["What a wonderful film!"]}, InstancesError)
