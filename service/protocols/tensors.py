"""Tensors of the Open Inference Protocol: BYTES in JSON or after it, and what answers are made of.

The binary extension is Triton's: after a request's JSON, of the length that a header tells, come the tensors that have
a `binary_data_size`, in their order; each element of BYTES is its length, 4 bytes little-endian, and itself.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import ConfigDict, Field

from service.errors import InvalidInput
from service.http import requests
from service.settings import MAX_ITEMS
from service.tasks.inputs import Shape

FORMATS = {"FP32": "f", "INT64": "q"}


class Tensor(Shape):
    """An input: texts by their name."""

    model_config = ConfigDict(extra="ignore")
    name: str = Field(min_length=1, max_length=200)
    shape: list[int] = Field(min_length=1, max_length=2)
    datatype: str
    data: list[Any] | None = None
    parameters: dict[str, Any] = Field(default={})


def read(tensors: Sequence[Tensor], binary: bytes, most: int) -> dict[str, list[Any]]:
    """Read the tensors' texts: a list for each, of texts or of lists of texts; a last dimension of 1 is none.

    Args:
        most: elements of the first dimension.

    Raises:
        TooLarge: there are more.
        InvalidInput: one is not what it says.
    """
    found: dict[str, list[Any]] = {}
    at = 0
    for tensor in tensors:
        if tensor.name in found:
            raise InvalidInput(f"input {tensor.name!r} is there twice", field=tensor.name)
        if tensor.datatype != "BYTES":
            raise InvalidInput(f"input {tensor.name!r} is of BYTES, not {tensor.datatype[:20]!r}", field=tensor.name)
        if min(tensor.shape) < 1:
            raise InvalidInput(f"input {tensor.name!r} holds nothing", field=tensor.name)
        requests.limit("inputs", tensor.shape[0], most, tensor.name)
        requests.limit("elements", max(tensor.shape), MAX_ITEMS, tensor.name)
        size = tensor.parameters.get("binary_data_size")
        if size is None:
            texts = list(_flat(tensor.data or []))
        else:
            if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= len(binary) - at:
                raise InvalidInput(f"input {tensor.name!r}: its binary_data_size is not there", field=tensor.name)
            texts, at = _texts(binary[at : at + size], math.prod(tensor.shape), tensor.name), at + size
        if len(texts) != math.prod(tensor.shape):
            raise InvalidInput(f"input {tensor.name!r}: its shape and its data disagree", field=tensor.name)
        width = math.prod(tensor.shape[1:])
        found[tensor.name] = texts if width == 1 else [texts[i : i + width] for i in range(0, len(texts), width)]
    if at != len(binary):
        raise InvalidInput(f"{len(binary) - at} bytes after the request are of no input", field="inputs")
    return found


def write(name: str, values: Sequence[Any], *, binary: bool) -> tuple[dict[str, Any], bytes]:
    """Write an output: its JSON, and its bytes where it is binary.

    Args:
        values: one a row: a text, a number, or as many numbers.
    """
    wide = isinstance(values[0], list)
    flat = [item for value in values for item in value] if wide else list(values)
    kind = "BYTES" if isinstance(flat[0], str) else "FP32" if isinstance(flat[0], float) else "INT64"
    said: dict[str, Any] = {"name": name, "shape": [len(values), len(values[0])] if wide else [len(values)]}
    said["datatype"] = kind
    if not binary:
        return said | {"data": flat}, b""
    if kind == "BYTES":
        texts = [item.encode() for item in flat]
        content = b"".join(struct.pack("<I", len(text)) + text for text in texts)
    else:
        content = struct.pack(f"<{len(flat)}{FORMATS[kind]}", *flat)
    return said | {"parameters": {"binary_data_size": len(content)}}, content


def outputs(predictions: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Get what the JSON of predictions is as columns: an answer with its place, or a label with its scores."""
    if "answer" in predictions[0]:
        nothing = {"text": "", "start": 0, "end": 0}
        found = [each["answer"] or nothing | {"score": each["no_answer_score"]} for each in predictions]
        return {
            {"text": "answer"}.get(name, name): [each[name] for each in found]
            for name in ("text", "score", "start", "end", "option")
            if name in found[0]
        }
    if "ranking" in predictions[0]:
        return {name: [[text[name] for text in each["ranking"]] for each in predictions] for name in ("index", "score")}
    columns = {name: [each[name] for each in predictions] for name in ("label", "score") if name in predictions[0]}
    if "scores" in predictions[0]:
        columns["scores"] = [list(each["scores"].values()) for each in predictions]
    return columns


def text(content: bytes, name: str) -> str:
    """Decode an element of an input. Raises InvalidInput."""
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise InvalidInput(f"input {name!r:.200} is not in UTF-8", field=name[:200]) from None


def _flat(data: Sequence[Any]) -> Iterator[Any]:
    """Flatten rows, which JSON may nest once."""
    for item in data:
        if isinstance(item, list):
            yield from item
        else:
            yield item


def _texts(content: bytes, most: int, name: str) -> list[str]:
    texts: list[str] = []
    at = 0
    while at < len(content) and len(texts) <= most:
        begin = at + 4
        end = begin + int.from_bytes(content[at:begin], "little")
        if begin > len(content) or end > len(content):
            raise InvalidInput(f"input {name!r} breaks off within a text", field=name)
        texts.append(text(content[begin:end], name))
        at = end
    return texts
