"""The folder of models: which models there are, which versions of each, in which order, and where they lie.

`models/NAME/` is a bundle (its version is its digest), or holds one folder a version, `models/NAME/VERSION/`, or both.
What is no bundle is passed over: names that begin with a dot (copies under way), folders without a manifest, files.
Owns these names and the lock on a model's folder. Imports nothing heavy, and knows of a bundle that it has a manifest.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from service.errors import BundleError
from service.repository import files
from service.repository.files import MANIFEST

VERSION = r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,63}$"
"""What versions may be called."""
LOCK = ".lock"
LOCK_SECONDS = 10.0
"""Longest wait for another process, which holds the lock for milliseconds."""
ASIDE = ".incoming-"
"""How folders that are not versions yet, or no more, begin."""

_RETRY_SECONDS = 0.01


@dataclass(frozen=True, slots=True)
class Version:
    """A version of a model on disk.

    Attributes:
        model: the name of the model's folder.
        name: the version's name; the bundle's digest where it lies in the model's folder itself.
        folder: where its bundle lies.
        root: whether that is the model's folder itself.
    """

    model: str
    name: str
    folder: Path
    root: bool


@dataclass(frozen=True, slots=True)
class StoredModel:
    """A model on disk.

    Attributes:
        folder: where it lies; its name is the model's.
        versions: one or more, in order: the bundle of the folder itself, numbers by value, other names.
    """

    folder: Path
    versions: tuple[Version, ...]

    @property
    def name(self) -> str:
        """The model's name."""
        return self.folder.name

    def version(self, name: str) -> Version:
        """Get a version by its name. Raises BundleError where there is none."""
        for version in self.versions:
            if version.name == name:
                return version
        raise BundleError(f"model {self.name!r} has no version {name!r:.200}; it has {_listed(self.versions)}")


def find(models_dir: Path, names: Sequence[str] = ()) -> list[StoredModel]:
    """Find the models called `names`, or all of `models_dir` in the order of their names.

    Raises:
        BundleError: the folder holds no model, or not the one that is asked for.
    """
    if not os.path.isdir(models_dir):
        raise BundleError(f"there is no folder {str(models_dir)!r} of models (BERTIE_MODELS_DIR)")
    with told(f"the folder {str(models_dir)!r} of models cannot be read"):
        folders = {name: models_dir / name for name in sorted(os.listdir(models_dir)) if is_model_name(name)}
    for name in names:
        if name not in folders or not list_versions(folders[name]):
            there = [name for name, folder in folders.items() if _has_bundle(folder)]
            raise BundleError(
                f"there is no bundle {name!r:.200} in {str(models_dir)!r}; it holds {', '.join(there) or 'none'}"
            )
    wanted = names or [name for name, folder in folders.items() if _has_bundle(folder)]
    found = [StoredModel(folders[name], list_versions(folders[name])) for name in wanted]
    if not found:
        raise BundleError(
            f"there is no bundle in {str(models_dir)!r}: no folder of it, and none in one of these, has a {MANIFEST}"
        )
    return found


def list_versions(folder: Path) -> tuple[Version, ...]:
    """List the versions in a model's folder, in order; none where it holds no bundle, or is not there.

    Raises:
        BundleError: the folder cannot be read, or its own bundle's manifest.
    """
    if not os.path.isdir(folder):
        return ()
    model = folder.name
    with told(f"model {model!r} cannot be read"):
        names = [name for name in os.listdir(folder) if is_version_name(name) and _is_bundle(folder / name)]
        found = [Version(model, name, folder / name, root=False) for name in sorted(names, key=_order)]
        if _is_bundle(folder):
            found.insert(0, Version(model, files.digest(files.read_manifest(folder)), folder, root=True))
    return tuple(found)


def is_model_name(name: str) -> bool:
    """Whether a folder of this name can be a model's."""
    return 0 < len(name) <= 100 and name.isprintable() and "/" not in name and not name.startswith(".")


def is_version_name(name: str) -> bool:
    """Whether a version can have this name."""
    return re.fullmatch(VERSION, name) is not None


def next_version(versions: Sequence[Version]) -> str | None:
    """Get the number after the last; None where a version has a name that is no number."""
    names = [version.name for version in versions if not version.root]
    if not all(_is_number(name) for name in names):
        return None
    return str(max(map(int, names), default=0) + 1)


@contextlib.contextmanager
def told(what: str) -> Iterator[None]:
    """Turn what the disk raises into one line."""
    try:
        yield
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise BundleError(f"{what}: {reason}") from error


# ---- the lock -------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Hold the lock on a model's folder, which who changes its plan or its versions holds. Others wait.

    The system frees it when the process ends, however it ends.

    Raises:
        BundleError: another process holds it for longer than `LOCK_SECONDS`, or the folder cannot be written.
    """
    until = time.monotonic() + LOCK_SECONDS
    with contextlib.ExitStack() as stack:
        with told(f"model {folder.name!r} cannot be changed"):
            descriptor = stack.enter_context(_opened_lock(folder))
            while not _lock(descriptor):
                if time.monotonic() > until:
                    raise BundleError(f"model {folder.name!r} is being changed by another process; try again")
                time.sleep(_RETRY_SECONDS)
        yield


@contextlib.contextmanager
def aside(folder: Path) -> Iterator[Path]:
    """Make a folder in a model's folder that nobody takes for a version. It is gone when the block ends.

    Hold the lock on the model's folder when the block begins. Those that killed processes left are removed: each is
    locked by its process for as long as that lives. (A process's number would say nothing: machines share disks.)

    Raises:
        OSError: it cannot be made.
    """
    for name in os.listdir(folder):
        if name.startswith(ASIDE):
            with contextlib.suppress(OSError), _opened_lock(folder / name) as descriptor:
                if _lock(descriptor):
                    shutil.rmtree(folder / name)
    path = folder / f"{ASIDE}{secrets.token_hex(4)}"
    path.mkdir()
    try:
        with _opened_lock(path) as descriptor:
            _lock(descriptor)
            yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def _opened_lock(folder: Path) -> Iterator[int]:
    path = folder / LOCK
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except PermissionError:
        if not path.exists():
            raise
        # Another user made it. To lock it no right to write is needed, but on NFS.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    """Take the lock if it is free. Returns whether it was."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


# ---- names ----------------------------------------------------------------------------------------------------------


def _is_bundle(folder: Path) -> bool:
    path = folder / MANIFEST  # a pipe of that name is a broken one; neither is it where it may not be looked at
    return os.path.exists(path) and not os.path.isdir(path)


def _has_bundle(folder: Path) -> bool:
    """Whether a folder is a model; false where it may not be looked at."""
    if _is_bundle(folder):
        return True
    with contextlib.suppress(OSError):
        return any(is_version_name(name) and _is_bundle(folder / name) for name in os.listdir(folder))
    return False


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdigit()


def _order(name: str) -> tuple[bool, int, str]:
    return (False, int(name), name) if _is_number(name) else (True, 0, name)


def _listed(versions: Sequence[Version]) -> str:
    return ", ".join(version.name for version in versions)
