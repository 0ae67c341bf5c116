"""The processor: how much of it this process may use, and what it can do."""

from __future__ import annotations

import math
import os
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUP = Path("/proc/self/cgroup")

_most: int | None = None


def limit(cores: int) -> None:
    """Use at most so many cores: this process's share, where it is one of several."""
    global _most
    _most = cores


def cpu_quota(root: Path = CGROUPS, own: Path = OWN_CGROUP) -> int:
    """Count the cores that this process may use: the scheduler's affinity, bounded by the CPU quota of its cgroup and
    of every cgroup that holds it (a container's, a systemd slice's), and by `limit`.

    A container limited to 2 CPUs on a machine of 64 sees 64 cores; as many threads would spend their time throttled.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([cores, _most or cores, *map(math.ceil, _quotas(root, own))]))


def _quotas(root: Path, own: Path) -> list[float]:
    """CPUs that each cgroup on the way from the root to this process's own allows, where it sets a quota."""
    try:
        lines = own.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        lines = []
    # "0::/path" (version 2), "4:cpu,cpuacct:/path" (version 1). Inside a container the path may be the host's, which is
    # not there; the root is looked at in any case.
    quotas = []
    for folder, path in [(root, ""), (root / "cpu", ""), *_placed(lines, root)]:
        group = folder / path.lstrip("/")
        while True:
            quotas.append(_quota(group))
            if group == folder or folder not in group.parents:
                break
            group = group.parent
    return [quota for quota in quotas if quota is not None]


def _placed(lines: list[str], root: Path) -> list[tuple[Path, str]]:
    places = []
    for line in lines:
        controllers, _, path = line.partition(":")[2].partition(":")
        if not controllers:
            places.append((root, path))
        elif "cpu" in controllers.split(","):
            places += [(root / "cpu", path), (root / controllers, path)]
    return places


def _quota(group: Path) -> float | None:
    try:
        if (group / "cpu.max").is_file():
            quota, period = (group / "cpu.max").read_text(encoding="ascii").split()
        else:
            quota = (group / "cpu.cfs_quota_us").read_text(encoding="ascii").strip()
            period = (group / "cpu.cfs_period_us").read_text(encoding="ascii").strip()
        return int(quota) / int(period) if quota.isdigit() else None  # "max", or -1: no limit
    except (OSError, ValueError, ZeroDivisionError):
        return None


def products_overflow(cpuinfo: Path | None = None) -> bool:
    """Whether this is an x64 processor without VNNI, whose kernels add 8-bit products in 16 bits and may overflow."""
    try:
        lines = (cpuinfo or CPUINFO).read_text(encoding="ascii").splitlines()
        flags = next(line for line in lines if line.startswith("flags"))
    except (OSError, StopIteration):  # no Linux, or no x64
        return False
    return "vnni" not in flags
