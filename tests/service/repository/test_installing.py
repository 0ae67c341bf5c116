"""A version is there whole or not at all: broken copies, full disks, killed processes, two at once."""

import errno
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from service.errors import BundleError, RolloutError
from service.repository import bundle as bundles
from service.repository import files, installing, plan, versions
from service.repository.files import MANIFEST
from service.repository.plan import PLAN, Plan
from service.repository.versions import StoredModel
from tests.bundles import change_manifest, make_bundle
from tests.folders import Nobody


@pytest.fixture
def models_dir(tmp_path: Path) -> Path:
    """A folder of the test's own, without models."""
    return tmp_path / "models"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A bundle called `sentiment`."""
    return make_bundle(tmp_path / "new", "sentiment")


def stored(models_dir: Path) -> StoredModel:
    return versions.find(models_dir, ("sentiment",))[0]


def there(models_dir: Path) -> list[str]:
    """Everything in the model's folder but the lock."""
    folder = models_dir / "sentiment"
    return sorted(name for name in os.listdir(folder) if name != versions.LOCK) if folder.exists() else []


# ---- a version comes ------------------------------------------------------------------------------------------------


def test_a_bundle_becomes_a_version(source: Path, models_dir: Path) -> None:
    (source / "notes.txt").write_text("no file of the bundle")
    version = installing.install(source, models_dir, "sentiment")
    assert (version.model, version.name, version.root) == ("sentiment", "1", False)
    assert version.folder == models_dir / "sentiment/1"
    bundle = bundles.load(version.folder, version.name)
    assert bundle.digest == bundles.load(source).digest
    assert sorted(os.listdir(version.folder)) == sorted([MANIFEST, *bundle.manifest.files])
    assert there(models_dir) == ["1"]


def test_it_may_be_read_by_whom_the_umask_lets(source: Path, models_dir: Path) -> None:
    """A temporary folder's mode, 0700, would keep the service out that another user runs."""
    before = os.umask(0o022)
    try:
        version = installing.install(source, models_dir, "sentiment")
    finally:
        os.umask(before)
    assert version.folder.stat().st_mode & 0o777 == 0o755
    assert {path.stat().st_mode & 0o777 for path in version.folder.iterdir()} == {0o644}


def test_it_is_on_the_disk_before_it_has_its_name(
    source: Path, models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a loss of power could leave a version whose files are empty."""
    events: list[str] = []
    real = os.rename
    monkeypatch.setattr(files, "sync", lambda path: events.append(path.name))
    monkeypatch.setattr(os, "rename", lambda old, new: events.append(f"to {new.name}") or real(old, new))
    installing.install(source, models_dir, "sentiment")
    assert events == [MANIFEST, "model.fp32.onnx", "tokenizer.json", "sentiment", "to 1", "sentiment", "models"]


def test_versions_are_numbered(source: Path, models_dir: Path) -> None:
    make_bundle(models_dir, "sentiment")
    assert [installing.install(source, models_dir, "sentiment").name for _ in range(2)] == ["1", "2"]
    assert installing.install(source, models_dir, "sentiment", "10").name == "10"
    assert installing.install(source, models_dir, "sentiment").name == "11"


def test_beside_names_a_version_is_called_after_its_content(source: Path, models_dir: Path) -> None:
    installing.install(source, models_dir, "sentiment", "first")
    digest = bundles.load(source).digest
    assert installing.install(source, models_dir, "sentiment").name == digest
    with pytest.raises(BundleError, match=f"has a version '{digest}' already"):
        installing.install(source, models_dir, "sentiment")


def test_what_is_stable_stays_so(source: Path, models_dir: Path) -> None:
    installing.install(source, models_dir, "sentiment")
    assert not (models_dir / "sentiment" / PLAN).exists()
    installing.install(source, models_dir, "sentiment")
    assert plan.read(models_dir / "sentiment") == Plan("1")


def test_a_version_that_is_there_is_left_as_it_is(source: Path, models_dir: Path) -> None:
    root = make_bundle(models_dir, "sentiment", max_length=32)
    installing.install(source, models_dir, "sentiment", "a")
    for name in ("a", bundles.load(root).digest):
        with pytest.raises(BundleError, match=rf"^model 'sentiment' has a version '{name}' already: .* another name"):
            installing.install(source, models_dir, "sentiment", name)
    (models_dir / "sentiment/b").write_text("somebody's file")
    os.symlink("gone", models_dir / "sentiment/c")
    for name in "bc":
        with pytest.raises(BundleError, match=f"has a version '{name}' already"):
            installing.install(source, models_dir, "sentiment", name)
    assert (models_dir / "sentiment/b").read_text() == "somebody's file"


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "/x", "a\nb", ".a", "x" * 200])
def test_no_name_leads_out_of_the_folder(source: Path, models_dir: Path, name: str) -> None:
    with pytest.raises(BundleError, match="is no name for a model") as error:
        installing.install(source, models_dir, name)
    assert "\n" not in error.value.detail
    with pytest.raises(BundleError, match="is no name for a version") as error:
        installing.install(source, models_dir, "sentiment", name)
    assert "\n" not in error.value.detail
    assert not models_dir.exists()


def test_a_bundle_of_another_name_is_refused(source: Path, models_dir: Path) -> None:
    with pytest.raises(BundleError, match=r"calls itself 'sentiment': add it as 'sentiment', or export it .* 'mood'"):
        installing.install(source, models_dir, "mood")
    root = make_bundle(models_dir, "sentiment")
    change_manifest(root, name="mood")  # which it may have while it is alone
    with pytest.raises(BundleError, match=r"the bundle in '.*sentiment' calls itself 'mood': call the folder so too"):
        installing.install(source, models_dir, "sentiment")
    assert versions.next_version(stored(models_dir).versions) == "1"


def test_a_broken_bundle_is_refused_before_it_is_copied(source: Path, models_dir: Path) -> None:
    (source / "tokenizer.json").write_bytes(b"{}")
    with pytest.raises(BundleError, match=r"^bundle 'sentiment': tokenizer\.json has sha256"):
        installing.install(source, models_dir, "sentiment")
    assert not models_dir.exists()


# ---- faults ---------------------------------------------------------------------------------------------------------


def fault(code: int) -> OSError:
    return OSError(code, os.strerror(code))


@pytest.mark.parametrize(("module", "function", "call"), [(shutil, "copyfile", 1), (files, "sync", 2)])
def test_a_disk_that_fills_leaves_nothing(
    source: Path, models_dir: Path, monkeypatch: pytest.MonkeyPatch, module: Any, function: str, call: int
) -> None:
    """In the middle of a file, or when what was written goes to the disk."""
    installing.install(source, models_dir, "sentiment")
    real, calls = getattr(module, function), []

    def full(path: Path, *arguments: Path) -> None:
        calls.append(path)
        if len(calls) > call:
            if arguments:
                arguments[0].write_bytes(path.read_bytes()[:100])
            raise fault(errno.ENOSPC)
        real(path, *arguments)

    monkeypatch.setattr(module, function, full)
    with pytest.raises(BundleError, match=r"^model 'sentiment': the version cannot be put into .*: No space left") as e:
        installing.install(source, models_dir, "sentiment")
    assert "\n" not in e.value.detail
    assert len(calls) == call + 1
    assert there(models_dir) == ["1"]


def test_files_that_may_not_grow_leave_nothing(source: Path, models_dir: Path) -> None:
    """The system itself fails to write, as with a quota."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (os.path.getsize(source / "tokenizer.json") // 2, before[1]))
    try:
        with pytest.raises(BundleError, match=r"'sentiment': the version cannot be put into '.*': File too large$"):
            installing.install(source, models_dir, "sentiment")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert there(models_dir) == []


def test_a_copy_that_differs_is_refused(source: Path, models_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flip(path: Path, to: Path) -> None:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= path.suffix == ".onnx"
        to.write_bytes(content)

    monkeypatch.setattr(shutil, "copyfile", flip)
    with pytest.raises(BundleError, match=r"^bundle 'sentiment': model\.fp32\.onnx has sha256"):
        installing.install(source, models_dir, "sentiment")
    assert there(models_dir) == []


def test_a_bundle_that_is_exported_anew_meanwhile_is_refused(
    source: Path, models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = shutil.copyfile

    def copy(path: Path, to: Path) -> None:
        if path.name == MANIFEST:
            change_manifest(source, licence="another")
        real(path, to)

    monkeypatch.setattr(shutil, "copyfile", copy)
    with pytest.raises(BundleError, match="'sentiment' changed while it was copied; try again"):
        installing.install(source, models_dir, "sentiment")
    assert there(models_dir) == []


def test_a_folder_that_may_not_be_written(nobody: Nobody) -> None:
    models = nobody.folder / "models"
    root = make_bundle(models, "sentiment")
    sentiment, qa = (make_bundle(nobody.folder / "new", kind) for kind in ("sentiment", "qa"))
    before = sorted(os.listdir(root))
    for folder in (root, models):
        os.chmod(folder, 0o555)
    with nobody:
        with pytest.raises(BundleError, match="'sentiment' cannot be changed: Permission denied"):
            installing.install(sentiment, models, "sentiment")
        with pytest.raises(BundleError, match=r"cannot be put into '.*/qa': Permission denied"):
            installing.install(qa, models, "qa")
    assert sorted(os.listdir(root)) == before
    assert os.listdir(models) == ["sentiment"]


def test_a_broken_plan_keeps_a_version_out(source: Path, models_dir: Path) -> None:
    installing.install(source, models_dir, "sentiment")
    (models_dir / "sentiment" / PLAN).write_text("{")
    with pytest.raises(BundleError, match=r"^model 'sentiment': rollout\.json: "):
        installing.install(source, models_dir, "sentiment")
    assert there(models_dir) == ["1", PLAN]


# ---- other processes ------------------------------------------------------------------------------------------------


STOPS = """
import sys, time
from service.repository import files

count = 0

def sync(path):
    global count
    count += 1
    if count == int(sys.argv[1]):
        print("copying", flush=True)
        time.sleep(60)

files.sync = sync
from service.__main__ import main
sys.exit(main(["models", "add", *sys.argv[2:]]))
"""


@pytest.fixture
def slow_add(source: Path, models_dir: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """`slow_add(3)`: another process that adds a version and stops at its third file."""
    started = []

    def start(at: int) -> subprocess.Popen[str]:
        arguments = ["-c", STOPS, str(at), "sentiment", str(source), "--models-dir", str(models_dir)]
        process = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "copying\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("at", [1, 3, 4])
@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_copy_is_no_version_and_the_next_removes_it(
    slow_add: Callable[..., subprocess.Popen[str]], source: Path, models_dir: Path, at: int, sent: signal.Signals
) -> None:
    installing.install(source, models_dir, "sentiment")
    process = slow_add(at)
    process.send_signal(sent)
    assert process.wait(20) == -sent
    (left,) = (name for name in there(models_dir) if name.startswith("."))
    assert [version.name for version in stored(models_dir).versions] == ["1"]
    assert installing.install(source, models_dir, "sentiment").name == "2"
    assert left not in there(models_dir)
    assert there(models_dir) == ["1", "2", PLAN]


def test_a_copy_under_way_is_left_alone(
    slow_add: Callable[..., subprocess.Popen[str]], source: Path, models_dir: Path
) -> None:
    slow_add(3)
    (under_way,) = there(models_dir)
    assert installing.install(source, models_dir, "sentiment").name == "1"
    assert there(models_dir) == [under_way, "1"]
    assert (models_dir / "sentiment" / under_way / "sentiment" / MANIFEST).is_file()


def test_two_that_add_at_once_get_a_version_each(source: Path, models_dir: Path) -> None:
    arguments = ["-m", "service", "models", "add", "sentiment", str(source), "--models-dir", str(models_dir)]
    processes = [subprocess.Popen([sys.executable, *arguments], stderr=subprocess.PIPE, text=True) for _ in range(3)]
    assert [process.communicate(timeout=120)[1] for process in processes] == ["", "", ""]
    assert there(models_dir) == ["1", "2", "3", PLAN]
    assert plan.read(models_dir / "sentiment") == Plan("1")


# ---- a version goes -------------------------------------------------------------------------------------------------


def test_a_version_is_removed_and_forgotten(source: Path, models_dir: Path) -> None:
    for _ in range(3):
        installing.install(source, models_dir, "sentiment")
    with plan.edit(models_dir / "sentiment") as edit:
        edit.plan = plan.promote(plan.promote(edit.plan, "2"), "3")
    installing.remove(stored(models_dir), "2")
    assert there(models_dir) == ["1", "3", PLAN]
    assert plan.read(models_dir / "sentiment") == Plan("3", ("1",))


def test_of_the_models_own_bundle_its_files_are_removed(source: Path, models_dir: Path) -> None:
    root = make_bundle(models_dir, "sentiment")
    (root / "notes.txt").write_text("the user's")
    (root / "tokenizer.json").unlink()  # it may be broken
    digest = stored(models_dir).versions[0].name
    installing.install(source, models_dir, "sentiment")
    with pytest.raises(RolloutError, match=f"'{digest}' is stable: promote another one first"):
        installing.remove(stored(models_dir), digest)
    with plan.edit(root) as edit:
        edit.plan = plan.promote(edit.plan, "1")
    installing.remove(stored(models_dir), digest)
    assert there(models_dir) == ["1", "notes.txt", PLAN]
    assert plan.read(root) == Plan("1")


def test_of_a_link_what_it_points_to_stays(source: Path, models_dir: Path, tmp_path: Path) -> None:
    installing.install(source, models_dir, "sentiment")
    os.symlink(source, models_dir / "sentiment/0")
    assert bundles.load(stored(models_dir).version("0").folder, "0").label == "sentiment/0"
    installing.remove(stored(models_dir), "0")
    assert [version.name for version in stored(models_dir).versions] == ["1"]
    assert bundles.load(source)


def test_a_version_that_is_not_there_cannot_be_removed(source: Path, models_dir: Path) -> None:
    installing.install(source, models_dir, "sentiment")
    with pytest.raises(BundleError, match="'sentiment' has no version '2'; it has 1"):
        installing.remove(stored(models_dir), "2")


def test_a_version_that_cannot_be_removed_stays(
    source: Path, models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        installing.install(source, models_dir, "sentiment")

    def busy(path: Path, to: Path) -> None:
        raise fault(errno.EBUSY)

    monkeypatch.setattr(os, "rename", busy)
    with pytest.raises(BundleError, match=r"^version '2' of 'sentiment' cannot be removed: Device or resource busy$"):
        installing.remove(stored(models_dir), "2")
    assert there(models_dir) == ["1", "2", PLAN]
