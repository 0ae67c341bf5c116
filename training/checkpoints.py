"""Checkpoints of a fine-tuning run: each sealed when it is whole, so that a torn one is never continued from.

Owns which of them is good. What is in them is transformers' Trainer's.
"""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

from safetensors import SafetensorError

from training.data.records import sha256
from training.errors import CheckpointError

logger = logging.getLogger(__name__)

PREFIX = "checkpoint-"
SEAL = "sealed.json"
"""Written last: the hash of every other file of the checkpoint."""
STATE = "trainer_state.json"
"""What the Trainer writes last: all that there is to go by in a checkpoint of a version that sealed none."""
UNWRITTEN = (OSError, RuntimeError, SafetensorError)
"""What is raised where a checkpoint cannot be written, as when the disk is full (torch raises a RuntimeError)."""


def seal(folder: Path) -> None:
    """Says that the checkpoint in `folder` is whole."""
    hashes = {path.name: sha256(str(path)) for path in sorted(folder.iterdir()) if path.name != SEAL}
    (folder / SEAL).write_text(json.dumps(hashes, indent=2) + "\n", encoding="utf-8")


def unwritten(folder: Path, error: Exception) -> CheckpointError:
    """The error of a checkpoint that could not be written. What there is of it is removed."""
    shutil.rmtree(folder, ignore_errors=True)
    good = next((path for path in found(folder.parent) if not _fault(path)), None)
    kept = f"the last good one is {good}" if good else "there is none before it"
    return CheckpointError(f"{folder} cannot be written ({error}); {kept}")


def found(output: Path) -> list[Path]:
    """The checkpoint folders of a run, newest first, whether whole or torn."""
    numbered = [path for path in output.glob(f"{PREFIX}*") if path.name.removeprefix(PREFIX).isdigit()]
    return sorted(numbered, key=lambda path: int(path.name.removeprefix(PREFIX)), reverse=True)


def newest(output: Path) -> Path:
    """The newest whole checkpoint; those that are torn are skipped with a warning.

    Raises:
        CheckpointError: there is none.
    """
    folders = found(output)
    for folder in folders:
        fault = _fault(folder)
        if not fault:
            return folder
        logger.warning("%s is torn and is skipped: %s", folder, fault)
    raise CheckpointError(f"nothing to resume from in {output}" + (": every checkpoint is torn" if folders else ""))


def _fault(folder: Path) -> str:
    """What is wrong with a checkpoint; empty for a whole one."""
    try:
        json.loads((folder / STATE).read_text(encoding="utf-8"))
        sealed = (folder / SEAL).is_file()
        hashes = json.loads((folder / SEAL).read_text(encoding="utf-8")) if sealed else {}
        for name, digest in hashes.items():
            if sha256(str(folder / name)) != digest:
                return f"{name} is not what was written"
    except (OSError, ValueError, AttributeError) as error:
        return f"{type(error).__name__}: {error}"
    return ""
