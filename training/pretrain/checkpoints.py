"""Checkpoints that survive a kill, a full disk and a torn file.

A checkpoint is a folder `checkpoint-STEP`: `weights.safetensors`, `moments.safetensors` (the optimizer's) and
`state.json`, which has the hashes of the other two. It is written under another name, synchronised, and renamed, so a
folder of that name was whole once; hashes tell whether it still is. Nothing is pickled.

A checkpoint without its moments, two thirds smaller, continues too: the optimizer then starts anew.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from training.errors import CheckpointError
from training.finetune.checkpoints import PREFIX
from training.finetune.checkpoints import found as found  # both kinds of run number their checkpoints alike

logger = logging.getLogger(__name__)

FORMAT = 1
WEIGHTS, MOMENTS, STATE = "weights.safetensors", "moments.safetensors", "state.json"
PARTIAL = ".partial-"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A whole checkpoint.

    Attributes:
        folder: where it lies.
        state: what was saved beside the tensors.
        weights: tensors by name.
        moments: the optimizer's tensors by name; empty where the file was left out.
    """

    folder: Path
    state: Mapping[str, Any]
    weights: dict[str, torch.Tensor]
    moments: dict[str, torch.Tensor]


def save(
    output: Path,
    step: int,
    weights: Mapping[str, torch.Tensor],
    moments: Mapping[str, torch.Tensor],
    state: Mapping[str, Any],
    keep: int,
) -> Path:
    """Writes `output/checkpoint-STEP` and removes all but the newest `keep`.

    Raises:
        CheckpointError: it cannot be written, as when the disk is full. The older ones are untouched.
    """
    folder = output / f"{PREFIX}{step}"
    partial = output / f"{PARTIAL}{step}"
    try:
        output.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        for name, tensors in ((WEIGHTS, weights), (MOMENTS, moments)):
            save_file({key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}, partial / name)
        hashes = {name: _sha256(partial / name) for name in (WEIGHTS, MOMENTS)}
        content = json.dumps({"format": FORMAT, "step": step, "files": hashes, **state})
        (partial / STATE).write_text(content + "\n", encoding="utf-8")
        for path in (*partial.iterdir(), partial):
            _synchronise(path)
        shutil.rmtree(folder, ignore_errors=True)  # torn, or it would have been continued from
        partial.rename(folder)
        _synchronise(output)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        last = found(output)
        kept = f"the last good one is {last[0]}" if last else "there is none before it"
        raise CheckpointError(f"{folder} cannot be written ({error}); {kept}") from error
    for old in found(output)[keep:]:
        shutil.rmtree(old, ignore_errors=True)
    return folder


def newest(output: Path) -> Checkpoint:
    """The newest whole checkpoint; those that are torn are skipped with a warning.

    Raises:
        CheckpointError: there is none.
    """
    folders = found(output)
    for folder in folders:
        try:
            return _load(folder)
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            logger.warning("%s is torn and is skipped: %s: %s", folder, type(error).__name__, error)
    raise CheckpointError(f"nothing to resume from in {output}" + (": every checkpoint is torn" if folders else ""))


def _load(folder: Path) -> Checkpoint:
    state = json.loads((folder / STATE).read_text(encoding="utf-8"))
    if state["format"] != FORMAT:
        raise ValueError(f"its format is {state['format']}, not {FORMAT}")
    for name, digest in state["files"].items():
        left_out = name == MOMENTS and not (folder / name).exists()
        if not left_out and _sha256(folder / name) != digest:
            raise ValueError(f"{name} is not what was written")
    with_moments = (folder / MOMENTS).is_file()
    return Checkpoint(folder, state, load_file(folder / WEIGHTS), load_file(folder / MOMENTS) if with_moments else {})


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _synchronise(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
