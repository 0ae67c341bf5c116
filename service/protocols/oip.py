"""The Open Inference Protocol, version 2 over HTTP, as KServe and Triton speak it, with Triton's binary extension.

Inputs are tensors of BYTES with the names of Bertie's own fields, an element an input: `text` and `text_pair`, or
`question` and `context`. Parameters of a request are fields that all inputs share. Outputs are `label`, `score` and
`scores`, or `answer`, `score`, `start` and `end`. Errors are `{"error"}`.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import to_json
from starlette.responses import Response

from service import __version__
from service.errors import InvalidInput, MalformedBody, NotReady, UnknownModel
from service.http import answers, requests
from service.http.endpoints import Ask, Document, Done, Endpoint, Work
from service.protocols import info, tensors
from service.protocols.tensors import Tensor
from service.serving import Model
from service.tasks import PATHS
from service.tasks.inputs import Shape

HEADER = "inference-header-content-length"
PLATFORM = "onnxruntime_onnx"
_SCHEMAS = {
    name: schema
    for tasks in PATHS.values()
    for task in tasks
    for shape in task.inputs
    for name, schema in shape.model_json_schema()["properties"].items()
}
LISTS = frozenset(name for name, schema in _SCHEMAS.items() if schema.get("type") == "array")
"""Fields of inputs that are lists of texts, whose tensors have two dimensions."""


class Output(Shape):
    """An output that is asked for."""

    model_config = ConfigDict(extra="ignore")
    name: str = Field(max_length=200)
    parameters: dict[str, Any] = Field(default={})


class InferBody(Shape):
    """Tensors of texts."""

    model_config = ConfigDict(extra="ignore")
    id: str | None = Field(None, max_length=200, description="Comes back.")
    inputs: list[Tensor] = Field(min_length=1, max_length=8)
    outputs: list[Output] | None = Field(None, max_length=16, description="The outputs to give; all when not given.")
    parameters: dict[str, Any] = Field({}, description="Fields that all inputs share, and `binary_data_output`.")


class OipError(BaseModel):
    """An error."""

    error: str


def server(ask: Ask) -> Response:
    """Get the server's name, version and extensions."""
    extensions = ["binary_tensor_data"]
    return answers.response({"name": "bertie", "version": __version__, "extensions": extensions})


def live(ask: Ask) -> Response:
    """Tell whether the process runs."""
    if not ask.predictor.alive:
        raise NotReady("the engine's workers were lost again and again: restart the service")
    return answers.response({"live": True})


def ready(ask: Ask) -> Response:
    """Tell whether requests are answered."""
    if not ask.predictor.ready:
        raise NotReady("the service is stopping, or its engine fails")
    return answers.response({"ready": True})


def index(ask: Ask) -> Response:
    """List the loaded models with their versions, as Triton's repository does."""
    loaded = [each for serving in ask.models.serving.values() for each in serving.loaded]
    return answers.response(
        [{"name": each.name, "version": each.version, "state": "READY", "reason": ""} for each in loaded]
    )


def model_ready(ask: Ask) -> Response:
    """Tell whether a model answers."""
    return info.ready(ask, chosen(ask))


def metadata(ask: Ask) -> Response:
    """Get a model's versions, inputs and outputs."""
    return answers.response(described(chosen(ask)))


def infer(ask: Ask) -> Work:
    """Answer the inputs that the tensors hold."""
    head, binary = _split(ask)
    body = requests.check(InferBody, requests.decode(head, ask.settings))
    model, examples = read(ask, body, binary)
    binary_output = body.parameters.get("binary_data_output") is True

    def write(done: Done) -> Response:
        asked = {each.name: each.parameters for each in body.outputs or ()}
        said, contents = [], []
        for name, values in outputs(done, body).items():
            output, content = tensors.write(
                name, values, binary=asked.get(name, {}).get("binary_data", binary_output) is True
            )
            said.append(output)
            contents.append(content)
        head = to_json(
            {
                "model_name": model.name,
                "model_version": done.models[0].version,
                "id": body.id or uuid.uuid4().hex,
                "outputs": said,
            }
        )
        if not any(contents):
            return Response(head, media_type=answers.JSON)
        headers = {HEADER: str(len(head))}
        return Response(b"".join((head, *contents)), headers=headers, media_type="application/octet-stream")

    return Work(examples, write, model.name, ask.parts.get("version"), "inputs")


def read(ask: Ask, body: InferBody, binary: bytes) -> tuple[Model, Sequence[Any]]:
    """Get the model that is asked, and the examples that the tensors hold.

    Args:
        binary: contents of the tensors that have a `binary_data_size`.

    Raises:
        BertieError: what `tensors.read`, `chosen` and `requests.parse_value` raise.
    """
    columns = tensors.read(body.inputs, binary, ask.settings.max_inputs)
    model = chosen(ask)
    rows = {len(column) for column in columns.values()}
    if len(rows) > 1:
        raise InvalidInput("the inputs are of several lengths", field="inputs")
    for name in LISTS & columns.keys():  # a list of one element has lost it
        columns[name] = [each if isinstance(each, list) else [each] for each in columns[name]]
    shared = {name: value for name, value in body.parameters.items() if name in _SCHEMAS}
    inputs = [dict(zip(columns, values, strict=True)) | shared for values in zip(*columns.values(), strict=True)]
    return model, requests.parse_value(model.tasks[0].path, {"inputs": inputs}, ask.settings).examples


def outputs(done: Done, body: InferBody) -> dict[str, list[Any]]:
    """Get the outputs that are asked for, a list of values each. Raises InvalidInput for one that is not there."""
    found = tensors.outputs([answers.dump(prediction) for prediction in done.predictions])
    for each in body.outputs or ():
        if each.name not in found:
            raise InvalidInput(f"there is no output {each.name!r:.200}; there are {', '.join(found)}", field="outputs")
    return {each.name: found[each.name] for each in body.outputs} if body.outputs else found


def described(model: Model) -> dict[str, Any]:
    """Describe a model as the protocol's metadata does."""
    labels = len(model.bundle.manifest.labels)
    shapes = {"scores": [-1, labels or -1]}
    kinds = {"label": "BYTES", "answer": "BYTES", "score": "FP32", "scores": "FP32"}
    return {
        "name": model.name,
        "versions": [model.version],
        "platform": PLATFORM,
        "inputs": [
            {"name": name, "datatype": "BYTES", "shape": [-1, -1] if name in LISTS else [-1]} for name in _inputs(model)
        ],
        "outputs": [
            {"name": name, "datatype": kinds.get(name, "INT64"), "shape": shapes.get(name, [-1])}
            for name in _outputs(model)
        ],
    }


def _split(ask: Ask) -> tuple[bytes, bytes]:
    length = ask.headers.get(HEADER)
    if length is None:
        return ask.body, b""
    if not (length.isascii() and length.isdigit() and len(length) < 20 and int(length) <= len(ask.body)):
        raise MalformedBody(f"{HEADER} is not the length of the request's JSON")
    return ask.body[: int(length)], ask.body[int(length) :]


def chosen(ask: Ask) -> Model:
    """Get the model that is named, of the version that is named. Raises UnknownModel."""
    model, version = info.model(ask), ask.parts.get("version")
    loaded = ask.models.every[model.name].loaded
    for each in loaded:
        if version in (None, each.version):
            return each
    known = ", ".join(each.version for each in loaded)
    raise UnknownModel(f"there is no version {version!r:.200} of it; loaded: {known}", field="version")


def _inputs(model: Model) -> list[str]:
    """The fields of the simplest input that a model takes."""
    found: list[str] = []
    task = model.tasks[0]
    for shape in task.inputs:
        required = [name for name, field in shape.model_fields.items() if field.is_required()]
        value = {name: ["a", "b"] if name in LISTS else "a" for name in required}
        if task.suits(shape.model_validate(value).example(shape.shared()), named=True):
            found = required
    return found


def _outputs(model: Model) -> list[str]:
    fields = answers.ADAPTERS[model.tasks[0].prediction].json_schema(mode="serialization")["properties"]
    if "answer" in fields:
        return ["answer", "score", "option"] if "truncated" in fields else ["answer", "score", "start", "end"]
    return [name for name in ("label", "score", "scores") if name in fields]


def _described(*required: str) -> Document:
    return Document("oip", {"type": "object", "required": list(required)}, error=OipError)


_INFER = Document(
    "oip",
    {"type": "object", "required": ["model_name", "outputs"]},
    (InferBody,),
    {"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["What a wonderful film!"]}]},
    OipError,
)
_LIST = Document("oip", {"type": "array"}, error=OipError, predicts=False)
ENDPOINTS = (
    *(
        Endpoint(f"{base}/infer", infer, _INFER, refuse=info.refuse_plainly, is_json=False)
        for base in ("/v2/models/{name}", "/v2/models/{name}/versions/{version}")
    ),
    *(
        Endpoint(f"{base}/ready", model_ready, _described("ready"), "GET", info.refuse_plainly, open=True)
        for base in ("/v2/models/{name}", "/v2/models/{name}/versions/{version}")
    ),
    *(
        Endpoint(base, metadata, _described("name", "versions", "inputs", "outputs"), "GET", info.refuse_plainly)
        for base in ("/v2/models/{name}", "/v2/models/{name}/versions/{version}")
    ),
    Endpoint("/v2", server, _described("name", "version", "extensions"), "GET", info.refuse_plainly),
    Endpoint("/v2/health/live", live, _described("live"), "GET", info.refuse_plainly, open=True),
    Endpoint("/v2/health/ready", ready, _described("ready"), "GET", info.refuse_plainly, open=True),
    Endpoint("/v2/models", info.models, _described("models"), "GET", info.refuse_plainly),
    Endpoint("/v2/repository/index", index, _LIST, refuse=info.refuse_plainly, is_json=False),
)
