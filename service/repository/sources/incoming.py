"""A bundle on its way into the cache: from a folder's files, or out of tars; checked against hash and manifest.

Knows nothing of schemes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from service.repository.manifest import MANIFEST, parse
from service.repository.sources import archive
from service.repository.sources.cache import Cache
from service.repository.sources.transfer import MAX_MANIFEST, Download, Opener, Place


class Incoming:
    """The bundle that comes into `folder`, which `cache.incoming` gave.

    Args:
        sha256: of its manifest; empty where any will do.
        digest: of the OCI manifest, or index, by which it comes; empty where none is given.
    """

    def __init__(self, cache: Cache, folder: Path, download: Download, *, sha256: str = "", digest: str = "") -> None:
        self._cache = cache
        self._folder = folder
        self._download = download
        self._sha256 = sha256
        self._digests = {digest} if digest else set()

    def of_image(self, digest: str) -> Path | None:
        """Get the cache's folder of the bundle that the OCI manifest of that sha256 holds, or None: it must come."""
        self._digests.add(digest)
        folder = self._cache.of_image(digest)
        return None if folder is None or self._sha256 not in ("", folder.parent.name) else self._named(folder)

    def from_folder(self, place: Place, sha256: str = "") -> Path:
        """Bring the files that the folder's manifest names, unless they are there, and get the cache's folder.

        Args:
            sha256: of its manifest, where something else names it too.

        Raises:
            ValueError: the folder holds no bundle, or another one, or a broken one.
            Interrupted: it is not to be had now.
            OSError: the cache cannot be written.
        """
        files = self._folder / "files"
        found = self._download.save(place(MANIFEST), files / MANIFEST, most=MAX_MANIFEST)
        for expected in (self._sha256, sha256):
            if expected and found != expected:
                raise ValueError(f"its {MANIFEST} has sha256={found}, and not sha256={expected}")
        folder = self._cache.get(found)
        if folder is None:
            manifest = parse((files / MANIFEST).read_bytes())
            for name, expected in manifest.files.items():
                self._download.save(place(name), files / name, expected)
            folder = self._cache.put(self._folder, manifest, found)
        return self._named(folder)

    def from_archive(self, opener: Opener) -> Path:
        """Bring an archive and take the one bundle in it out. Raises as `from_folder`."""
        return self.from_layers([(opener, "")])

    def from_layers(self, layers: Iterable[tuple[Opener, str]]) -> Path:
        """Bring tars with their sha256, those above first, until they hold a bundle. Raises as `from_folder`."""
        most = self._download.most
        manifest, found = archive.unpack(self._saved(layers), self._folder / "files", self._sha256, most)
        return self._named(self._cache.put(self._folder, manifest, found))

    def _named(self, folder: Path) -> Path:
        for digest in self._digests:
            self._cache.name_image(self._folder, digest, folder.parent.name)
        return folder

    def _saved(self, layers: Iterable[tuple[Opener, str]]) -> Iterator[Path]:
        for number, (opener, sha256) in enumerate(layers):
            path = self._folder / f"tar-{number}"
            self._download.save(opener, path, sha256)
            yield path
