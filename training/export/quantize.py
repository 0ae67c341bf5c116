"""The precisions a graph can be written in: how each keeps its weights, and with which operators it computes.

This file owns the encodings and the arithmetic that turns float matrices into codes and scales. It does not know what
a layer or a model is: `graph` hands it one named matrix at a time and gets back a function that writes the
nodes which use it. A matrix is encoded once, however often it is used, so shared weights stay shared.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper

from training.export.builder import Array, GraphBuilder

Use = Callable[[str, str], str]
"""Writes the nodes that use a stored weight: (name of the input, name for the output) -> name of the output."""

Normalise = Callable[[str, str, str, str], str]
"""Writes the layer norm of x + skip + bias: (x, skip or "", bias or "", name for the output) -> name of the output."""


@dataclass(frozen=True)
class Operand:
    """What matrices are multiplied by: the tokens of `value`, each times its own number in `scale`, if there is one."""

    value: str  # [..., size]
    scale: str = ""  # [..., 1]


Product = Callable[[Operand, str], str]
"""Writes the product of an operand's value and a stored matrix: (operand, name for the output) -> name of the output.
The operand's scale is not applied: it can often be left to a smaller tensor."""

PreNormalise = Callable[[str, str, str], tuple[Operand, str]]
"""Writes the layer norm of x + skip for products alone: (x, skip or "", name) -> (the operand, x + skip)."""


@dataclass(frozen=True)
class Float:
    """Weights as they are, in fp32 or fp16, and fused operators throughout: right for GPUs, and the reference."""

    dtype: np.dtype[Any]  # of the hidden states, and of what is too small to be worth encoding: biases, layer norms

    def matmul(self, builder: GraphBuilder, name: str, matrix: Array) -> Use:
        """Store `matrix` [inputs, outputs]; the use maps x [..., inputs] to x @ matrix [..., outputs]."""
        product = self.product(builder, name, matrix)
        return lambda x, to: product(Operand(x), to)

    def product(self, builder: GraphBuilder, name: str, matrix: Array) -> Product:
        """Store `matrix` [inputs, outputs], to be multiplied by operands."""
        stored = builder.weight(name, matrix.astype(self.dtype))
        return lambda x, to: builder.node("MatMul", [x.value, stored], to)

    def operand(self, builder: GraphBuilder, x: str, to: str) -> Operand:
        """Write x [..., inputs] as an operand."""
        return Operand(x)

    def embedding(self, builder: GraphBuilder, name: str, table: Array) -> Use:
        """Store `table` [entries, size]; the use maps ids [...] to rows of the table [..., size]."""
        stored = builder.weight(name, table.astype(self.dtype))
        return lambda ids, to: builder.node("Gather", [stored, ids], to)

    def exact(self, builder: GraphBuilder, name: str, columns: tuple[int, int] | None = None) -> str:
        """Write the stored matrix or table `name`, or some of its columns, in fp32. The runtime folds it as it loads
        the graph."""
        part = _columns(builder, name, columns)
        if self.dtype == np.float32:
            return part
        return builder.node("Cast", [part], f"{part}.exact", to=TensorProto.FLOAT)

    def norm(self, builder: GraphBuilder, name: str, gamma: Array, beta: Array | None, epsilon: float) -> Normalise:
        """Store a layer norm over the last axis, `gamma` and `beta` [size]."""
        stored = self._norm_weights(builder, name, gamma, beta)

        def normalise(x: str, skip: str, bias: str, to: str) -> str:
            if not skip:
                x = builder.node("Add", [x, bias], f"{to}.biased") if bias else x
                return builder.node("LayerNormalization", [x, *stored], to, epsilon=epsilon)
            inputs = [x, skip, *stored, *([""] * (beta is None) + [bias] if bias else [])]
            return builder.node("com.microsoft.SkipLayerNormalization", inputs, to, epsilon=epsilon)

        return normalise

    def prenorm(self, builder: GraphBuilder, name: str, gamma: Array, epsilon: float) -> PreNormalise:
        """Store a layer norm over the last axis, `gamma` [size], whose result is multiplied by matrices alone."""
        stored = self._norm_weights(builder, name, gamma, None)

        def normalise(x: str, skip: str, to: str) -> tuple[Operand, str]:
            if not skip:
                return Operand(builder.node("LayerNormalization", [x, *stored], to, epsilon=epsilon)), x
            outputs = (to, "", "", f"{to}.sum")
            builder.node("com.microsoft.SkipLayerNormalization", [x, skip, *stored], *outputs, epsilon=epsilon)
            return Operand(to), f"{to}.sum"

        return normalise

    def _norm_weights(self, builder: GraphBuilder, name: str, gamma: Array, beta: Array | None) -> list[str]:
        weights = {"weight": gamma} if beta is None else {"weight": gamma, "bias": beta}
        return [builder.weight(f"{name}.{kind}", value.astype(self.dtype)) for kind, value in weights.items()]


@dataclass(frozen=True)
class Int8:
    """8-bit weights and activations, for CPUs: a scale per output of a matrix, and per token of its input.

    A token's scale is its own largest value, found as it passes, so no calibration is needed and a row's result does
    not depend, not by a bit, on the rows it shares a batch with. The largest code and the one for zero are parameters:
    where 8 bits would overflow, the service asks for 7 (`service.engine.session.SEVEN_BITS`).
    """

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.float32)

    def matmul(self, builder: GraphBuilder, name: str, matrix: Array) -> Use:
        product = self.product(builder, name, matrix)

        def use(x: str, to: str) -> str:
            operand = self.operand(builder, x, to)
            return builder.node("Mul", [product(operand, f"{to}.product"), operand.scale], to)

        return use

    def product(self, builder: GraphBuilder, name: str, matrix: Array) -> Product:
        codes, scales = symmetric(matrix.T)
        weights = builder.weight(f"{name}.codes", codes.T), builder.weight(f"{name}.scales", scales[:, 0])
        one, (_, middle) = builder.constant(np.float32(1)), self._parameters(builder)
        op = "com.microsoft.MatMulIntegerToFloat"
        return lambda x, to: builder.node(op, [x.value, weights[0], one, weights[1], middle], to)

    def operand(self, builder: GraphBuilder, x: str, to: str) -> Operand:
        one, floor = (builder.constant(np.float32(value)) for value in (1, 1e-12))
        top, middle = self._parameters(builder)
        peak = builder.node("ReduceMax", [builder.node("Abs", [x], f"{to}.abs"), builder.constant([-1])], f"{to}.max")
        peak = builder.node("Max", [peak, floor], f"{to}.peak")  # a token of zeros stays zeros
        scaled = builder.node("Mul", [x, builder.node("Div", [top, peak], f"{to}.inverse")], f"{to}.scaled")
        codes = builder.node("QuantizeLinear", [scaled, one, middle], f"{to}.codes")
        return Operand(codes, builder.node("Div", [peak, top], f"{to}.scale"))

    def _parameters(self, builder: GraphBuilder) -> tuple[str, str]:
        """The largest code, and the one for zero: the kernels want unsigned activations."""
        top = builder.parameter("activation.largest", np.float32(127))
        return top, builder.parameter("activation.zero", np.uint8(128))

    def embedding(self, builder: GraphBuilder, name: str, table: Array) -> Use:
        codes, scales = symmetric(table)
        stored = builder.weight(f"{name}.codes", codes), builder.weight(f"{name}.scales", scales)

        def use(ids: str, to: str) -> str:
            codes, scale = (builder.node("Gather", [part, ids], f"{part}.of.{to}") for part in stored)
            return builder.node("Mul", [builder.node("Cast", [codes], f"{to}.float", to=TensorProto.FLOAT), scale], to)

        return use

    def exact(self, builder: GraphBuilder, name: str, columns: tuple[int, int] | None = None) -> str:
        return _exact(builder, name, columns)

    def norm(self, builder: GraphBuilder, name: str, gamma: Array, beta: Array | None, epsilon: float) -> Normalise:
        # Spelled out, because the runtime's fused norm is a scalar loop on CPUs, 2.5 times as slow as all these passes;
        # beside int8 products it would take a fifth of the time.
        scale = builder.weight(f"{name}.weight", gamma)
        shift = "" if beta is None else builder.weight(f"{name}.bias", beta)
        node = builder.node

        def normalise(x: str, skip: str, bias: str, to: str) -> str:
            if bias:
                x = node("Add", [x, bias], f"{to}.biased")
            if skip:
                x = node("Add", [x, skip], f"{to}.sum")
            x, inverse = self._centred(builder, x, epsilon, to)
            # Multiplying by a token's reciprocal is quicker than dividing each of its numbers.
            x = node("Mul", [x, inverse], f"{to}.unit")
            if not shift:
                return node("Mul", [x, scale], to)
            return node("Add", [node("Mul", [x, scale], f"{to}.scaled"), shift], to)

        return normalise

    def prenorm(self, builder: GraphBuilder, name: str, gamma: Array, epsilon: float) -> PreNormalise:
        """As `norm`. A token's codes are the same whatever it is multiplied by, so its deviation goes to the scale."""
        stored = builder.weight(f"{name}.weight", gamma)
        node = builder.node

        def normalise(x: str, skip: str, to: str) -> tuple[Operand, str]:
            total = node("Add", [x, skip], f"{to}.sum") if skip else x
            centred, inverse = self._centred(builder, total, epsilon, to)
            operand = self.operand(builder, node("Mul", [centred, stored], f"{to}.weighed"), f"{to}.operand")
            return Operand(operand.value, node("Mul", [operand.scale, inverse], f"{to}.scale")), total

        return normalise

    def _centred(self, builder: GraphBuilder, x: str, epsilon: float, to: str) -> tuple[str, str]:
        """x less each token's mean, and one over each token's deviation."""
        node, floor, last = builder.node, builder.constant(np.float32(epsilon)), builder.constant([-1])
        x = node("Sub", [x, node("ReduceMean", [x, last], f"{to}.mean")], f"{to}.centred")
        variance = node("ReduceMean", [node("Mul", [x, x], f"{to}.squares"), last], f"{to}.variance")
        deviation = node("Sqrt", [node("Add", [variance, floor], f"{to}.floored")], f"{to}.deviation")
        return x, node("Reciprocal", [deviation], f"{to}.inverse")


@dataclass(frozen=True)
class WeightOnly(Float):
    """The codes and scales of `Int8`, to the bit, computed with in this encoding's floats: for GPUs.

    The runtime multiplies codes by scales once, as it loads the graph, and computes as fast as if they had been stored
    so. A bundle whose int8 graph serves CPUs serves GPUs from the same weights.
    """

    def product(self, builder: GraphBuilder, name: str, matrix: Array) -> Product:
        codes, scales = symmetric(matrix.T)
        stored = builder.weight(f"{name}.codes", codes.T), builder.weight(f"{name}.scales", scales[:, 0])
        decoded = self._decode(builder, *stored, name)
        return lambda x, to: builder.node("MatMul", [x.value, decoded], to)

    def embedding(self, builder: GraphBuilder, name: str, table: Array) -> Use:
        codes, scales = symmetric(table)
        stored = builder.weight(f"{name}.codes", codes), builder.weight(f"{name}.scales", scales)

        def use(ids: str, to: str) -> str:
            rows, scale = (builder.node("Gather", [part, ids], f"{part}.of.{to}") for part in stored)
            return self._decode(builder, rows, scale, to)

        return use

    def exact(self, builder: GraphBuilder, name: str, columns: tuple[int, int] | None = None) -> str:
        return _exact(builder, name, columns)

    def _decode(self, builder: GraphBuilder, codes: str, scales: str, to: str) -> str:
        """codes * scales, rounded once, at the end."""
        exact = _decoded(builder, codes, scales, to)
        return builder.node("Cast", [exact], f"{to}.decoded", to=helper.np_dtype_to_tensor_dtype(self.dtype))


def _exact(builder: GraphBuilder, name: str, columns: tuple[int, int] | None) -> str:
    """The codes of `name` times its scales, or some columns of it."""
    codes, scales = (_columns(builder, f"{name}.{part}", columns) for part in ("codes", "scales"))
    return _decoded(builder, codes, scales, f"{codes}.unrounded")


def _columns(builder: GraphBuilder, name: str, columns: tuple[int, int] | None) -> str:
    """What is stored as `name`, or some of its columns: of its last axis."""
    if columns is None:
        return name
    begin, end = (builder.constant([place]) for place in columns)
    return builder.node("Slice", [name, begin, end, builder.constant([-1])], f"{name}.from.{columns[0]}")


def _decoded(builder: GraphBuilder, codes: str, scales: str, to: str) -> str:
    """codes * scales, in fp32."""
    exact = builder.node("Cast", [codes], f"{to}.float", to=TensorProto.FLOAT)
    return builder.node("Mul", [exact, scales], f"{to}.exact")


def symmetric(values: Array) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Quantise along the last axis: codes in [-127, 127] and scales [..., 1] with codes * scales ~ values."""
    scales = np.abs(values).max(axis=-1, keepdims=True).astype(np.float32) / 127
    scales[scales == 0] = 1  # all zeros: any scale will do
    return np.rint(values / scales).astype(np.int8), scales


Encoding: TypeAlias = Float | Int8
"""A precision: how weights are kept in the file, and what computes with them."""
FLOAT32 = Float(np.dtype(np.float32))
FLOAT16 = Float(np.dtype(np.float16))
INT8 = Int8()
W8A16 = WeightOnly(np.dtype(np.float16))
