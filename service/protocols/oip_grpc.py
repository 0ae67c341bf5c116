"""The Open Inference Protocol, version 2 over gRPC, as KServe and Triton speak it.

A method is an endpoint whose path is the method's: a message's bytes in, a message's bytes out, errors as gRPC's
statuses. What tensors hold is as over HTTP (`oip`). Contents come raw or typed, and are answered in the same way.
Import it where gRPC is on alone: it takes the extra `grpc`.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from google.protobuf.message import DecodeError
from starlette.responses import Response

from service import __version__
from service.errors import BertieError, InvalidInput, MalformedBody
from service.http import problems, requests
from service.http.endpoints import Ask, Document, Done, Endpoint, Work
from service.http.problems import Refusal
from service.protocols import oip, tensors
from service.protocols.oip import InferBody
from service.protocols.oip_messages import CLASSES, SERVICE

MAX_FIELDS = 256
"""Most fields of a message: two bytes of one can make an input, which takes fifty times as many."""
_CONTENTS = {"BYTES": "bytes_contents", "FP32": "fp32_contents", "INT64": "int64_contents"}


def live(ask: Ask) -> Response:
    """Tell whether the process runs."""
    return _response("ServerLiveResponse", live=ask.predictor.alive)


def ready(ask: Ask) -> Response:
    """Tell whether requests are answered."""
    return _response("ServerReadyResponse", ready=ask.predictor.ready)


def model_ready(ask: Ask) -> Response:
    """Tell whether a model answers."""
    oip.chosen(_named(ask, "ModelReadyRequest"))
    return _response("ModelReadyResponse", ready=ask.predictor.ready)


def server(ask: Ask) -> Response:
    """Get the server's name and version."""
    return _response("ServerMetadataResponse", name="bertie", version=__version__)


def metadata(ask: Ask) -> Response:
    """Get a model's versions, inputs and outputs."""
    return _response("ModelMetadataResponse", **oip.described(oip.chosen(_named(ask, "ModelMetadataRequest"))))


def infer(ask: Ask) -> Work:
    """Answer the inputs that the tensors hold."""
    message = _parse("ModelInferRequest", ask.body)
    is_raw = bool(message.raw_input_contents)
    body = requests.check(InferBody, _body(message, ask))
    named = replace(ask, parts=_parts(message.model_name, message.model_version))
    model, examples = oip.read(named, body, b"".join(message.raw_input_contents))

    def write(done: Done) -> Response:
        said: dict[str, list[Any]] = {"outputs": [], "raw_output_contents": []}
        for name, values in oip.outputs(done, body).items():
            output, content = tensors.write(name, values, binary=is_raw)
            typed = {name: output[name] for name in ("name", "datatype", "shape")}
            if is_raw:
                said["raw_output_contents"].append(content)
            else:
                data = [each.encode() if isinstance(each, str) else each for each in output["data"]]
                typed["contents"] = {_CONTENTS[output["datatype"]]: data}
            said["outputs"].append(typed)
        name, version = model.name, done.models[0].version
        return _response(
            "ModelInferResponse", model_name=name, model_version=version, id=body.id or uuid.uuid4().hex, **said
        )

    return Work(examples, write, model.name, named.parts.get("version"), "inputs")


def refuse(error: BertieError, request_id: str) -> Refusal:
    """Write an error as its text alone; the status says the rest."""
    status, headers, _ = problems.refusal(error, {})
    return Refusal(status, headers, problems.told(error).encode())


def _body(message: Any, ask: Ask) -> dict[str, Any]:
    """Get what the message would be over HTTP."""
    raw: Sequence[bytes] = message.raw_input_contents
    if raw and len(raw) != len(message.inputs):
        raise InvalidInput(f"{len(raw)} raw_input_contents are not one for each input", field="raw_input_contents")
    inputs: list[dict[str, Any]] = []
    for place, tensor in enumerate(message.inputs):
        inputs.append({"name": tensor.name, "shape": list(tensor.shape[:3]), "datatype": tensor.datatype})
        texts: Sequence[bytes] = tensor.contents.bytes_contents
        if raw and texts:
            raise InvalidInput(f"input {tensor.name!r:.200} has contents beside raw ones", field="inputs")
        requests.limit("elements", len(texts), requests.MAX_VALUES, "inputs")
        if raw:
            inputs[-1]["parameters"] = {"binary_data_size": len(raw[place])}
        else:
            inputs[-1]["data"] = [tensors.text(content, tensor.name) for content in texts]
    outputs = [{"name": output.name} for output in message.outputs]
    return {
        "id": message.id or None,
        "inputs": inputs,
        "outputs": outputs or None,
        "parameters": {name: _value(parameter) for name, parameter in message.parameters.items()},
    }


def _value(parameter: Any) -> Any:
    kind = parameter.WhichOneof("parameter_choice")
    return getattr(parameter, kind) if kind else None


def _named(ask: Ask, message: str) -> Ask:
    found = _parse(message, ask.body)
    return replace(ask, parts=_parts(found.name, found.version))


def _parts(name: str, version: str) -> Mapping[str, str]:
    return {"name": name, "version": version} if version else {"name": name}


def _parse(name: str, content: bytes) -> Any:
    """Parse a message. Raises MalformedBody, or TooLarge for one of too many fields."""
    _check_fields(content)
    try:
        return CLASSES[name].FromString(content)
    except DecodeError:
        raise MalformedBody(f"the message is no {name}") from None


def _check_fields(content: bytes) -> None:
    """Count a message's fields without parsing it: what is bounded after parsing is not bounded."""
    at = count = 0
    while at < len(content):
        count += 1
        requests.limit("fields", count, MAX_FIELDS, None)
        tag, at = _varint(content, at)
        match tag & 7:
            case 0:
                _, at = _varint(content, at)
            case 1:
                at += 8
            case 2:
                length, at = _varint(content, at)
                at += length
            case 5:
                at += 4
            case _:
                raise MalformedBody("the message has a field of a kind that is none of proto3's")


def _varint(content: bytes, at: int) -> tuple[int, int]:
    """Read a number (protobuf's encoding: 7 bits a byte, the lowest first), and get where it ends."""
    value = 0
    for place, byte in enumerate(content[at : at + 10]):
        value |= (byte & 127) << 7 * place
        if byte < 128:
            return value, at + place + 1
    raise MalformedBody("the message breaks off")


def _response(message: str, /, **fields: Any) -> Response:
    return Response(CLASSES[message](**fields).SerializeToString())


_DOCUMENT = Document("oip")  # no path of HTTP's, and so in no document
ENDPOINTS = (
    Endpoint(f"/{SERVICE}/ServerLive", live, _DOCUMENT, "GET", refuse, open=True),
    Endpoint(f"/{SERVICE}/ServerReady", ready, _DOCUMENT, "GET", refuse, open=True),
    Endpoint(f"/{SERVICE}/ModelReady", model_ready, _DOCUMENT, "GET", refuse, open=True),
    Endpoint(f"/{SERVICE}/ServerMetadata", server, _DOCUMENT, "GET", refuse),
    Endpoint(f"/{SERVICE}/ModelMetadata", metadata, _DOCUMENT, "GET", refuse),
    Endpoint(f"/{SERVICE}/ModelInfer", infer, _DOCUMENT, refuse=refuse, is_json=False),
)
"""By the path that gRPC has for a method; GET: what wants no model to run."""
