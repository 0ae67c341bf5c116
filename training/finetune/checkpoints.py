"""Checkpoints of a fine-tuning run: each sealed when it is whole, so that a torn one is never continued from.

Owns which of them is good. What is in them is transformers' Trainer's.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from training import files
from training.checkpoints import sealed
from training.errors import CheckpointError

logger = logging.getLogger(__name__)

SEAL = "sealed.json"
"""Written last: the hash of every other file of the checkpoint."""
RUN = "run.json"
"""What run the checkpoint is of: its `recipe`, and the hashes of its `data`. Those of earlier versions lack it."""
STATE = "trainer_state.json"
"""What the Trainer writes last: all that there is to go by in a checkpoint of a version that sealed none."""
ANOTHER = (
    "task", "data", "labels", "multi_label", "table", "model", "train", "train_limit", "source_weights", "max_length",
    "doc_stride", "empty_windows", "batch_size", "gradient_accumulation_steps", "seed",
)  # fmt: skip
"""Keys of a recipe that make another run: of other rows, in another order, or of another model."""
INDIFFERENT = ("output", "dev", "dev_limit", "dev_steps", "save_steps", "logging_steps")
"""Keys that change nothing of how the weights go on."""


def run_of(recipe: Mapping[str, Any], data: Mapping[str, str | None]) -> dict[str, Any]:
    """What `RUN` has of a run: its recipe and the hashes of its data files by path, as JSON gives them back."""
    made: dict[str, Any] = json.loads(json.dumps({"recipe": recipe, "data": data}))
    return made


def seal(folder: Path, run: Mapping[str, Any]) -> None:
    """Say that the checkpoint in `folder` is whole, and what run it is of."""
    (folder / RUN).write_text(json.dumps(run, indent=2) + "\n", encoding="utf-8")
    hashes = sealed.hashes(folder, without=SEAL)
    (folder / SEAL).write_text(json.dumps(hashes, indent=2) + "\n", encoding="utf-8")


def check_run(folder: Path, run: Mapping[str, Any]) -> None:
    """Warn where the run would not go on as the checkpoint's would have.

    Raises:
        CheckpointError: it is another run, by its recipe or by the content of its training files.
    """
    if not (folder / RUN).is_file():
        logger.warning("%s does not say what run it is of: that it is this one cannot be checked", folder)
        return
    written = json.loads((folder / RUN).read_text(encoding="utf-8"))
    then, now = written["recipe"], run["recipe"]
    # A key that the checkpoint does not know is one of a later version.
    changed = {k: f"{k} was {then[k]!r} and is {now[k]!r}" for k in now if k in then and then[k] != now[k]}
    content = {
        path: f"the sha256 of {path} was {written['data'][path]} and is {digest}"
        for path, digest in run["data"].items()
        if written["data"].get(path, digest) != digest
    }
    another = [changed[key] for key in ANOTHER if key in changed]
    another += [content[path] for path in now["train"] if path in content]
    if another:
        raise CheckpointError(f"{folder} is of another run: {'; '.join(another)}")
    told = [text for key, text in changed.items() if key not in INDIFFERENT] + list(content.values())
    if told:
        logger.warning("%s continues, and not as it would have: %s", folder, "; ".join(told))


def newest(output: Path) -> Path:
    """Return the newest whole checkpoint; skip those that are torn with a warning. Raises `CheckpointError`."""
    return sealed.newest(output, _whole)


def writing(folder: Path) -> AbstractContextManager[None]:
    """Raise a `CheckpointError` that names the last good checkpoint where `folder` cannot be written."""

    def remove() -> str:
        shutil.rmtree(folder, ignore_errors=True)
        return sealed.kept(folder.parent, _whole)

    return files.said(folder, remove)


def _whole(folder: Path) -> Path:
    """Return the folder. Raises one of `sealed.TORN` where it is not as it was sealed."""
    json.loads((folder / STATE).read_text(encoding="utf-8"))
    if (folder / SEAL).is_file():
        sealed.check(folder, json.loads((folder / SEAL).read_text(encoding="utf-8")))
    return folder
