"""The stock way from a checkpoint to an int8 graph, to be held against ours: `python -m bench.graphs.stock REQUEST`.

torch's own export of the eager model, then ONNX Runtime's transformer optimiser and its dynamic quantisation, as their
guides show. Owns those files; see `bench.child` for the way there and back.
"""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

import onnx
import torch
from onnxruntime.quantization import quantize_dynamic
from onnxruntime.transformers.optimizer import optimize_model
from transformers import PreTrainedModel

from bench import child
from bench.compare import weights

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
FUSED = ("Attention", "MultiHeadAttention")


class Logits(torch.nn.Module):
    """A classifier that takes its inputs by place and gives a tensor, as the exporter wants it."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor
    ) -> torch.Tensor:
        logits: torch.Tensor = self.model(
            input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids
        ).logits
        return logits


def write(request: dict[str, Any]) -> dict[str, Any]:
    """Write `stock.fp32.onnx` and `stock.int8.onnx` and report what became of the weights and of the attention.

    Args:
        request: `folder` (with config.json; the graphs go there).

    Returns:
        `bytes` by precision (fp32: after the optimiser), `fused` attention nodes, and which `exporter` was used.
    """
    folder = Path(request["folder"])
    model = weights.load(folder, None)
    model.set_attn_implementation("eager")
    exported, optimised, quantised = (folder / f"stock.{name}.onnx" for name in ("exported", "fp32", "int8"))
    exporter = _export(model, exported)
    config: Any = model.config
    fused = optimize_model(
        str(exported), model_type="bert", num_heads=config.num_attention_heads, hidden_size=config.hidden_size
    )
    fused.save_model_to_file(str(optimised))
    # The type of what a fused operator gives cannot be inferred; without this the tool stops there.
    quantize_dynamic(optimised, quantised, extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT})
    return {
        "bytes": {"fp32": optimised.stat().st_size, "int8": quantised.stat().st_size},
        "fused": sum(node.op_type in FUSED for node in fused.model.graph.node),
        "exporter": exporter,
    }


def _export(model: PreTrainedModel, path: Path) -> str:
    """Write the graph and say by which of torch's exporters: the newer one wants onnxscript."""
    shape = (2, 16)
    example = (
        torch.randint(5, model.config.vocab_size, shape), torch.ones(shape, dtype=torch.long),
        torch.zeros(shape, dtype=torch.long),
    )  # fmt: skip
    dynamo = importlib.util.find_spec("onnxscript") is not None
    axes = {0: "rows", 1: "tokens"}
    dynamic = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    how: dict[str, Any] = (
        {"dynamic_shapes": (dynamic,) * len(INPUTS), "external_data": False}
        if dynamo
        else {"dynamic_axes": dict.fromkeys(INPUTS, axes), "opset_version": 17}
    )
    with contextlib.redirect_stdout(sys.stderr):
        torch.onnx.export(
            Logits(model), example, str(path), input_names=list(INPUTS), output_names=["logits"], dynamo=dynamo, **how,
        )  # fmt: skip
    return "torch.export" if dynamo else "TorchScript"


if __name__ == "__main__":
    child.answer(write)
