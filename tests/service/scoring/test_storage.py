"""Files of the input, and an output folder whose files are whole or not there."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import fsspec
import pytest

from service.scoring import storage
from service.scoring.errors import ScoringError
from service.scoring.storage import Folder, find


def test_a_folder_is_its_files_without_the_hidden_ones(tmp_path: Path) -> None:
    for name in ("b.csv", "a.csv", "in/c.csv", "_SUCCESS", ".tmp-1", "_done/x.csv"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("x")
    assert [file.url for file in find(str(tmp_path))] == [
        str(tmp_path / name) for name in ("a.csv", "b.csv", "in/c.csv")
    ]
    assert [file.url for file in find(f"{tmp_path}/*.csv")] == [str(tmp_path / name) for name in ("a.csv", "b.csv")]
    assert [file.size for file in find(str(tmp_path / "a.csv"))] == [1]


@pytest.mark.parametrize("url", ["none.csv", "*.csv", "nothing://x/y.csv", "s3://"])
def test_no_file_is_told_in_one_line(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ScoringError, match=r"^[^\n]+$"):
        find(url)


def test_a_file_that_changes_is_another(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("x")
    (file,) = find(str(path))
    file.check()
    os.utime(path, (1, 1))
    with pytest.raises(ScoringError, match="has changed"):
        file.check()


def test_no_permission_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.csv"
    path.write_text("x")
    (file,) = find(str(path))

    def refuse(url: str) -> None:
        raise PermissionError(13, "Permission denied", url)

    monkeypatch.setattr(storage, "connect", refuse)
    with pytest.raises(ScoringError, match=r"^no permission: .*a\.csv$"):
        file.open()


@pytest.mark.parametrize("kind", ["local", "memory"])
def test_an_output_file_appears_whole_or_not_at_all(kind: str, tmp_path: Path) -> None:
    folder = Folder(str(tmp_path / "out") if kind == "local" else f"memory://{tmp_path.name}")
    assert folder.names() == set()
    with folder.new("a") as path:
        path.write_text("half")
        assert "a" not in folder.names()
    with contextlib.suppress(KeyError), folder.new("b") as path:
        path.write_text("half")
        raise KeyError
    folder.write("in/c", b"whole")
    assert folder.names() == {"a", "in"}
    assert folder.names("in") == {"c"}
    assert folder.read("a") == b"half"
    folder.write("a", b"new")
    assert folder.read("a") == b"new"
    folder.remove({"a", "in"})
    assert folder.names() == set()


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("x")
    with pytest.raises(ScoringError, match="is no folder"):
        Folder(str(tmp_path / "out")).names()


def test_what_is_not_there_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ScoringError, match="there is no file"):
        Folder(str(tmp_path)).read("a")


def test_files_of_an_object_store_have_its_address() -> None:
    fsspec.filesystem("memory").pipe_file("/store/a.csv", b"text\nx\n")
    (file,) = find("memory://store/*.csv")
    assert (file.url, file.size) == ("memory:///store/a.csv", 7)
    with file.open() as opened:
        assert opened.read() == b"text\nx\n"
