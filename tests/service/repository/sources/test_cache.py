"""The cache: whole or not at all, whatever fails, and whoever else is at it."""

import fcntl
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from service.errors import BundleError
from service.repository.manifest import MANIFEST, TOKENIZER
from service.repository.sources import fetch
from service.repository.sources.cache import INCOMING, Cache
from service.repository.sources.transfer import MAX_MANIFEST
from tests.remote import Web, files_of, tar_of

GRAPH = "model.fp32.onnx"
ROOT = Path(__file__).parents[4]


def left(cache: Path) -> list[str]:
    return [path.name for path in cache.iterdir() if path.name.startswith(INCOMING)]


def test_a_bundle_is_where_its_hash_says(web: Web, elsewhere: Path, cache: Path, sha256: str) -> None:
    found = fetch(web.put("/a", elsewhere), cache)
    assert found == cache / "sha256" / sha256 / "sentiment"
    assert left(cache) == []


def test_what_is_pinned_and_there_costs_nothing(web: Web, elsewhere: Path, cache: Path, sha256: str) -> None:
    reference = f"{web.put('/a', elsewhere)}#sha256={sha256}"
    found = fetch(reference, cache)
    asked = len(web.asked)
    cache.chmod(0o500)
    assert fetch(reference, cache) == found
    assert fetch(f"https://nowhere.invalid/a#sha256={sha256}", cache) == found
    assert len(web.asked) == asked
    cache.chmod(0o700)


def test_what_is_not_pinned_costs_its_manifest(web: Web, elsewhere: Path, cache: Path) -> None:
    url = web.put("/a", elsewhere)
    found = fetch(url, cache)
    web.asked.clear()
    assert fetch(url, cache) == found
    assert web.paths() == [f"/a/{MANIFEST}"]


def test_the_log_says_how_to_pin(
    web: Web, elsewhere: Path, cache: Path, sha256: str, caplog: pytest.LogCaptureFixture
) -> None:
    url = web.put("/a", elsewhere)
    fetch(f"{url.replace('//', '//user:secret@')}?sig=secret", cache)
    [warning] = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warning == f"{url} is not pinned: add #sha256={sha256} to take no other"
    assert "secret" not in caplog.text
    caplog.clear()
    fetch(f"{url}#sha256={sha256}", cache)
    assert caplog.records == []


def test_a_bundle_that_changes_is_another(web: Web, elsewhere: Path, cache: Path, sha256: str) -> None:
    url = web.put("/a", elsewhere)
    old = fetch(url, cache)
    web.files[f"/a/{MANIFEST}"] += b"\n"
    new = fetch(url, cache)
    assert old != new
    assert files_of(old) == files_of(elsewhere)
    shutil.rmtree(cache)
    with pytest.raises(BundleError, match=f"its {MANIFEST} has sha256={new.parent.name}, and not sha256={sha256}"):
        fetch(f"{url}#sha256={sha256}", cache)


@pytest.mark.parametrize("name", [MANIFEST, TOKENIZER, GRAPH])
@pytest.mark.parametrize("how", ["changed", "missing", "cut"])
def test_what_is_damaged_is_fetched_again(
    name: str, how: str, web: Web, elsewhere: Path, cache: Path, sha256: str, caplog: pytest.LogCaptureFixture
) -> None:
    reference = f"{web.put('/a', elsewhere)}#sha256={sha256}"
    path = fetch(reference, cache) / name
    content = path.read_bytes()
    path.unlink()
    if how != "missing":
        path.write_bytes(content[:-1] if how == "cut" else bytes([content[0] ^ 1]) + content[1:])
    found = fetch(reference, cache)
    assert files_of(found) == files_of(elsewhere)
    assert f"the bundle in {found} is damaged: it is fetched again" in caplog.text
    assert left(cache) == []


def test_a_damaged_folder_stays_where_nothing_better_is_to_be_had(
    web: Web, elsewhere: Path, cache: Path, sha256: str
) -> None:
    reference = f"{web.put('/a', elsewhere)}#sha256={sha256}"
    (fetch(reference, cache) / GRAPH).write_bytes(b"")
    web.files.clear()
    with pytest.raises(BundleError, match="answers 404"):
        fetch(reference, cache)


def test_files_are_checked_on_their_way(web: Web, elsewhere: Path, cache: Path) -> None:
    url = web.put("/a", elsewhere)
    web.files[f"/a/{GRAPH}"] = web.files[f"/a/{GRAPH}"][:-1]
    with pytest.raises(BundleError, match=rf"{url}: {GRAPH} has sha256 \w{{64}}, and \w{{64}} is expected"):
        fetch(url, cache)
    assert list(cache.iterdir()) == [cache / ".lock"]


def test_a_manifest_that_is_none(web: Web, elsewhere: Path, cache: Path) -> None:
    web.put("/a", elsewhere)
    for content, said in ((b"{}", "is not of format"), (b"<html>", "Expecting value"), (b"[" * 99_999, "recursion")):
        web.files[f"/a/{MANIFEST}"] = content
        with pytest.raises(BundleError, match=said):
            fetch(f"{web.url}/a", cache)
    web.files[f"/a/{MANIFEST}"] = b" " * (MAX_MANIFEST + 1)
    with pytest.raises(BundleError, match=f"{MANIFEST} is too large"):
        fetch(f"{web.url}/a", cache)


def test_bytes_are_bounded(web: Web, elsewhere: Path, cache: Path) -> None:
    size = sum(map(len, files_of(elsewhere).values()))
    with pytest.raises(BundleError, match=f"is too large: .* of {size - 1}"):
        fetch(web.put("/a", elsewhere), cache, max_bytes=size - 1)
    fetch(web.put("/a", elsewhere), cache, max_bytes=size)


@pytest.fixture
def small_disk() -> Iterator[None]:
    """No file of this process may have more than 4,000 bytes: the kernel refuses to write on, as a full disk's does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("kind", ["folder", "archive"])
def test_a_disk_that_fills(kind: str, web: Web, elsewhere: Path, cache: Path, small_disk: None) -> None:
    url = web.put("/a", elsewhere)
    web.files["/a.tar"] = tar_of(files_of(elsewhere))
    with pytest.raises(BundleError) as raised:
        fetch(url if kind == "folder" else f"{url}.tar", cache)
    assert raised.value.detail.endswith(f"the cache {str(cache)!r} fails: File too large")
    assert list(cache.iterdir()) == [cache / ".lock"]


@pytest.mark.parametrize("name", ["files", "bundle"])
def test_a_disk_that_is_full_is_named(
    name: str, web: Web, elsewhere: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rename(self: Path, target: Path) -> None:
        if self.name == name:
            raise OSError(28, "No space left on device")
        os.rename(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(BundleError, match="fails: No space left on device; make room, or set BERTIE_CACHE_DIR"):
        fetch(web.put("/a", elsewhere), cache)
    assert {path.name for path in cache.rglob("*")} <= {".lock", "sha256"}


def test_a_cache_that_cannot_be_written(web: Web, elsewhere: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BundleError, match=r"the cache .* fails: (Not a directory|File exists)"):
        fetch(web.put("/a", elsewhere), tmp_path / "file" / "cache")


def test_the_home_folder_is_meant_by_its_sign(web: Web, elsewhere: Path, tmp_path: Path) -> None:
    assert fetch(web.put("/a", elsewhere), Path("~/cache")).is_relative_to(tmp_path / "home" / "cache")


def test_a_user_without_a_home(web: Web, elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(os, "getuid", lambda: 54321)  # in no list of users
    with pytest.raises(BundleError, match=r"there is no home folder for the cache '~/\.cache/b': set BERTIE_CACHE_DIR"):
        fetch(web.put("/a", elsewhere), Path("~/.cache/b"))


# ---- others ---------------------------------------------------------------------------------------------------------


def test_many_fetch_one_bundle_at_once(web: Web, elsewhere: Path, cache: Path, sha256: str) -> None:
    url = web.put("/a", elsewhere)
    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(lambda _: fetch(f"{url}#sha256={sha256}", cache), range(16)))
    assert len(found) == 1
    assert files_of(found.pop()) == files_of(elsewhere)
    assert left(cache) == []


def test_two_processes_fetch_one_bundle_and_one_is_killed(web: Web, elsewhere: Path, cache: Path, sha256: str) -> None:
    """What the killed one leaves is removed; what a living one has on its way is not."""
    reference = f"{web.put('/a', elsewhere)}#sha256={sha256}"
    web.drip[f"/a/{GRAPH}"] = 0.005
    program = (
        "import sys; from pathlib import Path; from service.repository.sources import fetch;"
        f"print(fetch({reference!r}, Path({str(cache)!r})))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, env=environment) as killed:
        deadline = time.monotonic() + 60
        while f"/a/{GRAPH}" not in web.paths():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        [mine] = left(cache)
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as other:
            while web.paths().count(f"/a/{GRAPH}") < 2:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            assert mine in left(cache)
            killed.kill()
            killed.wait()
            assert mine in left(cache)
            web.drip.clear()
            with Cache(cache).incoming():
                assert mine not in left(cache)
                assert len(left(cache)) == 2
            output, _ = other.communicate(timeout=60)
    assert files_of(Path(output.strip())) == files_of(elsewhere)
    assert left(cache) == []


def test_one_that_was_quicker_is_taken(
    web: Web, elsewhere: Path, cache: Path, sha256: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look whether it is there and the rename."""
    ready = fetch(web.put("/a", elsewhere), tmp_path / "ready").parent
    exists = Path.exists

    def appears(self: Path) -> bool:
        there = exists(self)
        if self.name == sha256 and not there:
            shutil.copytree(ready, self)
        return there

    monkeypatch.setattr(Path, "exists", appears)
    assert files_of(fetch(f"{web.url}/a", cache)) == files_of(elsewhere)
    assert left(cache) == []


def test_a_process_waits_for_another_to_begin(cache: Path) -> None:
    """Else it could take a folder that is just made, and not locked yet, for one that is left."""
    cache.mkdir()
    begun = threading.Event()

    def begin() -> None:
        with Cache(cache).incoming():
            begun.set()

    with open(cache / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        thread = threading.Thread(target=begin, daemon=True)
        thread.start()
        assert not begun.wait(0.2)
    assert begun.wait(10)
    thread.join(10)


def test_folders_that_are_left_are_removed(cache: Path) -> None:
    for name in ("a", "b"):
        (cache / f"{INCOMING}{name}" / "files").mkdir(parents=True)
    (cache / f"{INCOMING}a" / "lock").touch()
    with Cache(cache).incoming() as mine:
        assert left(cache) == [mine.name]


def test_nothing_is_left_when_a_signal_ends_it(web: Web, elsewhere: Path, cache: Path) -> None:
    class Stopped(BaseException):
        pass

    def stop(*_: object) -> None:
        raise Stopped

    before = signal.signal(signal.SIGALRM, stop)
    web.drip[f"/a/{GRAPH}"] = 0.05
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.5)
        with pytest.raises(Stopped):
            fetch(web.put("/a", elsewhere), cache)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert left(cache) == []
