"""Fine-tuned checkpoints of one shape to the mean of their weights, as one more checkpoint.

Wortsman et al. 2022 (arXiv 2203.05482, section 2, "uniform soup"): runs from one pre-trained encoder often lie in one
valley of the loss, and its middle does better than its sides, at the cost of one model. Owns what must be equal for a
mean to make sense. Knows nothing of scores: whether a mean is better, `export` or `evaluate` says.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from service.repository.files import sha256
from training import files
from training.checkpoints import stored
from training.checkpoints.configs import RECIPE_FILE, load_config, recorded
from training.errors import CheckpointError
from training.tokenizers.loading import load_tokenizer, save_tokenizer

logger = logging.getLogger(__name__)

RECIPE_KEYS = ("task", "labels", "multi_label")
"""What two recipes must agree on to have trained models of the same answers."""
INDIFFERENT = (
    "_name_or_path",
    "dtype",
    "gradient_checkpointing",
    "initializer_range",
    "transformers_version",
    "use_cache",
)
"""Keys of a config that do not change what the weights compute; nor does any kind of dropout."""


def run(output: Path, checkpoints: Sequence[Path], weights: Sequence[float] = ()) -> dict[str, Any]:
    """Write `output`, a Hugging Face folder for `export` and `finetune`, and return what its `metrics.json` has.

    Args:
        output: the folder to write; it appears whole or not at all.
        checkpoints: two or more Hugging Face folders.
        weights: the share of each, 0 or more, of any sum; equal ones where there are none.

    Raises:
        CheckpointError: a checkpoint cannot be read, or is of another shape, task or vocabulary than the first; or
            `output` exists.
    """
    shares = _shares(checkpoints, weights)
    files.check_absent(output)
    for checkpoint in checkpoints:
        if not checkpoint.is_dir():
            raise CheckpointError(f"{checkpoint} is no folder")
    records = [recorded(checkpoint) for checkpoint in checkpoints]
    _check_recipes(checkpoints, records)
    _check_configs(checkpoints)
    _check_tokenizers(checkpoints)
    mean = _mean(checkpoints, shares)
    metrics = {
        "recipe": _agreed([record.get("recipe", {}) for record in records]),
        "data": {path: digest for record in records for path, digest in record.get("data", {}).items()},
        "average": [
            {"checkpoint": str(checkpoint), "sha256": _digest(checkpoint), "share": share}
            for checkpoint, share in zip(checkpoints, shares, strict=True)
        ],
        "versions": {name: version(name) for name in ("torch", "transformers", "tokenizers", "safetensors")},
    }
    with files.written_aside(output) as folder:
        load_config(checkpoints[0]).save_pretrained(folder)
        save_tokenizer(checkpoints[0], folder)
        save_file(mean, folder / stored.SAFE, metadata={"format": "pt"})
        for name in ("metrics.json", RECIPE_FILE):
            (folder / name).write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
    return metrics


def _shares(checkpoints: Sequence[Path], weights: Sequence[float]) -> list[float]:
    """The weights scaled to a sum of 1."""
    if len(checkpoints) < 2:
        raise CheckpointError(f"{len(checkpoints)} checkpoint has no mean; name two or more")
    given = list(weights) or [1.0] * len(checkpoints)
    if len(given) != len(checkpoints):
        raise CheckpointError(f"--weights names {len(given)} shares, there are {len(checkpoints)} checkpoints")
    if not all(0 <= weight < math.inf for weight in given) or not sum(given):
        raise CheckpointError(f"--weights {' '.join(map(str, given))}: each is to be 0 or more, and one above 0")
    return [weight / sum(given) for weight in given]


def _check_recipes(checkpoints: Sequence[Path], records: Sequence[Mapping[str, Any]]) -> None:
    """What the fine-tuning runs wrote down must not be of different tasks. A checkpoint of another origin, or of an
    earlier version, says less of itself."""
    for key in RECIPE_KEYS:
        known = [(c, record.get("recipe", {})) for c, record in zip(checkpoints, records, strict=True)]
        told = [(checkpoint, recipe[key]) for checkpoint, recipe in known if key in recipe]
        for checkpoint, value in told[1:]:
            _check_equal(checkpoint, f"the recipe's {key}", value, *told[0])


def _check_configs(checkpoints: Sequence[Path]) -> None:
    first, *others = (load_config(checkpoint).to_dict() for checkpoint in checkpoints)
    for checkpoint, config in zip(checkpoints[1:], others, strict=True):
        for key in sorted(first.keys() | config.keys()):
            if key not in INDIFFERENT and "dropout" not in key:
                _check_equal(checkpoint, key, config.get(key), checkpoints[0], first.get(key))


def _check_tokenizers(checkpoints: Sequence[Path]) -> None:
    """Each is to be the first's to the byte, as `export` would write it: a row of the embedding is one piece in all."""
    first, *others = (json.loads(load_tokenizer(checkpoint).to_str()) for checkpoint in checkpoints)
    for checkpoint, tokenizer in zip(checkpoints[1:], others, strict=True):
        for key in first:
            if tokenizer[key] != first[key]:
                raise CheckpointError(f"{checkpoint}: its tokenizer is not that of {checkpoints[0]}: {key} differs")


def _check_equal(checkpoint: Path, key: str, value: Any, first: Path, wanted: Any) -> None:
    if value != wanted:
        raise CheckpointError(f"{checkpoint}: {key} {value!r} is not the {wanted!r} of {first}")


def _agreed(recipes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What all recipes say; of what they say differently the mean has nothing to say."""
    first, *others = [recipe for recipe in recipes if recipe] or [{}]
    return {key: value for key, value in first.items() if all(recipe.get(key) == value for recipe in others)}


def _mean(checkpoints: Sequence[Path], shares: Sequence[float]) -> dict[str, torch.Tensor]:
    """The mean of each weight, summed in float64 and kept in the checkpoints' own type; one checkpoint at a time is
    read. What is no floating-point number (a table of position ids) must be equal in all."""
    first = stored.read(checkpoints[0])
    total = {
        name: torch.zeros(tensor.shape, dtype=torch.float64) if tensor.is_floating_point() else tensor
        for name, tensor in first.items()
    }
    types = {name: tensor.dtype for name, tensor in first.items()}
    for checkpoint, share in zip(checkpoints, shares, strict=True):
        tensors = first if checkpoint == checkpoints[0] else stored.read(checkpoint)
        for name in sorted(total.keys() ^ tensors.keys()):
            lacking, having = (checkpoint, checkpoints[0]) if name in total else (checkpoints[0], checkpoint)
            raise CheckpointError(f"{lacking}: the weight {name} is missing, which {having} has")
        for name, tensor in tensors.items():
            _check_equal(
                checkpoint, f"the shape of {name}", list(tensor.shape), checkpoints[0], list(total[name].shape)
            )
            _check_equal(checkpoint, f"the type of {name}", tensor.dtype, checkpoints[0], types[name])
            if not torch.isfinite(tensor).all():
                raise CheckpointError(f"{checkpoint}: {name} holds what is no finite number")
            if tensor.is_floating_point():
                total[name].add_(tensor.double(), alpha=share)
            elif not torch.equal(tensor, total[name]):
                raise CheckpointError(
                    f"{checkpoint}: {name}, which holds whole numbers, is not that of {checkpoints[0]}"
                )
    return {name: tensor.to(types[name]) for name, tensor in sorted(total.items())}


def _digest(checkpoint: Path) -> str:
    """The SHA-256 of the file of weights; of shards, that of their hashes."""
    digests = [sha256(path) for path in stored.files(checkpoint)]
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
