"""How much memory this process may still take."""

from __future__ import annotations

import math
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
MEMINFO = Path("/proc/meminfo")


def available(cgroup: Path = CGROUP, meminfo: Path = MEMINFO) -> float:
    """Get the bytes that are left: of the machine, and of the container (cgroup v2) where that has a limit; infinity
    where neither can be told."""
    return min(_of_machine(meminfo), _of_container(cgroup))


def _of_machine(meminfo: Path) -> float:
    try:
        for line in meminfo.read_text(encoding="ascii").splitlines():
            name, _, rest = line.partition(":")
            if name == "MemAvailable":
                return int(rest.split()[0]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return math.inf


def _of_container(cgroup: Path) -> float:
    try:
        limit = (cgroup / "memory.max").read_text(encoding="ascii").strip()
        if limit == "max":
            return math.inf
        used = int((cgroup / "memory.current").read_text(encoding="ascii"))
        pairs = (line.split() for line in (cgroup / "memory.stat").read_text(encoding="ascii").splitlines())
        counts = {name: int(count) for name, count in pairs}
        return max(0, int(limit) - used + counts.get("inactive_file", 0))  # what the kernel gives up first
    except (OSError, ValueError):
        return math.inf
