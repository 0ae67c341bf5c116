"""How many cores a process may use, and what its processor can do."""

from pathlib import Path

import pytest

from service.engine import processor
from service.engine.processor import cpu_quota, products_overflow

CORES = 64


@pytest.fixture(autouse=True)
def _many_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor.os, "sched_getaffinity", lambda _: set(range(CORES)), raising=False)


def quota(folder: Path, own: str, **files: str) -> int:
    """Cores by these files under `/sys/fs/cgroup` (`__` for `/`) and this `/proc/self/cgroup`."""
    for path, content in files.items():
        file = folder / "cgroup" / path.replace("__", "/").replace("cpu_max", "cpu.max").replace("cfs", "cpu.cfs")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    (folder / "own").write_text(own)
    return cpu_quota(folder / "cgroup", folder / "own")


@pytest.mark.parametrize(
    ("content", "cores"),
    [
        ("200000 100000\n", 2),
        ("150000 100000\n", 2),  # half of a core is no reason to leave it
        ("10000 100000\n", 1),
        ("99999999 100000\n", CORES),
        ("max 100000\n", CORES),
        ("", CORES),
        ("max\n", CORES),
        ("200000 0\n", CORES),
        ("-5 100000\n", CORES),
        ("0 100000\n", 1),
        ("two hundred\n", CORES),
        ("\xff\n", CORES),
    ],
)
def test_a_quota_of_version_2(tmp_path: Path, content: str, cores: int) -> None:
    assert quota(tmp_path, "0::/\n", cpu_max=content) == cores
    assert quota(tmp_path, "0::/a/b\n", a__b__cpu_max=content, cpu_max="max 100000\n") == cores


@pytest.mark.parametrize("controllers", ["cpu", "cpu,cpuacct", "cpuacct,cpu"])
def test_a_quota_of_version_1(tmp_path: Path, controllers: str) -> None:
    own = f"7:memory:/docker/x\n4:{controllers}:/docker/x\n1:name=systemd:/docker/x\n"
    assert quota(tmp_path, own, **{f"{controllers}__docker__x__cfs_quota_us": "-1\n"}) == CORES
    files = {"cfs_quota_us": "300000\n", "cfs_period_us": "100000\n"}
    assert quota(tmp_path, own, **{f"{controllers}__docker__x__{name}": value for name, value in files.items()}) == 3


def test_a_quota_of_version_1_at_the_root(tmp_path: Path) -> None:
    """Inside a container the path may be the host's, which is not there."""
    own = "4:cpu:/docker/not/here\n"
    assert quota(tmp_path, own, cpu__cfs_quota_us="300000\n", cpu__cfs_period_us="100000\n") == 3


def test_a_quota_on_a_parent_holds(tmp_path: Path) -> None:
    """systemd sets it on a slice."""
    own = "0::/system.slice/bertie.service/inner\n"
    (tmp_path / "cgroup" / "größe").mkdir(parents=True)
    (tmp_path / "cgroup" / "größe" / "cpu.max").write_text("250000 100000\n")
    assert quota(tmp_path, "0::/größe/inner\n") == 3
    quotas = {
        "cpu_max": "max 100000\n",
        "system.slice__cpu_max": "250000 100000\n",
        "system.slice__bertie.service__cpu_max": "400000 100000\n",
        "system.slice__bertie.service__inner__cpu_max": "max 100000\n",
    }
    assert quota(tmp_path, own, **quotas) == 3


def test_a_neighbours_quota_does_not(tmp_path: Path) -> None:
    assert quota(tmp_path, "0::/mine\n", others__cpu_max="100000 100000\n") == CORES


@pytest.mark.parametrize(
    "own", ["", "garbage", "0:\n", "::\n", "0::\n", "0::/../../x\n", "4:cpu\n", "\n\n", "0::/a:b\n"]
)
def test_garbage_is_no_quota_and_no_error(tmp_path: Path, own: str) -> None:
    assert quota(tmp_path, own) == CORES
    assert quota(tmp_path, own, cpu_max="200000 100000\n") == 2


def test_without_cgroups_the_affinity_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cpu_quota(tmp_path / "absent", tmp_path / "absent") == CORES
    monkeypatch.delattr(processor.os, "sched_getaffinity")
    monkeypatch.setattr(processor.os, "cpu_count", lambda: None)
    assert cpu_quota(tmp_path / "absent", tmp_path / "absent") == 1


def test_a_share_bounds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor, "_most", None)
    monkeypatch.setattr(processor.os, "sched_getaffinity", lambda _: set(range(8)))
    for share, expected in ((3, 3), (99, 8)):
        processor.limit(share)
        assert cpu_quota(tmp_path / "absent", tmp_path / "absent") == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("processor\t: 0\nflags\t\t: fpu avx2 avx512f\n", True),
        ("processor\t: 0\nflags\t\t: fpu avx2 avx_vnni\n", False),
        ("processor\t: 0\nflags\t\t: fpu avx512_vnni\n", False),
        ("processor\t: 0\nFeatures\t: fp asimd\n", False),  # Arm
        (None, False),  # no Linux
    ],
)
def test_products_overflow_on_x64_without_vnni(
    text: str | None, expected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "cpuinfo"
    if text is not None:
        path.write_text(text)
    assert products_overflow(path) == expected
    monkeypatch.setattr(processor, "CPUINFO", path)
    assert products_overflow() == expected
