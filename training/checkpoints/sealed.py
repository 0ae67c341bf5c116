"""A run's checkpoints, `checkpoint-STEP` in its output: which are there, and which of them are whole.

Owns the names and the hashes. What is in a checkpoint, the runs know: fine-tuning's and pre-training's differ.
"""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from safetensors import SafetensorError

from service.repository.files import sha256
from training.errors import CheckpointError

logger = logging.getLogger(__name__)

PREFIX = "checkpoint-"
TORN = (OSError, ValueError, KeyError, AttributeError, SafetensorError)
"""What is raised where a checkpoint that is not whole is read."""

Read = TypeVar("Read")


def found(output: Path) -> list[Path]:
    """Return the checkpoint folders of a run, newest first, whether whole or torn."""
    numbered = [path for path in output.glob(f"{PREFIX}*") if path.name.removeprefix(PREFIX).isdigit()]
    return sorted(numbered, key=lambda path: int(path.name.removeprefix(PREFIX)), reverse=True)


def hashes(folder: Path, without: str = "") -> dict[str, str]:
    """Return the SHA-256 of each file of a checkpoint by name, but for the one that will hold them."""
    return {path.name: sha256(path) for path in sorted(folder.iterdir()) if path.name != without}


def check(folder: Path, written: Mapping[str, str], optional: str = "") -> None:
    """Raise `ValueError` where a file is not what was written, or `OSError` where one is missing that must be there."""
    for name, digest in written.items():
        if not (name == optional and not (folder / name).exists()) and sha256(folder / name) != digest:
            raise ValueError(f"{name} is not what was written")


def newest(output: Path, read: Callable[[Path], Read]) -> Read:
    """Return what `read` makes of the newest whole checkpoint; skip those that are torn with a warning.

    Raises:
        CheckpointError: there is none.
    """
    folders = found(output)
    for folder in folders:
        try:
            return read(folder)
        except TORN as error:
            logger.warning("%s is torn and is skipped: %s: %s", folder, type(error).__name__, error)
    raise CheckpointError(f"nothing to resume from in {output}" + (": every checkpoint is torn" if folders else ""))


def kept(output: Path, read: Callable[[Path], object]) -> str:
    """Return the end of a message about a checkpoint that could not be written: which one is left."""
    for folder in found(output):
        try:
            read(folder)
        except TORN:
            continue
        return f"the last good one is {folder}"
    return "there is none before it"
