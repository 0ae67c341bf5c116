"""A bundle in tars: in an archive, or in the layers of an image. No path of a tar ever reaches the disk.

The bundle's files are written under the names that its manifest gives them, which are checked; links, devices and all
else in the tars are left where they are.
"""

from __future__ import annotations

import gzip
import hashlib
import posixpath
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from service.repository.manifest import MANIFEST, Manifest, parse
from service.repository.sources.transfer import CHUNK, MAX_MANIFEST

MAX_HEADER = MAX_MANIFEST
"""Bytes that `tarfile` may read at once."""
MAX_MEMBERS = 1_000_000
WHITEOUT, OPAQUE = ".wh.", ".wh..wh..opq"
"""Names of what a layer takes out of those below it (OCI image specification 1.1, "Whiteouts")."""


@dataclass(slots=True)
class Layers:
    """What tars hold, those above first: of two files of one name, that of the tar above counts.

    Attributes:
        tars: their paths.
        where: number of the tar that holds a file, by its path in there; -1 for what is no regular file.
        manifests: what may be a bundle's manifest, by the path of its folder.
        gone: paths that are hidden from the tars below.
    """

    most: int
    tars: list[Path] = field(default_factory=list)
    where: dict[str, int] = field(default_factory=dict)
    manifests: dict[str, bytes] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)

    def add(self, path: Path) -> None:
        """Look through the next tar below."""
        number, gone = len(self.tars), set()
        self.tars.append(path)
        with _open(path, self.most) as tar:
            for name, member in _members(tar):
                parent, base = posixpath.split(name)
                if base.startswith(WHITEOUT):
                    gone.add(parent if base == OPAQUE else posixpath.join(parent, base.removeprefix(WHITEOUT)))
                elif not member.isdir() and self.where.get(name, number) == number and not self._is_gone(name):
                    if len(self.where) >= MAX_MEMBERS:
                        raise ValueError(f"it holds more than {MAX_MEMBERS} files")
                    self.where[name] = number if member.isfile() else -1
                    if base == MANIFEST and member.isfile() and member.size <= MAX_MANIFEST:
                        self.manifests[parent] = _content(tar, member)
        self.gone |= gone

    def bundles(self, sha256: str) -> dict[str, Manifest]:
        """Get the manifests of bundles by the path of their folder: of those with this sha256, if one is given."""
        found = {}
        for folder, content in self.manifests.items():
            if not sha256 or hashlib.sha256(content).hexdigest() == sha256:
                try:
                    found[folder] = parse(content)
                except (ValueError, RecursionError):
                    continue  # images are full of files of that name
        return found

    def has(self, folder: str, manifest: Manifest) -> bool:
        """Whether all files of a bundle are there."""
        return not self.missing(folder, manifest)

    def missing(self, folder: str, manifest: Manifest) -> list[str]:
        """List the files of a bundle that are not there."""
        return [name for name in manifest.files if self.where.get(posixpath.join(folder, name), -1) < 0]

    def write(self, folder: str, manifest: Manifest, target: Path) -> None:
        """Write a bundle's files and its manifest to the folder `target`.

        Raises:
            ValueError: a file is not what the manifest says, or all together are too large.
        """
        (target / MANIFEST).write_bytes(self.manifests[folder])
        wanted = {posixpath.join(folder, name): name for name in manifest.files}
        found: dict[str, str] = {}
        left = self.most
        for number in sorted({self.where[path] for path in wanted}):
            with _open(self.tars[number], self.most) as tar:
                for path, member in _members(tar):
                    if self.where.get(path) == number and path in wanted and member.isfile():
                        left -= member.size
                        if left < 0:
                            raise ValueError(f"its files have more than {self.most} bytes together")
                        found[wanted[path]] = _write(tar, member, target / wanted[path])
        for name, expected in manifest.files.items():
            if found.get(name) != expected:
                raise ValueError(f"{name} has sha256 {found.get(name)}, and the manifest says {expected}")

    def _is_gone(self, name: str) -> bool:
        while name and name not in self.gone:
            name = posixpath.dirname(name)
        return bool(name) or "" in self.gone


def unpack(tars: Iterable[Path], target: Path, sha256: str, most: int) -> tuple[Manifest, str]:
    """Write the one bundle that tars hold to the folder `target`, and get its manifest and the sha256 of that.

    Args:
        tars: those above first; no more are taken than are needed.
        sha256: of the bundle's manifest; empty: there must be one bundle.
        most: bytes of a tar, and of the bundle.

    Raises:
        ValueError: they hold no bundle, or several, or a broken one.
        OSError: the files cannot be written.
    """
    layers = Layers(most)
    for tar in tars:
        layers.add(tar)
        found = layers.bundles(sha256)
        if len(found) == 1 and layers.has(*next(iter(found.items()))):
            break
    found = layers.bundles(sha256)
    if not found and sha256 and layers.bundles(""):
        others = sorted(hashlib.sha256(layers.manifests[folder]).hexdigest() for folder in layers.bundles(""))
        raise ValueError(f"it holds a bundle of sha256={' and '.join(others)}, and not of sha256={sha256}")
    if not found:
        raise ValueError(f"no folder in it holds a bundle with its {MANIFEST}")
    if len(found) > 1 and not sha256:
        named = " and ".join(repr(folder or ".") for folder in sorted(found))
        raise ValueError(f"it holds several bundles, in {named}: say which by #sha256= of its {MANIFEST}")
    folder, manifest = next(iter(found.items()))
    if missing := layers.missing(folder, manifest):
        raise ValueError(f"{missing[0]} is missing beside the {MANIFEST} in it, as a regular file")
    layers.write(folder, manifest, target)
    return manifest, hashlib.sha256(layers.manifests[folder]).hexdigest()


class _Bounded:
    """A file for `tarfile`, which reads a header of any size at once, and goes on to wherever a header says."""

    def __init__(self, file: BinaryIO | gzip.GzipFile, most: int) -> None:
        self._file = file
        self._most = most

    def read(self, size: int) -> bytes:
        if size > MAX_HEADER:
            raise ValueError(f"a header in it has {size} bytes")
        return self._file.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        if whence == 0 and offset > self._most:
            raise ValueError(f"it has more than {self._most} bytes, unpacked")
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()


@contextmanager
def _open(path: Path, most: int) -> Iterator[tarfile.TarFile]:
    try:
        with open(path, "rb") as file, ExitStack() as stack:
            magic = file.read(4)
            file.seek(0)
            if magic == b"\x28\xb5\x2f\xfd":
                raise ValueError("it is packed with zstd: pack it with gzip, or not at all")
            content = stack.enter_context(gzip.open(file)) if magic[:2] == b"\x1f\x8b" else file
            bounded: Any = _Bounded(content, most)
            yield stack.enter_context(tarfile.open(fileobj=bounded, mode="r:"))
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"the archive is broken: {error}") from error


def _members(tar: tarfile.TarFile) -> Iterator[tuple[str, tarfile.TarInfo]]:
    while (member := tar.next()) is not None:
        tar.members = []  # type: ignore[attr-defined]  # tarfile keeps them all otherwise
        name = posixpath.normpath(member.name).lstrip("/")
        if ".." not in name.split("/"):
            yield ("" if name == "." else name), member


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    assert file is not None  # a regular file's
    with file:
        return file.read()


def _write(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> str:
    digest = hashlib.sha256()
    source = tar.extractfile(member)
    assert source is not None  # a regular file's
    with source, open(path, "wb") as file:
        while chunk := source.read(CHUNK):
            digest.update(chunk)
            file.write(chunk)
    return digest.hexdigest()
