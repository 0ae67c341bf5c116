"""The processor's cores, as affinity and the quotas of cgroups bound them."""

from pathlib import Path

import pytest

from service.engine.processor import cpu_quota

NO_CGROUP = Path("/nonexistent")


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(
    ("quota", "expected"),
    [("max 100000", 8), ("200000 100000", 2), ("150000 100000", 2), ("10000 100000", 1), ("1600000 100000", 8),
     ("rubbish", 8), ("100000 0", 8), ("", 8)],
)  # fmt: skip
def test_threads_follow_the_containers_quota(tmp_path: Path, quota: str, expected: int) -> None:
    write(tmp_path / "cpu.max", quota)
    assert cpu_quota(tmp_path, NO_CGROUP) == expected


@pytest.mark.parametrize(("quota", "expected"), [("-1", 8), ("300000", 3)])
@pytest.mark.parametrize("folder", ["cpu", "cpu/docker/abc"])
def test_or_the_older_kind_of_it(tmp_path: Path, folder: str, quota: str, expected: int) -> None:
    write(tmp_path / folder / "cpu.cfs_quota_us", f"{quota}\n")
    write(tmp_path / folder / "cpu.cfs_period_us", "100000\n")
    write(tmp_path / "own", "4:cpu,cpuacct:/docker/abc\n1:memory:/docker/abc\n")
    assert cpu_quota(tmp_path, tmp_path / "own") == expected


@pytest.mark.parametrize(
    ("slice_quota", "own_quota", "expected"),
    [("200000", "max", 2), ("max", "300000", 3), ("500000", "300000", 3), ("300000", "500000", 3)],
)
def test_the_least_quota_on_the_way_from_the_root_counts(
    tmp_path: Path, slice_quota: str, own_quota: str, expected: int
) -> None:
    """As systemd sets one on a parent of the process's own cgroup."""
    write(tmp_path / "bertie.slice" / "cpu.max", f"{slice_quota} 100000")
    write(tmp_path / "bertie.slice" / "bertie.service" / "cpu.max", f"{own_quota} 100000")
    write(tmp_path / "other.slice" / "cpu.max", "100000 100000")
    write(tmp_path / "own", "0::/bertie.slice/bertie.service\n")
    assert cpu_quota(tmp_path, tmp_path / "own") == expected


@pytest.mark.parametrize("own", ["0::/not/there\n", "4:cpu,cpuacct:/not/there\n", ""])
def test_paths_that_are_not_there_are_no_error(tmp_path: Path, own: str) -> None:
    write(tmp_path / "root" / "cpu.max", "200000 100000")
    write(tmp_path / "own", own)
    assert cpu_quota(tmp_path / "root", tmp_path / "own") == 2


def test_or_none(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path, NO_CGROUP) == 8
