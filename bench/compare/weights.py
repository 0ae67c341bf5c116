"""A subject with its weights, on disk and in torch: `python -m bench.compare.weights REQUEST`, see `child`.

Owns the files that are weighed and served: the checkpoint and the graphs.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel
from transformers.utils import logging

from bench import child
from training.checkpoints import weights as pretrained
from training.export import external, graph
from training.export.graphs import ENCODINGS


def load(config_folder: Path, checkpoint: Path | None) -> PreTrainedModel:
    """Make a classifier in fp32: its shape from `config_folder`, its weights from `checkpoint` or random.

    A checkpoint's head of another kind is left behind, and a random one put in its place. Runs no code of the
    checkpoint's and unpickles nothing.

    Raises:
        CheckpointError: the weights cannot be read, or are not of that shape.
    """
    logging.set_verbosity_error()
    config = AutoConfig.from_pretrained(config_folder, trust_remote_code=False)
    model: PreTrainedModel
    if checkpoint is None:
        torch.manual_seed(0)
        model = AutoModelForSequenceClassification.from_config(config)
    else:
        model, _ = pretrained.load(AutoModelForSequenceClassification, checkpoint, config, other_head=True)
    model.eval()
    return model


def write(request: dict[str, Any]) -> dict[str, int]:
    """Write the graphs and get the bytes of each by precision, and of the checkpoint, which is not kept.

    Args:
        request: `folder` (with config.json; the graphs go there), `checkpoint` (path or None), `precisions`.
    """
    folder = Path(request["folder"])
    model = load(folder, Path(request["checkpoint"]) if request["checkpoint"] else None)
    saved = folder / "checkpoint"
    model.save_pretrained(saved)
    sizes = {"checkpoint": sum(path.stat().st_size for path in saved.glob("*.safetensors"))}
    shutil.rmtree(saved)
    for precision in request["precisions"]:
        path, tensors = graph_path(folder, precision), folder / f"weights.{precision}.bin"
        external.save({path: graph.build(model, encoding=ENCODINGS[precision])}, tensors)
        sizes[precision] = path.stat().st_size + tensors.stat().st_size
    return sizes


def graph_path(folder: Path, precision: str) -> Path:
    """Get the path of the graph of a precision."""
    return folder / f"model.{precision}.onnx"


if __name__ == "__main__":
    child.answer(write)
