"""Graphs in files, and their weights beside them in one file, each stored once.

ONNX calls this external data (docs/ExternalData.md of its specification). Graphs that hold the same codes, one for CPUs
and one for GPUs, share them on disk; and ONNX Runtime maps the file into memory, so that sessions on it share its
pages, and rows of an embedding that nobody asks for are never read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import onnx
from onnx.external_data_helper import set_external_data

INLINE_BYTES = 256
"""Tensors below this size stay in the graph: constants, and what shape inference may want to read."""
ALIGNMENT = 64
"""Each tensor begins at a multiple of so many bytes: a cache line, and a vector register of the widest kind."""


def save(graphs: Mapping[Path, onnx.ModelProto], weights: Path) -> None:
    """Write each graph to its path, and the tensors of all of them to `weights`, in the folder of the graphs.

    The protos are changed: their tensors point into the file.
    """
    places: dict[bytes, int] = {}
    with open(weights, "wb") as file:
        for proto in graphs.values():
            for tensor in proto.graph.initializer:
                content = tensor.raw_data
                if len(content) < INLINE_BYTES:
                    continue
                digest = hashlib.sha256(content).digest()
                if digest not in places:
                    file.write(b"\0" * (-file.tell() % ALIGNMENT))
                    places[digest] = file.tell()
                    file.write(content)
                set_external_data(tensor, weights.name, offset=places[digest], length=len(content))
                tensor.ClearField("raw_data")
    for path, proto in graphs.items():
        path.write_bytes(proto.SerializeToString())
