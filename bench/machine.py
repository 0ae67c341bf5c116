"""The machine that is measured on: its processor, how busy it is, and the versions of the libraries."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

CPUINFO = Path("/proc/cpuinfo")


def describe(packages: Sequence[str]) -> dict[str, Any]:
    """Get the processor, the load of the last minute, Python's version, and that of each package (empty if absent)."""
    found = {"processor": _processor(), "load_before": os.getloadavg()[0], "python": platform.python_version()}
    return found | {name: _version(name) for name in packages}


def _processor() -> str:
    try:
        lines = CPUINFO.read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.machine()


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
