"""The gate: an exported graph must answer as its checkpoint does, or it is not written.

Owns the checks and their limits. Knows nothing of manifests or of where bundles lie.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from transformers import PreTrainedModel

from service.batch import Batch
from service.engine import OrtEngine
from training import graph
from training.errors import GateError
from training.evaluate import TorchEngine

FP32_TOLERANCE = 1e-4
"""Largest difference of an fp32 logit from torch's."""
SCORE_TOLERANCE = 0.5
"""Points of a dev score that a quantised graph may lose against fp32."""
SHAPES = ((1, 8), (4, 33), (3, 128), (2, 384))


def attention(model: PreTrainedModel, proto: onnx.ModelProto) -> int:
    """The number of fused attentions. Raises `GateError` unless each layer has one."""
    layers, fused = len(graph.layer_names(model.config)), graph.fused_attention_count(proto)
    if fused != layers:
        raise GateError(f"{fused} fused attentions for {layers} layers")
    return fused


def parity(model: PreTrainedModel, path: Path, max_length: int) -> float:
    """Largest |difference| between the logits of torch and of the fp32 graph at `path`, over several padded shapes.

    Raises:
        GateError: it is above 1e-4, or not a number.
    """
    engine = OrtEngine(path, provider="cpu", precision="fp32", workers=1, intra_op_threads=0)
    reference = TorchEngine(model)
    generator = np.random.default_rng(0)
    worst = 0.0
    for rows, tokens in SHAPES:
        tokens = min(tokens, max_length)
        lengths = np.linspace(tokens, max(2, tokens // 3), rows).astype(int)
        mask = (np.arange(tokens) < lengths[:, None]).astype(np.int64)
        ids = generator.integers(0, model.config.vocab_size, (rows, tokens))
        types = np.zeros_like(ids)
        if getattr(model.config, "type_vocab_size", 0) > 1:
            types[:, tokens // 2 :] = 1
        pad_id = getattr(model.config, "pad_token_id", None) or 0
        batch = Batch(np.where(mask == 1, _without(ids, pad_id), pad_id), mask, types * mask)
        for ours, torchs in zip(engine.run(batch), reference.run(batch), strict=True):
            difference = np.abs(ours - torchs)
            if difference.shape == mask.shape:  # span logits mean nothing at padding
                difference = difference[mask == 1]
            largest = float(difference.max())
            if not largest <= FP32_TOLERANCE:  # so put, not a number fails too
                raise GateError(
                    f"the fp32 graph's logits differ from torch's by {largest:.2e} at [{rows}, {tokens}]; "
                    f"the limit is {FP32_TOLERANCE:.0e}"
                )
            worst = max(worst, largest)
    return worst


def scores(
    reference: Mapping[str, Mapping[str, float]], quantised: Mapping[str, Mapping[str, float]], precision: str
) -> None:
    """Holds a graph's dev scores, by data set, to those of the fp32 graph. Raises `GateError` when it lost too much."""
    for name, fp32 in reference.items():
        measure = "f1" if "f1" in fp32 else "accuracy"
        lost = fp32[measure] - quantised[name][measure]
        if lost > SCORE_TOLERANCE:
            raise GateError(
                f"the {precision} graph's {measure} on {name} is {quantised[name][measure]:.2f}, {lost:.2f} points "
                f"below fp32; the limit is {SCORE_TOLERANCE}"
            )


def _without(ids: np.ndarray, pad_id: int) -> np.ndarray:
    """`ids` without the padding's id: RoBERTa counts positions by it."""
    return np.where(ids == pad_id, pad_id + 1, ids)
