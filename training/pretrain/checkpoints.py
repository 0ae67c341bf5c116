"""Checkpoints that survive a kill, a full disk and a torn file.

A checkpoint is a folder `checkpoint-STEP`: `weights.safetensors`, `moments.safetensors` (the optimizer's) and
`state.json`, which has the hashes of the other two. It is written under another name, synchronised, and renamed, so a
folder of that name was whole once; hashes tell whether it still is. Nothing is pickled.

A checkpoint without its moments, two thirds smaller, continues too: the optimizer then starts anew.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from training import files
from training.checkpoints import sealed

FORMAT = 1
WEIGHTS, MOMENTS, STATE = "weights.safetensors", "moments.safetensors", "state.json"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A whole checkpoint."""

    folder: Path  # where it lies
    state: Mapping[str, Any]  # what was saved beside the tensors
    weights: dict[str, torch.Tensor]  # tensors by name
    moments: dict[str, torch.Tensor]  # the optimizer's tensors by name; empty where the file was left out


def save(
    output: Path,
    step: int,
    weights: Mapping[str, torch.Tensor],
    moments: Mapping[str, torch.Tensor],
    state: Mapping[str, Any],
    keep: int,
) -> Path:
    """Write `output/checkpoint-STEP` and remove all but the newest `keep`.

    Raises:
        CheckpointError: it cannot be written, as when the disk is full. The older ones are untouched.
    """
    folder = output / f"{sealed.PREFIX}{step}"
    with files.said(folder, lambda: sealed.kept(output, _load)), files.written_aside(folder) as partial:
        partial.mkdir()
        for name, tensors in ((WEIGHTS, weights), (MOMENTS, moments)):
            save_file({key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}, partial / name)
        content = json.dumps({"format": FORMAT, "step": step, "files": sealed.hashes(partial), **state})
        (partial / STATE).write_text(content + "\n", encoding="utf-8")
    for old in sealed.found(output)[keep:]:
        shutil.rmtree(old, ignore_errors=True)
    return folder


def newest(output: Path) -> Checkpoint:
    """Load the newest whole checkpoint; skip those that are torn with a warning. Raises `CheckpointError`."""
    return sealed.newest(output, _load)


def _load(folder: Path) -> Checkpoint:
    state = json.loads((folder / STATE).read_text(encoding="utf-8"))
    if state["format"] != FORMAT:
        raise ValueError(f"its format is {state['format']}, not {FORMAT}")
    sealed.check(folder, state["files"], optional=MOMENTS)
    with_moments = (folder / MOMENTS).is_file()
    return Checkpoint(folder, state, load_file(folder / WEIGHTS), load_file(folder / MOMENTS) if with_moments else {})
