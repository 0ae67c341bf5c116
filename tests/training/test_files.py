"""What is written is whole or absent, and what was there before is never lost."""

from pathlib import Path

import pytest

from training.errors import CheckpointError
from training.files import PARTIAL, said, written_aside


def write(path: Path, text: str, **options: bool) -> None:
    with written_aside(path, **options) as new:
        new.mkdir()
        (new / "a.txt").write_text(text)


@pytest.mark.parametrize("shared", [False, True])
def test_a_folder_appears_and_is_replaced(tmp_path: Path, shared: bool) -> None:
    for text in ("one", "two"):
        write(tmp_path / "in" / "f", text, shared=shared)
        assert (tmp_path / "in" / "f" / "a.txt").read_text() == text
        assert [path.name for path in (tmp_path / "in").iterdir()] == ["f"]


def test_a_file_appears_and_is_replaced(tmp_path: Path) -> None:
    for text in ("one", "two"):
        with written_aside(tmp_path / "f.txt") as new:
            new.write_text(text)
        assert (tmp_path / "f.txt").read_text() == text
        assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("raised", [OSError(28, "full"), KeyboardInterrupt(), SystemExit(143)])
def test_what_fails_leaves_the_old_one(tmp_path: Path, raised: BaseException) -> None:
    write(tmp_path / "f", "one")

    def fail() -> None:
        with written_aside(tmp_path / "f") as new:
            new.mkdir()
            raise raised

    with pytest.raises(type(raised)):
        fail()
    assert (tmp_path / "f" / "a.txt").read_text() == "one"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_rename_that_fails_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The old one is out of the way already when the new one cannot take its place."""

    def fail(path: Path, target: Path) -> None:
        raise OSError(5, "Input/output error")

    write(tmp_path / "f", "one")
    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="Input/output error"):
        write(tmp_path / "f", "two")
    assert (tmp_path / "f" / "a.txt").read_text() == "one"
    assert len(list(tmp_path.iterdir())) == 1


def test_what_a_kill_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / f"{PARTIAL}f" / "f").mkdir(parents=True)
    write(tmp_path / "f", "one")
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


def test_a_full_disk_is_said(tmp_path: Path) -> None:
    with (
        pytest.raises(CheckpointError, match=r"f cannot be written \(no room\); try again$"),
        said(tmp_path / "f", "try again"),
    ):
        raise OSError("no room")
    with pytest.raises(CheckpointError, match=r"f cannot be written \(no room\)$"), said(tmp_path / "f"):
        raise RuntimeError("no room")
