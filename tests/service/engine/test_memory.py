"""How much memory is left."""

import math
from pathlib import Path

import pytest

from service.engine import memory

MEMINFO = "MemTotal:       24000000 kB\nMemAvailable:   20000000 kB\n"


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    path = tmp_path / "meminfo"
    path.write_text(MEMINFO)
    return path


def container(folder: Path, limit: str, used: int, cached: int) -> Path:
    (folder / "memory.max").write_text(limit + "\n")
    (folder / "memory.current").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 5\ninactive_file {cached}\n")
    return folder


def test_this_machine_has_some() -> None:
    assert 0 < memory.available() < 1e15


def test_of_the_machine(machine: Path, tmp_path: Path) -> None:
    assert memory.available(tmp_path, machine) == 20_000_000 * 1024


def test_a_container_may_have_less(machine: Path, tmp_path: Path) -> None:
    assert memory.available(container(tmp_path, "1000000", 700_000, 100_000), machine) == 400_000
    assert memory.available(container(tmp_path, "1000000", 1_700_000, 0), machine) == 0


def test_one_without_a_limit(machine: Path, tmp_path: Path) -> None:
    assert memory.available(container(tmp_path, "max", 1, 1), machine) == 20_000_000 * 1024


@pytest.mark.parametrize("text", ["", "MemAvailable:\n", "MemAvailable: many kB\n", "SwapFree: 0 kB\n"])
def test_where_it_cannot_be_told(text: str, tmp_path: Path) -> None:
    path = tmp_path / "meminfo"
    path.write_text(text)
    assert memory.available(tmp_path / "absent", path) == math.inf
    assert memory.available(tmp_path / "absent", tmp_path / "absent") == math.inf
