"""What is a model, what is a version, and in which order: by names alone, so bundles here are empty."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.errors import BundleError
from service.repository import files, versions
from service.repository.files import MANIFEST
from service.repository.versions import find, is_model_name, is_version_name, list_versions, next_version
from tests.folders import Nobody


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of models."""
    return tmp_path


def put(folder: Path, *paths: str) -> None:
    """Make bundles of these folders, as far as their names go."""
    for path in paths:
        (folder / path).mkdir(parents=True, exist_ok=True)
        (folder / path / MANIFEST).write_text("{}")


def names(folder: Path) -> list[str]:
    return [version.name for version in list_versions(folder)]


ROOT = files.digest(b"{}")


# ---- what is a version ----------------------------------------------------------------------------------------------


def test_a_bundle_in_the_models_folder_is_a_version_by_its_digest(folder: Path) -> None:
    put(folder, "qa")
    (version,) = list_versions(folder / "qa")
    assert (version.model, version.name, version.folder, version.root) == ("qa", ROOT, folder / "qa", True)


def test_a_folder_in_it_is_a_version_by_its_name(folder: Path) -> None:
    put(folder, "qa/3")
    (version,) = list_versions(folder / "qa")
    assert (version.model, version.name, version.folder, version.root) == ("qa", "3", folder / "qa/3", False)


def test_the_models_own_bundle_is_first_then_numbers_by_value_then_names(folder: Path) -> None:
    put(folder, "qa", *(f"qa/{name}" for name in ("b", "10", "9", "2025-11-01", "a", "0", "v2", "v10", "09")))
    assert names(folder / "qa") == [ROOT, "0", "09", "9", "10", "2025-11-01", "a", "b", "v10", "v2"]


@pytest.mark.parametrize("name", [".incoming-1a2b", ".git", "..data", "-1", "a b", "Köln", "x" * 65, "1\n"])
def test_other_names_are_passed_over(folder: Path, name: str) -> None:
    put(folder, "qa/1", f"qa/{name}")
    assert names(folder / "qa") == ["1"]


def test_what_is_no_bundle_is_passed_over(folder: Path) -> None:
    put(folder, "qa/1", "qa/5/6")
    (folder / "qa/2").mkdir()
    (folder / "qa/3").write_text("a file")
    (folder / "qa/4" / MANIFEST).mkdir(parents=True)
    os.symlink(folder / "gone", folder / "qa/7")
    assert names(folder / "qa") == ["1"]
    assert names(folder / "absent") == []
    assert names(folder / "qa/3") == []


def test_a_link_to_a_bundle_is_a_version(folder: Path) -> None:
    put(folder, "elsewhere/b")
    (folder / "qa").mkdir()
    os.symlink(folder / "elsewhere/b", folder / "qa/2")
    (version,) = list_versions(folder / "qa")
    assert (version.name, version.folder) == ("2", folder / "qa/2")


def test_a_manifest_that_cannot_be_read_is_told(folder: Path) -> None:
    put(folder, "qa")
    with open(folder / "qa" / MANIFEST, "ab") as file:
        file.truncate(files.MAX_MANIFEST + 1)
    with pytest.raises(BundleError, match=r"^model 'qa' cannot be read: manifest\.json has 4194305 bytes"):
        list_versions(folder / "qa")


# ---- what is a model ------------------------------------------------------------------------------------------------


def test_models_are_found_in_the_order_of_their_names(folder: Path) -> None:
    put(folder, "qa", "nli/1", "nli/2", "sentiment/x")
    (folder / "empty/inner/1").mkdir(parents=True)
    (folder / "notes.md").write_text("")
    put(folder, ".cache", "deep/qa/1")
    found = find(folder)
    assert [(model.name, len(model.versions)) for model in found] == [("nli", 2), ("qa", 1), ("sentiment", 1)]
    assert found[0].folder == folder / "nli"


def test_models_that_are_named_are_found_in_that_order(folder: Path) -> None:
    put(folder, "qa", "nli/1", "sentiment/x")
    assert [model.name for model in find(folder, ("sentiment", "nli"))] == ["sentiment", "nli"]


@pytest.mark.parametrize("name", ["poetry", "..", ".", "", "/", "qa/1", "../outside/qa", "qa\n", "qa\x00", "x" * 200])
def test_a_model_that_is_not_there_is_told_and_no_name_leads_out(folder: Path, name: str) -> None:
    put(folder, "models/qa/1", "models/nli", "outside/qa")
    with pytest.raises(BundleError, match=r"^there is no bundle '.* in '.*models'; it holds nli, qa$") as error:
        find(folder / "models", (name,))
    assert "\n" not in error.value.detail


def test_a_folder_without_bundles_is_told(folder: Path) -> None:
    (folder / "models/qa").mkdir(parents=True)
    with pytest.raises(BundleError, match=r"no folder of it, and none in one of these, has a manifest\.json"):
        find(folder / "models")
    with pytest.raises(BundleError, match="holds none"):
        find(folder / "models", ("qa",))
    for absent in ("absent", "a\x00b"):
        with pytest.raises(BundleError, match="BERTIE_MODELS_DIR"):
            find(folder / absent)


def test_what_may_not_be_looked_at_is_passed_over_unless_it_is_asked_for(nobody: Nobody) -> None:
    """A disk's own lost+found is such a folder."""
    put(nobody.folder, "qa/1", "qa/2", "lost+found/1")
    os.chmod(nobody.folder / "qa/2", 0)
    os.chmod(nobody.folder / "lost+found", 0)
    with nobody:
        assert [(model.name, len(model.versions)) for model in find(nobody.folder)] == [("qa", 1)]
        with pytest.raises(BundleError, match=r"^model 'lost\+found' cannot be read: Permission denied$"):
            find(nobody.folder, ("lost+found",))
    os.chmod(nobody.folder, 0)
    with nobody, pytest.raises(BundleError, match=r"of models cannot be read: Permission denied$"):
        find(nobody.folder)


def test_a_version_by_its_name(folder: Path) -> None:
    put(folder, "qa/1", "qa/2")
    (model,) = find(folder)
    assert model.version("2").folder == folder / "qa/2"
    with pytest.raises(BundleError, match=r"^model 'qa' has no version '3\\n'; it has 1, 2$"):
        model.version("3\n")


# ---- names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["1", "a", "_", "v1.2-rc_3", "x" * 64])
def test_names_of_versions(name: str) -> None:
    assert is_version_name(name)


@pytest.mark.parametrize("name", ["", ".", "..", ".a", "-a", "a/b", "/", "a\n", "\n", "a b", "é", "x" * 65, "x" * 200])
def test_no_names_of_versions(name: str) -> None:
    assert not is_version_name(name)


@pytest.mark.parametrize("name", ["sentiment", "Stimmung 2", "感情", "x" * 100])
def test_names_of_models(name: str) -> None:
    assert is_model_name(name)


@pytest.mark.parametrize("name", ["", ".", "..", ".a", "a/b", "/", "a\n", "a\x1b[2J", "x" * 101, "x" * 200])
def test_no_names_of_models(name: str) -> None:
    assert not is_model_name(name)


@pytest.mark.parametrize(
    ("there", "then"),
    [((), "1"), (("",), "1"), (("1",), "2"), (("", "9", "10"), "11"), (("007",), "8"), (("1", "a"), None)],
)
def test_the_next_number(folder: Path, there: tuple[str, ...], then: str | None) -> None:
    put(folder, *(f"qa/{name}" for name in there))
    assert next_version(list_versions(folder / "qa")) == then


# ---- the lock -------------------------------------------------------------------------------------------------------


HOLD = """
import sys, time
from pathlib import Path
from service.repository import versions
with versions.lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock on the model `qa`."""
    put(folder, "qa")
    arguments = [sys.executable, "-c", HOLD, str(folder / "qa")]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_another_process_is_waited_for_but_not_for_ever(
    folder: Path, holder: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(versions, "LOCK_SECONDS", 0.1)
    began = time.monotonic()
    with pytest.raises(BundleError, match="'qa' is being changed by another process"), versions.lock(folder / "qa"):
        pytest.fail("two hold it")
    assert time.monotonic() - began >= 0.1
    put(folder, "nli")
    with versions.lock(folder / "nli"):
        pass  # each model has a lock of its own


def test_a_killed_process_leaves_no_lock(folder: Path, holder: subprocess.Popen[str]) -> None:
    holder.kill()
    with versions.lock(folder / "qa"):
        pass


def test_what_the_block_raises_is_not_the_locks(folder: Path) -> None:
    put(folder, "qa")
    with pytest.raises(OSError, match="of the block"), versions.lock(folder / "qa"):
        raise OSError("of the block")
    with versions.lock(folder / "qa"):
        pass


def test_a_lock_that_another_user_made_is_held_all_the_same(nobody: Nobody) -> None:
    put(nobody.folder, "qa")
    with versions.lock(nobody.folder / "qa"):
        pass
    os.chmod(nobody.folder / "qa" / versions.LOCK, 0o444)
    with nobody, versions.lock(nobody.folder / "qa"):
        pass


def test_a_folder_that_may_not_be_written_has_no_lock(nobody: Nobody) -> None:
    put(nobody.folder, "qa")
    os.chmod(nobody.folder / "qa", 0o555)
    with (
        nobody,
        pytest.raises(BundleError, match=r"^model 'qa' cannot be changed: Permission denied$"),
        versions.lock(nobody.folder / "qa"),
    ):
        pytest.fail("it was locked")
