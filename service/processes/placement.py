"""Where each of several processes runs: how many there are, and near which cores or GPU each is.

Owns what is read of the machine for it. Nothing here starts CUDA: a process that has can no longer be forked.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from service.settings import Settings

NODES = Path("/sys/devices/system/node")
PCI = Path("/sys/bus/pci/devices")
DRIVER = Path("/proc/driver/nvidia/gpus")
DEVICES = Path("/dev")
CORES_EACH = 4
"""Cores for which one process is started where the number is chosen: by then an event loop is what limits small
models (docs/performance.md)."""
WATCH_SECONDS = 1.0
"""How often processes look at the folder of models at least: what is changed in one reaches the others by it."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU: what `CUDA_VISIBLE_DEVICES` calls it, and its NUMA node; None where that is not known."""

    id: str
    node: int | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """Where a process runs.

    Attributes:
        cores: how many are its share.
        cpus: those that it keeps to; None for all.
        gpu: the one that it sees; None to leave that alone.
    """

    cores: int
    cpus: frozenset[int] | None = None
    gpu: str | None = None


def choose(cores: int, nodes: Mapping[int, frozenset[int]], gpus: Sequence[Gpu]) -> int:
    """Choose the number of processes: one a GPU; on CPUs one for every `CORES_EACH` cores, as many on each node."""
    if gpus:
        return len(gpus)
    each = max(1, len(nodes))
    return each * max(1, cores // CORES_EACH // each)


def places(processes: int, cores: int, nodes: Mapping[int, frozenset[int]], gpus: Sequence[Gpu]) -> list[Place]:
    """Give each process its place: GPUs in turn, each with the cores of its node; without GPUs the nodes in turn, where
    as many processes come to each; else all cores, which the system shares out best.

    Args:
        nodes: the cores of each NUMA node that may be used.
    """
    found = []
    order = sorted(nodes)
    for i in range(processes):
        share = max(1, cores * (i + 1) // processes - cores * i // processes)
        gpu = gpus[i % len(gpus)] if gpus else None
        node = gpu.node if gpu else None
        if not gpu and order and processes % len(order) == 0:
            node = order[i % len(order)]
        cpus = nodes.get(node) if node is not None and len(nodes) > 1 else None
        found.append(Place(share, cpus, gpu.id if gpu else None))
    return found


def of_each(settings: Settings, processes: int) -> Settings:
    """Get the settings of one of several processes: limits are of all together, so each has its part of them."""
    return settings.model_copy(
        update={
            "processes": processes,
            "max_requests": -(-settings.max_requests // processes),
            "cache_mb": -(-settings.cache_mb // processes),
            "max_queue_tokens": -(-settings.max_queue_tokens // processes),
            "watch_seconds": min(settings.watch_seconds or WATCH_SECONDS, WATCH_SECONDS),
            "low_latency": False,  # its session has threads, which a fork leaves behind, and weights of its own
        }
    )


def can_share(settings: Settings, cores: int, *, cuda: bool) -> bool:
    """Whether models can be opened before a fork: neither CUDA nor a session with threads outlives one.

    Args:
        cores: the most that one process has.
        cuda: whether CUDA is installed.
    """
    if settings.device == "cuda" or (settings.device == "auto" and cuda):
        return False
    workers = settings.workers or max(1, cores // max(1, settings.intra_op_threads))
    return (settings.intra_op_threads or max(1, cores // workers)) == 1


def find_nodes(allowed: frozenset[int], root: Path = NODES) -> dict[int, frozenset[int]]:
    """Find the NUMA nodes whose cores this process may use; none where the system does not say."""
    found = {}
    for folder in root.glob("node[0-9]*"):
        try:
            cpus = _cpus((folder / "cpulist").read_text(encoding="ascii")) & allowed
        except (OSError, ValueError):
            continue
        if cpus:
            found[int(folder.name.removeprefix("node"))] = cpus
    return found


def find_gpus(
    environment: Mapping[str, str] = os.environ, driver: Path = DRIVER, pci: Path = PCI, devices: Path = DEVICES
) -> list[Gpu]:
    """Find the GPUs that this process may use, in the order of their places on the bus (`CUDA_DEVICE_ORDER`)."""
    found: list[Gpu] = []
    for folder in sorted(driver.glob("*")):
        try:
            minor = re.search(r"Device Minor:\s*(\d+)", (folder / "information").read_text(encoding="ascii"))
        except OSError:
            continue
        if minor and (devices / f"nvidia{minor[1]}").exists():  # a container is given some of the machine's
            found.append(Gpu(str(len(found)), _node(pci / folder.name.lower())))
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return found
    by_id = {gpu.id: gpu for gpu in found}
    named = [name.strip() for name in visible.split(",") if name.strip() not in ("", "-1")]
    return [by_id.get(name, Gpu(name)) for name in named]


def _node(device: Path) -> int | None:
    try:
        node = int((device / "numa_node").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
    return None if node < 0 else node


def _cpus(text: str) -> frozenset[int]:
    """Read a list of cores, `0-3,8`."""
    ranges = [part.partition("-") for part in text.strip().split(",") if part]
    return frozenset(cpu for first, _, last in ranges for cpu in range(int(first), int(last or first) + 1))
