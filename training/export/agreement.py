"""Whether a checkpoint's tokenizer and its model say the same of one another, and of what is served.

Owns what is told of a difference: one line with both numbers. Special ids are told alone: rows are laid out by the
tokenizer's, padding is masked, and the graph counts positions from the row's beginning.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from service.engine.tokenizer import Tokenizer
from training.checkpoints import families
from training.checkpoints.configs import max_positions
from training.errors import CheckpointError
from training.tokenizers.loading import cut_side


def check_side(folder: Path, *, windows: bool) -> None:
    """Raise `CheckpointError` where long texts are cut on the side that the service keeps.

    Args:
        windows: whether the task lays windows over a text, so that nothing of it is cut.
    """
    if not windows and cut_side(folder) == "left":
        raise CheckpointError(
            f"{folder}: its tokenizer cuts long texts on the left (truncation_side), and the service cuts them on the "
            'right: write "truncation_side": "right" into tokenizer_config.json to serve their beginnings'
        )


def check_end(folder: Path, config: Any, tokenizer: Tokenizer) -> None:
    """Raise `CheckpointError` where the model reads a token that the tokenizer doesn't put at the end of each row."""
    wanted = families.of(config).end(config)
    for template in (tokenizer.single, tokenizer.pair):
        last = int(template.parts[-1][-1]) if len(template.parts[-1]) else None
        if wanted is not None and last != wanted:
            said = "nothing" if last is None else f"id {last}"
            raise CheckpointError(
                f"{folder}: the model reads a row's last token, which its config says is {wanted} (eos_token_id), and "
                f"its tokenizer ends rows with {said}: copy the tokenizer of the checkpoint that was fine-tuned"
            )


def shortened(config: Any, max_length: int, *, windows: bool) -> str:
    """Return what to say of rows that are shorter than the model's positions; nothing where no text is cut by it."""
    positions = max_positions(config)
    if windows or max_length >= positions:
        return ""
    return f"texts are cut at {max_length} tokens, of the model's {positions}; --max-length {positions} serves all"


def differences(config: Any, tokenizer: Tokenizer) -> list[str]:
    """Return what a model's config and its tokenizer say differently, a line each."""
    single = tokenizer.single.parts
    ours = {
        "pad_token_id": tokenizer.pad_id,
        "bos_token_id": int(single[0][0]) if len(single[0]) else None,
        "eos_token_id": int(single[-1][-1]) if len(single[-1]) else None,
    }
    found = []
    for key, ours_id in ours.items():
        theirs = getattr(config, key, None)
        if theirs is None or ours_id is None or theirs == ours_id:
            continue
        found.append(f"its config says {key} {theirs}, its tokenizer uses {ours_id}")
    return found
