"""The weights of a Hugging Face folder in a model of transformers': all of them as the config says, or why not.

Runs no code of the folder's own and unpickles nothing. Knows nothing of recipes and tasks.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import PreTrainedConfig, PreTrainedModel

from training.checkpoints import attention as attentions
from training.checkpoints import families, stored
from training.errors import CheckpointError

logger = logging.getLogger(__name__)


def load(
    auto: Any, folder: str | Path, config: PreTrainedConfig, *, other_head: bool = False, **options: Any
) -> tuple[PreTrainedModel, list[str]]:
    """The model that `auto`, one of transformers' classes, makes of `config`; and the names of the weights that the
    folder does not have, which are random. They are fp32, whatever the folder keeps them in: half precision is for
    storing, and neither AdamW's small steps nor the gate's limit can do with it.

    Args:
        other_head: take the weights of a head of another shape for weights that the folder does not have.
        options: of `from_pretrained`.

    Raises:
        CheckpointError: there are no weights, they cannot be read, are another model's, have other shapes than the
            config says, or hold what is no finite number.
    """
    local = Path(folder).is_dir()
    if hasattr(auto, "_model_mapping") and type(config) not in auto._model_mapping:
        raise CheckpointError(
            f"{folder}: transformers has no {auto.__name__.removeprefix('Auto')} of {config.model_type}"
        )
    state = stored.read(Path(folder)) if local else None
    names = list(state or ())  # transformers empties the mapping
    source: dict[str, Any] = {"state_dict": state} if local else {"use_safetensors": True, "trust_remote_code": False}
    maker = auto._model_mapping[type(config)] if local and hasattr(auto, "_model_mapping") else auto
    try:
        model, loading = maker.from_pretrained(
            None if local else folder, config=config, output_loading_info=True, ignore_mismatched_sizes=True,
            dtype=torch.float32, **source, **options,
        )  # fmt: skip
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(f"{folder}: {' '.join(str(error).split())}") from error
    mismatched = sorted(str(key) for key, *_ in loading["mismatched_keys"])
    prefix = "" if model.base_model is model else f"{model.base_model_prefix}."
    wanted = {name for name in model.state_dict() if name.startswith(prefix)}
    lacking = wanted & set(loading["missing_keys"]) - set(mismatched)
    if len(lacking) > 0.9 * len(wanted):  # not all: a tied weight is never said to be missing
        raise CheckpointError(
            f"{folder}: its config says {config.model_type}, and its {len(names)} weights are another model's "
            f"({', '.join(names[:2])}, ...)"
        )
    for name in mismatched:
        if not other_head or name.startswith(f"{model.base_model_prefix}."):
            raise CheckpointError(f"{folder}: weights do not have the shapes that its config says: {name}")
    for name, parameter in model.named_parameters():
        if not (finite := torch.isfinite(parameter)).all():
            raise CheckpointError(
                f"{folder}: {name} holds {int((~finite).sum()):,} of {parameter.numel():,} values that are no finite "
                "numbers (NaN or infinite): the training diverged, or the file is damaged; take an earlier checkpoint"
            )
    result: PreTrainedModel = model
    return result, sorted({*mismatched, *map(str, loading["missing_keys"])})


def whole_encoder(
    auto: Any, folder: str | Path, config: PreTrainedConfig, attention: str, *, other_head: bool = False
) -> tuple[PreTrainedModel, list[str]]:
    """As `load`, with the whole encoder from the folder: only heads, and a pooler that it lacks, may be newly made. A
    family with an attention of its own is trained with that, whatever `attention` says.

    Raises:
        CheckpointError: as `load`; or weights of the encoder are missing.
    """
    attentions.register()
    if families.of(config).own_attention:
        attention = "eager"
    model, missing = load(auto, folder, config, other_head=other_head, attn_implementation=attention)
    # A bare encoder's weights have no prefix.
    prefix = "" if model.base_model is model else f"{model.base_model_prefix}."
    lacking = [name for name in missing if name.startswith(prefix) and "pooler" not in name]
    if lacking:
        raise CheckpointError(f"{folder}: weights of the encoder are missing ({', '.join(lacking[:3])})")
    return model, missing


def encoder(auto: Any, folder: str | Path, config: PreTrainedConfig, attention: str) -> PreTrainedModel:
    """As `whole_encoder`; what is newly initialized is logged. Raises `CheckpointError` as that does."""
    model, missing = whole_encoder(auto, folder, config, attention)
    if missing:
        logger.warning("%s has no %s: they are newly initialized", folder, ", ".join(missing))
    return model
