"""How weights are stored in an exported graph: one `Encoding` per precision.

This file owns the encodings and the arithmetic that turns float matrices into codes and scales. It does not know what
a layer or a model is: `training.graph` hands it one named matrix at a time and gets back a function that writes the
nodes which use it. A matrix is encoded once, however often it is used, so shared weights stay shared.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from training.canvas import Array, Canvas

Use = Callable[[str, str], str]
"""Writes the nodes that use a stored weight: (name of the input, name for the output) -> name of the output."""


class Encoding(Protocol):
    """A precision: how matrices and embedding tables are kept in the file and used in the graph."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the hidden states, and of what is too small to be worth encoding: biases, layer norms."""

    def matmul(self, canvas: Canvas, name: str, matrix: Array) -> Use:
        """Store `matrix` [inputs, outputs]; the use maps x [..., inputs] to x @ matrix [..., outputs]."""

    def embedding(self, canvas: Canvas, name: str, table: Array) -> Use:
        """Store `table` [entries, size]; the use maps ids [...] to rows of the table [..., size]."""


@dataclass(frozen=True)
class Float:
    """Weights as they are, in fp32 or fp16."""

    dtype: np.dtype[Any]

    def matmul(self, canvas: Canvas, name: str, matrix: Array) -> Use:
        stored = canvas.weight(name, matrix.astype(self.dtype))
        return lambda x, to: canvas.node("MatMul", [x, stored], to)

    def embedding(self, canvas: Canvas, name: str, table: Array) -> Use:
        stored = canvas.weight(name, table.astype(self.dtype))
        return lambda ids, to: canvas.node("Gather", [stored, ids], to)


@dataclass(frozen=True)
class Blockwise8:
    """8-bit weights, a scale per block of each output's inputs; activations are quantised inside the kernel.

    The kernel (com.microsoft MatMulNBits) scales every row of activations by its own blocks, so a row's result does
    not depend on the rows it shares a batch with.
    """

    block: int
    """Inputs per scale: a power of two from 16 up. Larger is smaller and faster, and coarser."""

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.float32)

    def matmul(self, canvas: Canvas, name: str, matrix: Array) -> Use:
        inputs, outputs = matrix.shape
        blocks = -(-inputs // self.block)
        padded = np.zeros((outputs, blocks * self.block), np.float32)
        padded[:, :inputs] = matrix.T
        codes, scales = symmetric(padded.reshape(outputs, blocks, self.block))
        weights = [
            canvas.weight(f"{name}.codes", (codes.astype(np.int16) + 128).astype(np.uint8)),
            canvas.weight(f"{name}.scales", scales.reshape(outputs, blocks)),
        ]
        return lambda x, to: canvas.node(
            "com.microsoft.MatMulNBits",
            [x, *weights],
            to,
            K=inputs,
            N=outputs,
            bits=8,
            block_size=self.block,
            accuracy_level=4,  # activations in int8
        )

    def embedding(self, canvas: Canvas, name: str, table: Array) -> Use:
        return rowwise_embedding(canvas, name, table)


def rowwise_embedding(canvas: Canvas, name: str, table: Array) -> Use:
    """Keep a table [entries, size] as int8 codes with one fp32 scale per entry."""
    codes, scales = symmetric(table)
    stored = canvas.weight(f"{name}.codes", codes), canvas.weight(f"{name}.scales", scales)

    def use(ids: str, to: str) -> str:
        rows = canvas.node("Gather", [stored[0], ids], f"{to}.codes")
        scale = canvas.node("Gather", [stored[1], ids], f"{to}.scales")
        return canvas.node("Mul", [canvas.node("Cast", [rows], f"{to}.cast", to=TensorProto.FLOAT), scale], to)

    return use


def symmetric(values: Array) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Quantise along the last axis: codes in [-127, 127] and scales [..., 1] with codes * scales ~ values."""
    scales = np.abs(values).max(axis=-1, keepdims=True).astype(np.float32) / 127
    scales[scales == 0] = 1  # an all-zero row: any scale will do
    return np.rint(values / scales).astype(np.int8), scales


FLOAT32 = Float(np.dtype(np.float32))
FLOAT16 = Float(np.dtype(np.float16))
INT8 = Blockwise8(128)
