"""A bundle back to a checkpoint: to fine-tune on from it, or to teach with it, where its checkpoint is not at hand.

Owns the way back from the graph's names and codes to a model's weights. What a bundle does
not hold, the config and the tokenizer's files, comes from the encoder that was fine-tuned.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from transformers import PreTrainedModel

from service.repository import bundle as bundles
from service.repository.bundle import Bundle
from service.repository.manifest import TOKENIZER
from training import files, tasks
from training.checkpoints.configs import RECIPE_FILE, load_config
from training.checkpoints.families import FAMILIES, layer_names
from training.errors import CheckpointError
from training.export.builder import Array
from training.tokenizers.loading import load_tokenizer, save_tokenizer

PRECISE = ("fp32", "fp16", "int8", "w8a16")
"""Graphs by how near their weights are to the checkpoint's; the last two hold the same."""


def run(folder: Path, encoder: Path, output: Path) -> str:
    """Write `output`, a Hugging Face folder for `export`, `finetune` and `--teacher`; return the precision that its
    weights had in the bundle. Exported again in that precision, they are the same codes.

    Args:
        folder: the bundle.
        encoder: the Hugging Face folder that was fine-tuned, or another of its shape and vocabulary.
        output: the folder to write; it appears whole or not at all.

    Raises:
        BundleError: the bundle cannot be read.
        CheckpointError: the encoder is of another family, shape or vocabulary than the bundle; or `output` exists.
    """
    files.check_absent(output)
    bundle = bundles.load(folder)
    manifest = bundle.manifest
    config = load_config(encoder)
    if config.model_type != manifest.architecture:
        raise CheckpointError(f"{encoder} is of the family {config.model_type}, the bundle {manifest.architecture}")
    vocabulary = json.loads((folder / TOKENIZER).read_text(encoding="utf-8"))["model"]["vocab"]
    if json.loads(load_tokenizer(encoder).to_str())["model"]["vocab"] != vocabulary:
        raise CheckpointError(f"{encoder} has another vocabulary than the bundle")
    task = tasks.named(manifest.task, multi_label=manifest.multi_label)
    task.set_head(config, manifest)
    model: PreTrainedModel = task.auto.from_config(config)
    precision, stored = _stored(bundle)
    model.load_state_dict(_weights(model, stored, encoder))
    recipe = {
        "task": manifest.task, "labels": manifest.labels, "multi_label": manifest.multi_label,
        "max_length": manifest.max_length, "doc_stride": manifest.doc_stride, "model": manifest.base_model,
    }  # fmt: skip
    record = {"recipe": recipe, "data": manifest.data, "restored": {"bundle": bundle.version, "precision": precision}}
    with files.written_aside(output) as partial:
        model.save_pretrained(partial)
        save_tokenizer(str(encoder), partial)
        (partial / RECIPE_FILE).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return precision


def _stored(bundle: Bundle) -> tuple[str, dict[str, Array]]:
    """The tensors of the bundle's most precise graph by name, and its precision."""
    files = {each.precision: each.file for each in bundle.manifest.graphs}
    precision = next(each for each in PRECISE if each in files)
    proto = onnx.load(bundle.folder / files[precision])
    return precision, {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}


def _weights(model: PreTrainedModel, stored: Mapping[str, Array], encoder: Path) -> dict[str, torch.Tensor]:
    """The model's state, each of its tensors from what `graph` stored of it."""
    family = FAMILIES[model.config.model_type]
    # query, key and value lie side by side under the query's name
    layers = [f"{family.base}.{name}" for name in dict.fromkeys(layer_names(model.config))]
    parts = (family.query, family.key, family.value)
    packed = {f"{layer}.{part}": (f"{layer}.{parts[0]}", i) for layer in layers for i, part in enumerate(parts)}
    state = {}
    for name, tensor in model.state_dict().items():
        module, _, kind = name.rpartition(".")
        first, part = packed.get(module, (module, None))
        try:
            if module.endswith("_embeddings"):
                value = _table(stored, module.removesuffix("_embeddings"), len(tensor))
            else:
                value = _decoded(stored, f"{first}.{kind}")
                value = value if part is None else np.split(value, len(parts), axis=-1)[part]
                value = value.T if tensor.ndim == 2 else value
        except KeyError as error:
            raise CheckpointError(f"the bundle has no {error.args[0]}, which {encoder} has") from error
        if value.shape != tensor.shape:
            raise CheckpointError(f"{name} is {list(value.shape)} in the bundle, {list(tensor.shape)} in {encoder}")
        state[name] = torch.from_numpy(np.array(value, dtype=np.float32))
    return state


def _table(stored: Mapping[str, Array], name: str, rows: int) -> Array:
    """An embedding table. Rows that are missing at its start are never looked up (RoBERTa's positions); a lone token
    type is part of each position."""
    if name.endswith(".token_type") and rows == 1:
        width = _decoded(stored, f"{name.removesuffix('token_type')}position").shape[1]
        return np.zeros((1, width), np.float32)
    table = _decoded(stored, name.replace(".token_type", ".type"))
    return np.pad(table, [(max(0, rows - len(table)), 0), (0, 0)])


def _decoded(stored: Mapping[str, Array], name: str) -> Array:
    """A tensor in fp32, from its codes and scales where it was encoded."""
    if f"{name}.codes" in stored:
        return stored[f"{name}.codes"].astype(np.float32) * stored[f"{name}.scales"]
    return stored[name].astype(np.float32)
