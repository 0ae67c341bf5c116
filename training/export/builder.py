"""An ONNX graph under construction.

This file owns the writing of nodes, initializers and outputs. It knows nothing of networks or precisions.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Array = NDArray[Any]

OPSET = 18
IR_VERSION = 9


class GraphBuilder:
    """Nodes in the order they run, and the weights they share.

    A node is named after its first output, so that a profile and a calibration read in the network's own terms.
    """

    def __init__(self) -> None:
        self._weights: dict[str, onnx.TensorProto] = {}
        self._nodes: list[onnx.NodeProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._parameters: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []

    def weight(self, name: str, value: Array) -> str:
        """Store an initializer; return its name."""
        if name in self._weights:
            raise ValueError(f"{name} is stored already: use it again instead")
        self._weights[name] = numpy_helper.from_array(np.asarray(value, order="C"), name)
        return name

    def constant(self, value: int | list[int] | np.generic) -> str:
        """Store a constant, int64 unless it says otherwise, once however often it is asked for; return its name."""
        array = np.array(value)
        name = f"constant.{array.dtype}.{value}"
        if name not in self._weights:
            self.weight(name, array)
        return name

    def parameter(self, name: str, value: np.generic) -> str:
        """Store a scalar, once, that a caller may replace: an input with a default, which no optimiser takes for a
        constant (ONNX IR 4 and later: an initializer that is an input too)."""
        if name not in self._weights:
            self.weight(name, np.array(value))
            kind = helper.np_dtype_to_tensor_dtype(value.dtype)
            self._parameters.append(helper.make_tensor_value_info(name, kind, []))
        return name

    def node(self, op: str, inputs: Sequence[str], *outputs: str, **attributes: Any) -> str:
        """Append a node, `op` being "Op" or "domain.Op"; return the name of its first output."""
        domain, _, kind = op.rpartition(".")
        self._nodes.append(helper.make_node(kind, inputs, outputs, name=outputs[0], domain=domain, **attributes))
        return outputs[0]

    def input(self, name: str, shape: Sequence[str | int]) -> str:
        """Declare an int64 input; return its name."""
        self._inputs.append(helper.make_tensor_value_info(name, TensorProto.INT64, shape))
        return name

    def output(self, name: str, shape: Sequence[str | int]) -> None:
        """Declare that the tensor `name`, fp32, is an output."""
        self._outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))

    def finish(self) -> onnx.ModelProto:
        """Return the model."""
        inputs = [*self._inputs, *self._parameters]
        graph = helper.make_graph(self._nodes, "bertie", inputs, self._outputs, list(self._weights.values()))
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="bertie")
