"""Where processes run: arithmetic on made-up machines."""

from pathlib import Path

import pytest

from service.processes.placement import (
    Gpu,
    Place,
    can_share,
    choose,
    find_gpus,
    find_nodes,
    of_each,
    places,
)
from service.settings import Settings

ONE = {0: frozenset(range(8))}
TWO = {0: frozenset(range(8)), 1: frozenset(range(8, 16))}


@pytest.mark.parametrize(
    ("cores", "nodes", "gpus", "wanted"),
    [
        (1, {}, [], 1),
        (2, {}, [], 1),
        (8, ONE, [], 2),
        (16, TWO, [], 4),
        (12, TWO, [], 2),  # not three: as many on each node
        (2, TWO, [], 2),
        (64, {}, [], 16),
        (96, TWO, [Gpu("0"), Gpu("1")], 2),
    ],
)
def test_the_number(cores: int, nodes: dict[int, frozenset[int]], gpus: list[Gpu], wanted: int) -> None:
    assert choose(cores, nodes, gpus) == wanted


def test_one_node_is_shared_by_the_system() -> None:
    assert places(2, 5, ONE, []) == [Place(2), Place(3)]
    assert places(3, 2, {}, []) == [Place(1)] * 3


def test_nodes_take_turns_where_that_comes_out_even() -> None:
    assert places(4, 16, TWO, []) == [Place(4, TWO[0]), Place(4, TWO[1])] * 2
    assert places(3, 16, TWO, []) == [Place(5), Place(5), Place(6)]


def test_each_gpu_has_its_processes_on_its_node() -> None:
    gpus = [Gpu("0", 1), Gpu("GPU-af", 0), Gpu("2")]
    found = places(4, 16, TWO, gpus)
    assert [(place.gpu, place.cpus) for place in found] == [
        ("0", TWO[1]),
        ("GPU-af", TWO[0]),
        ("2", None),
        ("0", TWO[1]),
    ]
    assert places(1, 8, ONE, [Gpu("0", 0)]) == [Place(8, None, "0")]
    assert places(1, 8, TWO, [Gpu("0", 7)]) == [Place(8, None, "0")]  # none of its node's cores are ours


def test_limits_are_of_all_together() -> None:
    settings = Settings(processes=0, max_requests=10, max_queue_tokens=1000, cache_mb=100, watch_seconds=30)
    each = of_each(settings, 3)
    assert (each.max_requests, each.max_queue_tokens, each.cache_mb) == (4, 334, 34)
    assert (each.processes, each.watch_seconds, each.low_latency) == (3, 1.0, False)
    assert of_each(Settings(), 2).watch_seconds == 1.0
    assert of_each(Settings(watch_seconds=0.2), 2).watch_seconds == 0.2


@pytest.mark.parametrize(
    ("changes", "cores", "cuda", "wanted"),
    [
        ({}, 4, False, True),
        ({}, 4, True, False),
        ({"device": "cpu"}, 4, True, True),
        ({"device": "cuda"}, 4, False, False),
        ({"intra_op_threads": 2}, 4, False, False),
        ({"intra_op_threads": 1}, 4, False, True),
        ({"workers": 2}, 4, False, False),  # two threads in each
        ({"workers": 4}, 4, False, True),
        ({"workers": 8}, 4, False, True),
    ],
)
def test_sharing_wants_neither_cuda_nor_threads(
    changes: dict[str, object], cores: int, cuda: bool, wanted: bool
) -> None:
    assert can_share(Settings(**changes), cores, cuda=cuda) is wanted


def test_nodes_are_those_whose_cores_may_be_used(tmp_path: Path) -> None:
    for name, cpus in (("node0", "0-2,8\n"), ("node1", "3-7\n"), ("node2", "\n"), ("node3", "what")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "cpulist").write_text(cpus)
    (tmp_path / "node4").mkdir()
    assert find_nodes(frozenset({1, 2, 8, 9, 4}), tmp_path) == {0: frozenset({1, 2, 8}), 1: frozenset({4})}
    assert find_nodes(frozenset({0}), tmp_path / "nowhere") == {}


class TestGpus:
    @pytest.fixture
    def machine(self, tmp_path: Path) -> Path:
        """Four GPUs, of which the third is none of this container's; one's node is not known."""
        for minor, (bus, node) in enumerate((("0000:0A:00.0", "1"), ("0000:0B:00.0", "-1"), ("0000:0C:00.0", "0"))):
            (tmp_path / "driver" / bus).mkdir(parents=True)
            (tmp_path / "driver" / bus / "information").write_text(f"Model: x\nDevice Minor: \t {minor}\n")
            (tmp_path / "pci" / bus.lower()).mkdir(parents=True)
            (tmp_path / "pci" / bus.lower() / "numa_node").write_text(f"{node}\n")
        (tmp_path / "driver" / "0000:0D:00.0").mkdir()
        (tmp_path / "dev").mkdir()
        for minor in (0, 2):
            (tmp_path / "dev" / f"nvidia{minor}").touch()
        return tmp_path

    def find(self, machine: Path, **environment: str) -> list[Gpu]:
        return find_gpus(environment, machine / "driver", machine / "pci", machine / "dev")

    def test_in_order_of_the_bus(self, machine: Path) -> None:
        assert self.find(machine) == [Gpu("0", 1), Gpu("1", 0)]

    def test_only_those_that_are_visible(self, machine: Path) -> None:
        assert self.find(machine, CUDA_VISIBLE_DEVICES="1, GPU-3f") == [Gpu("1", 0), Gpu("GPU-3f")]
        assert self.find(machine, CUDA_VISIBLE_DEVICES="-1") == []

    def test_a_node_that_is_not_known(self, machine: Path) -> None:
        (machine / "dev" / "nvidia1").touch()
        (machine / "pci" / "0000:0c:00.0" / "numa_node").unlink()
        assert self.find(machine) == [Gpu("0", 1), Gpu("1"), Gpu("2")]

    def test_none(self, tmp_path: Path) -> None:
        assert self.find(tmp_path) == []
