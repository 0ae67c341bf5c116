"""The messages of the Open Inference Protocol over gRPC, as KServe and Triton number their fields.

Made when imported, of the tables below: no generated code that must fit the protobuf that is installed, and a pool of
their own, so that another library's messages of the same names do no harm. A field of theirs that is not here is
skipped by the parser. Import it where gRPC is on alone: it takes the extra `grpc`.

Source: open_inference_grpc.proto of the protocol's repository (package `inference`).
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

PACKAGE = "inference"
SERVICE = f"{PACKAGE}.GRPCInferenceService"
_Field = descriptor_pb2.FieldDescriptorProto
_KINDS = {
    "double": _Field.TYPE_DOUBLE,
    "float": _Field.TYPE_FLOAT,
    "int64": _Field.TYPE_INT64,
    "uint64": _Field.TYPE_UINT64,
    "int32": _Field.TYPE_INT32,
    "uint32": _Field.TYPE_UINT32,
    "bool": _Field.TYPE_BOOL,
    "string": _Field.TYPE_STRING,
    "bytes": _Field.TYPE_BYTES,
}
_NAMED = {"name": "1 string", "version": "2 string"}
_TENSOR = {"name": "1 string", "datatype": "2 string", "shape": "3 repeated int64"}
_CONTENTS = {"parameters": "4 map InferParameter", "contents": "5 InferTensorContents"}
MESSAGES: dict[str, dict[str, str]] = {
    "ServerLiveRequest": {},
    "ServerLiveResponse": {"live": "1 bool"},
    "ServerReadyRequest": {},
    "ServerReadyResponse": {"ready": "1 bool"},
    "ModelReadyRequest": _NAMED,
    "ModelReadyResponse": {"ready": "1 bool"},
    "ServerMetadataRequest": {},
    "ServerMetadataResponse": {**_NAMED, "extensions": "3 repeated string"},
    "ModelMetadataRequest": _NAMED,
    "ModelMetadataResponse.TensorMetadata": _TENSOR,
    "ModelMetadataResponse": {
        "name": "1 string",
        "versions": "2 repeated string",
        "platform": "3 string",
        "inputs": "4 repeated ModelMetadataResponse.TensorMetadata",
        "outputs": "5 repeated ModelMetadataResponse.TensorMetadata",
    },
    "InferParameter": {
        "bool_param": "1 oneof bool",
        "int64_param": "2 oneof int64",
        "string_param": "3 oneof string",
        "double_param": "4 oneof double",
        "uint64_param": "5 oneof uint64",
    },
    "InferTensorContents": {
        "bool_contents": "1 repeated bool",
        "int_contents": "2 repeated int32",
        "int64_contents": "3 repeated int64",
        "uint_contents": "4 repeated uint32",
        "uint64_contents": "5 repeated uint64",
        "fp32_contents": "6 repeated float",
        "fp64_contents": "7 repeated double",
        "bytes_contents": "8 repeated bytes",
    },
    "ModelInferRequest.InferInputTensor": {**_TENSOR, **_CONTENTS},
    "ModelInferRequest.InferRequestedOutputTensor": {"name": "1 string", "parameters": "2 map InferParameter"},
    "ModelInferRequest": {
        "model_name": "1 string",
        "model_version": "2 string",
        "id": "3 string",
        "parameters": "4 map InferParameter",
        "inputs": "5 repeated ModelInferRequest.InferInputTensor",
        "outputs": "6 repeated ModelInferRequest.InferRequestedOutputTensor",
        "raw_input_contents": "7 repeated bytes",
    },
    "ModelInferResponse.InferOutputTensor": {**_TENSOR, **_CONTENTS},
    "ModelInferResponse": {
        "model_name": "1 string",
        "model_version": "2 string",
        "id": "3 string",
        "parameters": "4 map InferParameter",
        "outputs": "5 repeated ModelInferResponse.InferOutputTensor",
        "raw_output_contents": "6 repeated bytes",
    },
}
"""Each message's fields: number, what is special about it, type. An inner message comes before its outer one."""


def _made() -> dict[str, Any]:
    """Make the classes of the messages."""
    file = descriptor_pb2.FileDescriptorProto(name="inference.proto", package=PACKAGE, syntax="proto3")
    made: dict[str, Any] = {}
    outer = {name.partition(".")[0]: file.message_type.add(name=name) for name in MESSAGES if "." not in name}
    for name, fields in MESSAGES.items():
        above, _, inner = name.partition(".")
        made[name] = outer[above].nested_type.add(name=inner) if inner else outer[name]
        for field, words in fields.items():
            _add(made[name], f".{PACKAGE}.{name}", field, *words.split())
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{PACKAGE}.{name}")) for name in MESSAGES}


def _add(message: Any, path: str, name: str, number: str, *words: str) -> None:
    kind = words[-1]
    field = message.field.add(name=name, number=int(number), label=_Field.LABEL_OPTIONAL)
    if words[0] in ("repeated", "map"):
        field.label = _Field.LABEL_REPEATED
    if words[0] == "oneof":
        if not message.oneof_decl:
            message.oneof_decl.add(name="parameter_choice")
        field.oneof_index = 0
    if words[0] == "map":
        entry = message.nested_type.add(name=f"{name.title()}Entry")
        entry.options.map_entry = True
        _add(entry, "", "key", "1", "string")
        _add(entry, "", "value", "2", kind)
        field.type, field.type_name = _Field.TYPE_MESSAGE, f"{path}.{entry.name}"
    elif kind in _KINDS:
        field.type = _KINDS[kind]
    else:
        field.type, field.type_name = _Field.TYPE_MESSAGE, f".{PACKAGE}.{kind}"


CLASSES = _made()
"""The class of each message by its name."""
