"""Files and folders that are whole or absent: written aside, synchronised, renamed into place."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from service.repository.files import sync
from training.errors import CheckpointError

PARTIAL, REPLACED = ".partial-", ".replaced-"
"""How names begin of what is being written, and of what is being replaced."""
UNWRITTEN = (OSError, RuntimeError, SafetensorError)
"""What is raised where a disk is full (torch raises a RuntimeError)."""


@contextmanager
def written_aside(path: Path, *, shared: bool = False) -> Iterator[Path]:
    """Yield a path to write a file or a folder to; put it in the place of `path` when the block ends.

    When the block or a rename fails, what was at `path` is still there, and nothing is left beside it.

    Args:
        path: where to; its folder is made.
        shared: other processes may write there at the same time. Otherwise what a killed process left is removed.

    Raises:
        OSError: it cannot be written or renamed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if shared:
        aside = Path(tempfile.mkdtemp(prefix=f"{PARTIAL}{path.name}-", dir=path.parent))
    else:
        aside = path.with_name(f"{PARTIAL}{path.name}")
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir()
    new, old = aside / path.name, path.with_name(aside.name.replace(PARTIAL, REPLACED, 1))
    try:
        yield new
        for each in (*new.rglob("*"), new):
            sync(each)
        if path.is_dir():
            path.rename(old)
        try:
            new.replace(path)
        except BaseException:
            if old.exists():
                old.rename(path)
            raise
        sync(path.parent)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)


def check_absent(path: Path) -> None:
    """Raise a `CheckpointError` where something is at `path` already."""
    if path.exists():
        raise CheckpointError(f"{path} exists: it will not be replaced")


@contextmanager
def said(path: Path, then: str | Callable[[], str] = "") -> Iterator[None]:
    """Raise a `CheckpointError` that says `path` cannot be written, and what follows, for what a full disk raises."""
    try:
        yield
    except UNWRITTEN as error:
        rest = then if isinstance(then, str) else then()
        raise CheckpointError(f"{path} cannot be written ({error}){rest and f'; {rest}'}") from error
