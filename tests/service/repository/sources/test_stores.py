"""Bundles of this machine's folders and of object stores: fsspec's memory is the store here, and no cloud."""

import asyncio
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import known_implementations

from service.errors import BundleError
from service.repository.manifest import MANIFEST, TOKENIZER
from service.repository.sources import fetch, stores
from tests.remote import files_of, tar_of


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[MemoryFileSystem]:
    """What is behind `s3://` and `gs://` in this test."""
    monkeypatch.setattr(stores, "PACKAGES", {"s3": "json", "gs": "json"})
    made: list[dict[str, Any]] = []

    def filesystem(scheme: str, **options: Any) -> MemoryFileSystem:
        made.append(options)
        return MemoryFileSystem()

    monkeypatch.setattr(fsspec, "filesystem", filesystem)
    store = MemoryFileSystem()
    store.store.clear()
    yield store
    store.store.clear()
    assert all(options == {"skip_instance_cache": True, "use_listings_cache": False} for options in made)


def put(store: MemoryFileSystem, files: dict[str, bytes]) -> None:
    for path, content in files.items():
        store.pipe_file(f"/{path}", content)


@pytest.mark.parametrize("scheme", ["s3", "gs"])
def test_a_folder_of_a_store(
    scheme: str, store: MemoryFileSystem, elsewhere: Path, cache: Path, sha256: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "PART", 1000)
    put(store, files_of(elsewhere, "bucket/models/sentiment/"))
    found = fetch(f"{scheme}://bucket/models/sentiment/#sha256={sha256}", cache)
    assert files_of(found) == files_of(elsewhere)
    store.store.clear()
    assert fetch(f"{scheme}://bucket/models/sentiment#sha256={sha256}", cache) == found


def test_an_archive_of_a_store(store: MemoryFileSystem, elsewhere: Path, cache: Path) -> None:
    put(store, {"bucket/sentiment.tar.gz": tar_of(files_of(elsewhere), packed=True)})
    assert files_of(fetch("s3://bucket/sentiment.tar.gz", cache)) == files_of(elsewhere)


def test_what_is_not_there(store: MemoryFileSystem, cache: Path) -> None:
    with pytest.raises(BundleError, match=f"s3://bucket/qa: there is no file s3://bucket/qa/{MANIFEST}"):
        fetch("s3://bucket/qa", cache)


@pytest.mark.parametrize(
    ("error", "tries", "said"),
    [
        (PermissionError("no key"), 1, "is not to be read: no key"),
        (OSError("reset by peer"), 3, "reset by peer"),
        (TimeoutError(), 3, "TimeoutError"),
    ],
)
def test_a_store_that_fails(
    error: Exception, tries: int, said: str, store: MemoryFileSystem, elsewhere: Path, cache: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    put(store, files_of(elsewhere, "bucket/qa/"))
    read, asked = MemoryFileSystem.cat_file, []

    def cat_file(self: MemoryFileSystem, path: str, **arguments: Any) -> Any:
        if path.endswith(TOKENIZER):
            asked.append(path)
            raise error
        return read(self, path, **arguments)

    monkeypatch.setattr(MemoryFileSystem, "cat_file", cat_file)
    with pytest.raises(BundleError, match=said):
        fetch("s3://bucket/qa", cache)
    assert len(asked) == tries
    assert list(cache.iterdir()) == [cache / ".lock"]


def test_a_store_that_ends_early_is_asked_again(
    store: MemoryFileSystem, elsewhere: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store, files_of(elsewhere, "bucket/qa/"))
    read, begins = MemoryFileSystem.cat_file, []

    def cat_file(self: MemoryFileSystem, path: str, version: None = None, *, start: int, end: int) -> Any:
        """By name: s3fs has the version of a file before them."""
        if not path.endswith(TOKENIZER):
            return read(self, path, start, end)
        begins.append(start)
        return [read(self, path, 0, 100), b"", read(self, path, 100, end)][len(begins) - 1]

    monkeypatch.setattr(MemoryFileSystem, "cat_file", cat_file)
    assert files_of(fetch("s3://bucket/qa", cache)) == files_of(elsewhere)
    assert begins == [0, 100, 100]


def test_a_store_that_says_nothing_is_given_up(
    store: MemoryFileSystem, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of the clouds are asynchronous, and may wait longer than we do."""
    from fsspec.asyn import AsyncFileSystem

    class Slow(AsyncFileSystem):  # type: ignore[misc]
        cachable = False

        async def _info(self, path: str, **options: Any) -> dict[str, Any]:
            await asyncio.sleep(60)
            return {"size": 0}

    monkeypatch.setattr(fsspec, "filesystem", lambda scheme, **options: Slow())
    begin = time.monotonic()
    with pytest.raises(BundleError, match=r"s3://bucket/qa: .*FSTimeoutError"):
        fetch("s3://bucket/qa", cache, idle_seconds=0.1)
    assert time.monotonic() - begin < 5
    monkeypatch.setattr(fsspec, "filesystem", lambda scheme, **options: MemoryFileSystem())


@pytest.mark.parametrize(("scheme", "package"), [("s3", "s3fs"), ("gs", "gcsfs")])
def test_a_package_that_is_not_installed_is_named(
    scheme: str, package: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(BundleError, match=f"{scheme}://bucket/qa: {scheme}:// wants {package}: pip install {package}"):
        fetch(f"{scheme}://bucket/qa", cache)


def test_s3fs_is_asked_for_s3(monkeypatch: pytest.MonkeyPatch) -> None:
    """fsspec names the same packages for the schemes."""
    for scheme, package in stores.PACKAGES.items():
        assert known_implementations[scheme]["class"].startswith(f"{package}.")
    asked: list[Any] = []
    monkeypatch.setitem(sys.modules, "s3fs", ModuleType("s3fs"))
    monkeypatch.setattr(fsspec, "filesystem", lambda *names, **options: asked.append(names))
    stores.remote("s3", "bucket/qa", 1.0)
    assert asked == [("s3",)]


@pytest.mark.parametrize("scheme", ["https", "hf", "oci"])
def test_the_extra_is_named(scheme: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("web", "hub", "registry"):
        monkeypatch.delitem(sys.modules, f"service.repository.sources.{name}", raising=False)
        monkeypatch.delattr(f"service.repository.sources.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "httpx2", None)
    with pytest.raises(BundleError, match=rf"{scheme}:// wants httpx2: pip install -e '\.\[remote\]'"):
        fetch(f"{scheme}://host/qa", cache)


# ---- this machine ---------------------------------------------------------------------------------------------------


def test_a_folder_of_this_machine(elsewhere: Path, cache: Path, sha256: str) -> None:
    for url in (elsewhere.as_uri(), f"file://localhost{elsewhere}", f"{elsewhere.as_uri()}/#sha256={sha256}"):
        found = fetch(url, cache)
        assert files_of(found) == files_of(elsewhere)
    assert found != elsewhere


def test_an_archive_of_this_machine(elsewhere: Path, cache: Path, tmp_path: Path) -> None:
    (tmp_path / "a b.tar").write_bytes(tar_of(files_of(elsewhere)))
    assert files_of(fetch((tmp_path / "a b.tar").as_uri(), cache)) == files_of(elsewhere)


@pytest.mark.parametrize("url", ["file://models/qa", "file://host/models/qa"])
def test_a_file_of_another_machine(url: str, cache: Path) -> None:
    with pytest.raises(BundleError, match="a file of this machine is file:///PATH, from the root on"):
        fetch(url, cache)


def test_a_disk_that_cannot_be_read(elsewhere: Path, cache: Path) -> None:
    """The cache has no part in it."""
    (elsewhere / MANIFEST).unlink()
    (elsewhere / MANIFEST).symlink_to("/proc/self/mem")
    with pytest.raises(BundleError, match=rf"{MANIFEST}' cannot be read: Input/output error"):
        fetch(elsewhere.as_uri(), cache)


def test_what_is_no_file(elsewhere: Path, cache: Path, tmp_path: Path) -> None:
    (elsewhere / TOKENIZER).unlink()
    os.mkfifo(elsewhere / TOKENIZER)
    for folder in (elsewhere, tmp_path):
        with pytest.raises(BundleError, match="there is no file '"):
            fetch(folder.as_uri(), cache)
