"""Files that are read whole: regular ones alone, and no more than the limit."""

import hashlib
import os
import socket
from pathlib import Path

import pytest

from service.repository import files


def test_a_file_is_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"content")
    assert files.read(path) == files.read(path, 7) == b"content"
    assert files.sha256(path) == hashlib.sha256(b"content").hexdigest()


def test_a_file_over_the_limit_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    with pytest.raises(ValueError, match="file has 7 bytes; the most is 6"):
        files.read(tmp_path / "file", 6)


def test_a_link_to_a_file_is_the_file(tmp_path: Path) -> None:
    """Mounted volumes are full of them."""
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    assert files.read(tmp_path / "link") == b"content"


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="pipe is no regular file"):
        files.read(tmp_path / "pipe")


def test_a_folder_or_a_device_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError, match="folder"):
        files.read(tmp_path / "folder")
    with pytest.raises(ValueError, match="zero is no regular file"):
        files.read(Path("/dev/zero"))


def test_a_socket_or_nothing_is_an_error_of_the_system(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        with pytest.raises(OSError, match="socket"):
            files.read(tmp_path / "socket")
    with pytest.raises(FileNotFoundError):
        files.read(tmp_path / "absent")


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "folder").mkdir()
    before = os.listdir("/proc/self/fd")
    files.read(tmp_path / "file")
    for name, limit in (("file", 1), ("folder", None)):
        with pytest.raises((ValueError, OSError)):
            files.read(tmp_path / name, limit)
    assert os.listdir("/proc/self/fd") == before


def test_a_manifest_is_read_and_digested(tmp_path: Path) -> None:
    (tmp_path / files.MANIFEST).write_bytes(b"{}")
    assert files.read_manifest(tmp_path) == b"{}"
    assert files.digest(b"{}") == hashlib.sha256(b"{}").hexdigest()[:12]


def test_files_and_folders_are_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"content")
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_ino))
    files.sync(tmp_path / "file")
    files.sync(tmp_path)
    assert synced == [(tmp_path / "file").stat().st_ino, tmp_path.stat().st_ino]
