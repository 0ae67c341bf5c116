"""The cache of bundles from elsewhere: each in a folder named by the sha256 of its manifest, complete or not at all.

    CACHE/sha256/HEX/NAME/    a bundle; the model's name is the folder's, as in a folder of models
    CACHE/oci/HEX             a link to the folder of the bundle that an OCI manifest of that sha256 holds
    CACHE/.incoming-*/        what is on its way, locked by who brings it

A bundle appears by a rename: of two processes that bring the same one, the second finds it there. Nothing is removed
but what a process that is gone has left on its way.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from service.repository import files
from service.repository.manifest import MANIFEST, Manifest, parse
from service.repository.sources.transfer import MAX_MANIFEST

logger = logging.getLogger(__name__)

INCOMING = ".incoming-"


class Cache:
    """The folder `root`, which need not be there yet, and may be read-only where it holds what is asked for.

    Raises:
        ValueError: it is in the home folder of a user that has none.
    """

    def __init__(self, root: Path) -> None:
        try:
            self._root = root.expanduser()
        except RuntimeError as error:
            raise ValueError(f"there is no home folder for the cache {str(root)!r}: set BERTIE_CACHE_DIR") from error

    def get(self, sha256: str) -> Path | None:
        """Get the folder of the bundle whose manifest has that sha256, or None: it is not there, or damaged."""
        try:
            [folder] = [each for each in (self._root / "sha256" / sha256).iterdir() if each.is_dir()]
        except (FileNotFoundError, ValueError):
            return None
        try:
            content = files.read(folder / MANIFEST, MAX_MANIFEST)
            right = hashlib.sha256(content).hexdigest() == sha256 and all(
                files.sha256(folder / name) == expected for name, expected in parse(content).files.items()
            )
        except (OSError, ValueError):
            right = False
        if not right:
            logger.warning("the bundle in %s is damaged: it is fetched again", folder)
        return folder if right else None

    def of_image(self, digest: str) -> Path | None:
        """Get the folder of the bundle that the OCI manifest with that sha256 holds, or None."""
        try:
            return self.get(Path(os.readlink(self._root / "oci" / digest)).name)
        except OSError:
            return None

    def put(self, incoming: Path, manifest: Manifest, sha256: str) -> Path:
        """Take a complete and verified bundle into the cache, and get its folder.

        Args:
            incoming: what `self.incoming` gave; its folder `files` holds the bundle's files.
            sha256: of the bundle's manifest.

        Raises:
            ValueError: the bundle's name cannot be a folder's.
            OSError: it cannot be written.
        """
        if manifest.name.startswith("."):
            raise ValueError(f"it calls itself {manifest.name!r}: a model's name does not begin with a dot")
        (incoming / "bundle").mkdir()
        (incoming / "files").rename(incoming / "bundle" / manifest.name)
        target = self._root / "sha256" / sha256
        target.parent.mkdir(exist_ok=True)
        if target.exists() and self.get(sha256) is None:
            target.rename(incoming / "damaged")
        try:
            (incoming / "bundle").rename(target)
        except OSError:
            if not target.exists():  # it does where another process was quicker
                raise
        return target / manifest.name

    def name_image(self, incoming: Path, digest: str, sha256: str) -> None:
        """Note that the OCI manifest of sha256 `digest` holds the bundle of `sha256`. Raises OSError."""
        (self._root / "oci").mkdir(exist_ok=True)
        (incoming / "link").symlink_to(Path("..") / "sha256" / sha256)
        (incoming / "link").rename(self._root / "oci" / digest)

    @contextmanager
    def incoming(self) -> Iterator[Path]:
        """Make a folder for what is on its way, with a folder `files` in it; it is gone when the block ends.

        Raises:
            OSError: the cache cannot be written.
        """
        self._root.mkdir(parents=True, exist_ok=True)
        with open(self._root / ".lock", "w") as lock:
            # One at a time: a folder that is made and not locked yet would look like one that is left.
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._remove_left()
            folder = Path(tempfile.mkdtemp(prefix=INCOMING, dir=self._root))
            mine = open(folder / "lock", "w")  # noqa: SIM115
            fcntl.flock(mine, fcntl.LOCK_EX)
        try:
            with mine:
                (folder / "files").mkdir()
                yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _remove_left(self) -> None:
        for folder in self._root.glob(f"{INCOMING}*"):
            with contextlib.suppress(FileNotFoundError), open(folder / "lock", "a") as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue  # whose process is alive
            shutil.rmtree(folder, ignore_errors=True)
