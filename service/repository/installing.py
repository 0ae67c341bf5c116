"""A complete bundle to a version of a model, and a version to nothing: whole or not at all, whenever the process ends.

Owns the order of copying, checking, syncing and renaming.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

from service.errors import BundleError
from service.repository import bundle as bundles
from service.repository import files, plan, versions
from service.repository.files import MANIFEST
from service.repository.manifest import parse
from service.repository.versions import StoredModel, Version


def install(source: Path, models_dir: Path, model: str, version: str | None = None) -> Version:
    """Copy the bundle in `source` to a version of a model, checked by its hashes. Nobody sees it before it is complete.

    Beside other versions it answers nothing yet: the one that was stable stays so, in the plan's words.

    Args:
        version: its name; by default the number after the last, or where versions have names that are no numbers, the
            bundle's digest.

    Raises:
        BundleError: the bundle is broken or of another name, the version exists, or the disk cannot take it.
    """
    if not versions.is_model_name(model):
        raise BundleError(
            f"{model!r:.200} is no name for a model: up to 100 printable characters, no '/', no '.' first"
        )
    if version is not None and not versions.is_version_name(version):
        raise BundleError(
            f"{version!r:.200} is no name for a version: it has up to 64 letters, digits, '_', '.' and '-', "
            "and neither of the last two first"
        )
    folder = models_dir / model
    bundle = bundles.load(source)
    _check_names(bundle.name, bundle.label, versions.list_versions(folder), model)
    with versions.told(f"model {model!r}: the version cannot be put into {str(folder)!r}"):
        folder.mkdir(parents=True, exist_ok=True)
        _check_absent(folder, version)  # said now, not after the copy
        with contextlib.ExitStack() as stack:
            with versions.lock(folder):
                aside = stack.enter_context(versions.aside(folder))
            copy = aside / model
            copy.mkdir()
            for name in (MANIFEST, *bundle.manifest.files):
                shutil.copyfile(source / name, copy / name)
                files.sync(copy / name)
            files.sync(copy)
            if bundles.load(copy).digest != bundle.digest:
                raise BundleError(f"bundle {bundle.label!r} changed while it was copied; try again")
            with plan.edit(folder):
                pass  # who is stable was left to the order until now: it is written down before that changes
            with versions.lock(folder):
                name = version or versions.next_version(versions.list_versions(folder)) or bundle.digest
                _check_absent(folder, name)
                os.rename(copy, folder / name)
                files.sync(folder)
        files.sync(models_dir)
    return Version(model, name, folder / name, root=False)


def remove(model: StoredModel, name: str) -> None:
    """Remove a version that has no role but to be a previous one. From its first moment on nobody sees half of it.

    Raises:
        RolloutError: it has another role.
        BundleError: there is none, or it cannot be removed.
    """
    folder, version = model.folder, model.version(name)
    with plan.edit(folder) as edit, versions.told(f"version {name!r} of {model.name!r} cannot be removed"):
        edit.plan = plan.forget(edit.plan, name)
        names = (MANIFEST, *parse(files.read_manifest(folder)).files) if version.root else (name,)
        with versions.aside(folder) as aside:
            for each in names:  # the manifest first: without it the folder is no bundle
                with contextlib.suppress(FileNotFoundError):
                    os.rename(folder / each, aside / each)  # a link goes, what it points to stays


def _check_names(name: str, label: str, there: tuple[Version, ...], model: str) -> None:
    """Check that the bundle is the model's, and so is the one in the model's folder, which may have had another name
    for as long as it was alone."""
    if name != model:
        raise BundleError(
            f"bundle {label!r} calls itself {name!r}: add it as {name!r}, or export it into a folder called {model!r}"
        )
    for root in there[:1]:
        if root.root and (called := parse(files.read_manifest(root.folder)).name) != model:
            raise BundleError(
                f"the bundle in {str(root.folder)!r} calls itself {called!r}: call the folder so too before it gets "
                "versions"
            )


def _check_absent(folder: Path, version: str | None) -> None:
    if any(each.name == version for each in versions.list_versions(folder)) or (
        version is not None and os.path.lexists(folder / version)
    ):
        raise BundleError(
            f"model {folder.name!r} has a version {version!r} already: add this one under another name, or remove it"
        )
