"""Checkpoints: a torn one is skipped, a full disk loses nothing, old ones go."""

import contextlib
import json
import logging
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from training.checkpoints import sealed
from training.errors import CheckpointError
from training.files import PARTIAL
from training.pretrain import checkpoints

WEIGHTS = {"a": torch.arange(2000.0), "b": torch.ones(3, 3)}
MOMENTS = {"a:exp_avg": torch.arange(2000.0) / 7, "a:step": torch.tensor(4.0)}


def save(output: Path, step: int, keep: int = 5) -> Path:
    return checkpoints.save(output, step, WEIGHTS, MOMENTS, {"rows": step * 8}, keep)


@contextlib.contextmanager
def small_files() -> Iterator[None]:
    """The system refuses to let a file grow beyond 6,000 bytes: a write fails in its middle, as on a full disk.

    No fixture: that would end after pytest has told of the test, to what may be a longer file.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (6000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    folder = save(tmp_path, 7)
    assert folder == tmp_path / "checkpoint-7"
    loaded = checkpoints.newest(tmp_path)
    assert (loaded.state["step"], loaded.state["rows"], loaded.folder) == (7, 56, folder)
    for expected, found in ((WEIGHTS, loaded.weights), (MOMENTS, loaded.moments)):
        assert expected.keys() == found.keys()
        assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())


def test_the_newest_are_kept(tmp_path: Path) -> None:
    for step in (8, 9, 10, 100):
        save(tmp_path, step, keep=2)
    assert [path.name for path in sealed.found(tmp_path)] == ["checkpoint-100", "checkpoint-10"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-10", "checkpoint-100"]


def tear(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["weights.safetensors", "moments.safetensors", "state.json"])
@pytest.mark.parametrize("harm", [tear, flip, Path.unlink, lambda path: path.write_bytes(b"")])
def test_a_torn_checkpoint_is_skipped_with_a_warning(
    tmp_path: Path, name: str, harm: object, caplog: pytest.LogCaptureFixture
) -> None:
    save(tmp_path, 1)
    harm(save(tmp_path, 2) / name)  # type: ignore[operator]
    with caplog.at_level(logging.WARNING):
        loaded = checkpoints.newest(tmp_path)
    if name == "moments.safetensors" and not (tmp_path / "checkpoint-2" / name).exists():
        assert loaded.state["step"] == 2  # left out, not torn
        assert loaded.moments == {}
    elif name == "state.json" and harm is flip:
        assert loaded.state["step"] in (1, 2)
    else:
        assert loaded.state["step"] == 1
        assert "checkpoint-2 is torn and is skipped" in caplog.text


def test_a_kill_in_the_middle_leaves_the_one_before(tmp_path: Path) -> None:
    save(tmp_path, 1)
    whole = save(tmp_path, 2)
    whole.rename(tmp_path / f"{PARTIAL}checkpoint-2")  # where a kill leaves it: not yet renamed
    tear(tmp_path / f"{PARTIAL}checkpoint-2" / "weights.safetensors")
    assert checkpoints.newest(tmp_path).state["step"] == 1
    save(tmp_path, 2)
    assert checkpoints.newest(tmp_path).state["step"] == 2
    assert not (tmp_path / f"{PARTIAL}checkpoint-2").exists()


def test_nothing_to_resume_from(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nothing to resume from"):
        checkpoints.newest(tmp_path / "absent")
    tear(save(tmp_path, 3) / "weights.safetensors")
    with pytest.raises(CheckpointError, match="every checkpoint is torn"):
        checkpoints.newest(tmp_path)


def test_another_format_is_not_guessed_at(tmp_path: Path) -> None:
    path = save(tmp_path, 3) / "state.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 99}))
    with pytest.raises(CheckpointError):
        checkpoints.newest(tmp_path)


def test_a_full_disk_loses_nothing(tmp_path: Path) -> None:
    save(tmp_path, 1)
    with (
        small_files(),
        pytest.raises(CheckpointError, match=r"checkpoint-2 cannot be written .*the last good one is .*checkpoint-1"),
    ):
        save(tmp_path, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-1"]
    assert checkpoints.newest(tmp_path).state["step"] == 1


def test_a_disk_full_from_the_beginning(tmp_path: Path) -> None:
    with small_files(), pytest.raises(CheckpointError, match="there is none before it"):
        save(tmp_path, 2)
