"""A checkpoint's config, and what its run wrote beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from training import folders
from training.checkpoints import families
from training.checkpoints.families import FAMILIES
from training.errors import CheckpointError

RECIPE_FILE = "bertie.json"
"""Written beside the final weights: what `export` needs to know of the run."""


def load_config(model: str | Path) -> PreTrainedConfig:
    """A checkpoint's config. Raises `CheckpointError` where it cannot be read, or its model could not be exported."""
    if Path(model).is_dir():
        folders.check(Path(model))
    try:
        written, _ = PreTrainedConfig.get_config_dict(model)
        if written.get("auto_map"):
            raise CheckpointError(f"{model}: it wants code of its own (auto_map), which is never run")
        if not written.get("model_type"):  # else transformers guesses by the folder's name
            raise CheckpointError(
                f"{model}: its config.json has no model_type; write which it is of {', '.join(FAMILIES)}, e.g. "
                '"model_type": "bert"'
            )
        if quantised := written.get("quantization_config"):
            method = quantised.get("quant_method", "") if isinstance(quantised, dict) else ""
            raise CheckpointError(
                f"{model}: its weights are quantised already ({method or 'quantization_config'}), which is not read: "
                "take the checkpoint that it was made of"
            )
        config: PreTrainedConfig = AutoConfig.from_pretrained(model, trust_remote_code=False)
        families.check(config)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{model}: {' '.join(str(error).split())}") from error
    return config


def recorded(checkpoint: Path) -> dict[str, Any]:
    """What a run wrote beside its final weights; empty for a checkpoint of another origin.

    Raises:
        CheckpointError: it is torn.
    """
    path = checkpoint / RECIPE_FILE
    try:
        written: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: {error}") from error
    return written


def max_positions(config: PreTrainedConfig) -> int:
    """The longest row that a model has positions for."""
    return families.of(config).positions(config)
