"""Files to read and a folder to write, here or in an object store (`s3://`, ...), through fsspec.

Owns atomicity: a file of the output folder is there whole or not at all. Knows nothing of formats.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from service.scoring.errors import ScoringError

TEMPORARY = ".tmp-"


@dataclass(frozen=True, slots=True)
class File:
    """A file of the input.

    Attributes:
        url: where it is.
        size: in bytes.
        stamp: changes when the file does: the time of the last change, or what an object store has for it.
    """

    url: str
    size: int
    stamp: str

    def open(self) -> Any:
        """Open it to be read as bytes, from any place. Raises ScoringError."""
        with told(self.url):
            system, path = connect(self.url)
            return system.open(path, "rb")

    def check(self) -> None:
        """Raise ScoringError where the file is no longer what it was."""
        if find(self.url) != [self]:
            raise ScoringError(f"{self.url} has changed since the run began; score it anew with --overwrite")


def find(url: str) -> list[File]:
    """Find the files of a file, folder or glob, sorted. In folders, names that begin with `.` or `_` are none, as in
    Spark and Arrow.

    Raises:
        ScoringError: there is none, or it cannot be read.
    """
    with told(url):
        system, path = connect(url)
        if system.isfile(path):
            paths = [path]
        elif system.isdir(path):
            root = len(path.rstrip("/"))
            paths = [each for each in system.find(path) if not _hidden(each[root:])]
        else:
            paths = [each for each in system.glob(path) if system.isfile(each)] if any(c in url for c in "*?[") else []
        if not paths:
            raise ScoringError(f"there is no file {url}")
        return [_file(system, each) for each in sorted(paths)]


class Folder:
    """The folder of a run's output.

    Attributes:
        url: where it is.
    """

    def __init__(self, url: str) -> None:
        """Raises ScoringError: there is no such kind of storage."""
        with told(url):
            self._system, self._path = connect(url)
            self.url = _url(self._system, self._path)

    def names(self, under: str = "") -> set[str]:
        """Get the names of what is in the folder, or in one of its folders; none where there is no folder."""
        path = f"{self._path}/{under}" if under else self._path
        with told(self.url):
            if self._system.exists(path) and not self._system.isdir(path):
                raise ScoringError(f"{self.url} is no folder")
            self._system.invalidate_cache()
            try:
                return {each.rstrip("/").rpartition("/")[2] for each in self._system.ls(path, detail=False)}
            except FileNotFoundError:
                return set()

    def read(self, name: str) -> bytes:
        """Read a file. Raises ScoringError."""
        with told(f"{self.url}/{name}"):
            content: bytes = self._system.cat_file(f"{self._path}/{name}")
            return content

    def write(self, name: str, content: bytes) -> None:
        """Write a file, whole or not at all. Raises ScoringError."""
        with self.new(name) as path:
            path.write_bytes(content)

    @contextlib.contextmanager
    def new(self, name: str) -> Iterator[Path]:
        """Give a local path to write to; when the block ends without an error, what is there is the file `name`.

        Raises:
            ScoringError: it cannot be written.
        """
        with told(f"{self.url}/{name}"):
            if isinstance(self._system, LocalFileSystem):
                final = Path(self._path) / name
                final.parent.mkdir(parents=True, exist_ok=True)
                path = final.parent / f"{TEMPORARY}{uuid.uuid4().hex}"
                try:
                    yield path
                    with open(path, "rb") as file:
                        os.fsync(file.fileno())  # a name for what a crash has emptied would be a lie
                    os.replace(path, final)
                finally:
                    path.unlink(missing_ok=True)
            else:  # an object appears when all of it has arrived
                with tempfile.TemporaryDirectory(prefix="bertie-score-") as folder:
                    path = Path(folder) / "file"
                    yield path
                    self._system.put_file(str(path), f"{self._path}/{name}")

    def remove(self, names: set[str]) -> None:
        """Remove files and folders of it. Raises ScoringError."""
        with told(self.url):
            for name in sorted(names):
                self._system.rm(f"{self._path}/{name}", recursive=True)


def connect(url: str) -> tuple[Any, str]:
    """Get the file system of a URL, and its path there. Raises what fsspec does."""
    system, path = fsspec.core.url_to_fs(url)
    return system, path


@contextlib.contextmanager
def told(url: str) -> Iterator[None]:
    """Turn what storage raises into one line that names the file."""
    try:
        yield
    except FileNotFoundError as error:
        raise ScoringError(f"there is no file {error.filename or url}") from error
    except PermissionError as error:
        raise ScoringError(f"no permission: {error.filename or url}") from error
    except ImportError as error:  # "Install s3fs to access S3"
        raise ScoringError(f"{url}: {error}") from error
    except (OSError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise ScoringError(f"{url}: {reason}") from error


def _hidden(path: str) -> bool:
    return any(name.startswith((".", "_")) for name in path.split("/") if name)


def _file(system: Any, path: str) -> File:
    known = system.info(path)
    stamp = next(
        (known[each] for each in ("ETag", "etag", "md5Hash", "mtime", "LastModified", "created") if known.get(each)), ""
    )
    return File(_url(system, path), known["size"], str(stamp))


def _url(system: Any, path: str) -> str:
    url: str = system.unstrip_protocol(path)
    return url.removeprefix("file://")
