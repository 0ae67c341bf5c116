"""What this machine can do, and what is wrong with what is installed on it.

Owns the report of both. Reads what the system says and measures a few products; changes nothing.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import onnxruntime
import torch
from packaging.requirements import InvalidRequirement, Requirement

from service.engine.processor import cpu_quota, products_overflow
from training.checkpoints import precision

CPUINFO = Path("/proc/cpuinfo")
MEMINFO = Path("/proc/meminfo")
LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
EXTENSIONS = {
    "avx2": "AVX2", "avx512f": "AVX-512", "avx512_vnni": "VNNI", "avx_vnni": "AVX-VNNI", "avx512_bf16": "bf16",
    "amx_int8": "AMX int8", "amx_bf16": "AMX bf16", "asimddp": "dot products", "bf16": "bf16",
}  # fmt: skip
"""Flags of a processor that matter here, as they are called."""
EXTRAS = ("", "train")
RUNTIMES = ("onnxruntime", "onnxruntime-gpu")
"""They hold the same module: a machine takes one of them."""


@dataclass(frozen=True, slots=True)
class Report:
    """What the machine has, in words by name; and what is wrong, each with what to do."""

    facts: dict[str, str]
    faults: list[str]


def run() -> Report:
    """Look at the machine and at the installed packages."""
    flags = _flags()
    cores, quota = os.cpu_count() or 1, cpu_quota()
    extensions = ", ".join(dict.fromkeys(name for flag, name in EXTENSIONS.items() if flag in flags))
    facts = {
        "processor": f"{_said(CPUINFO, 'model name') or platform.machine()}; {extensions or 'no known extensions'}",
        "cores": f"{quota} of {cores} may be used",
        "int8": "7 bits of 8: no VNNI" if products_overflow() else "8 bits",
        "bf16": f"{precision.speed():.2g} times the speed of fp32 on the CPU",
        "memory": _memory(),
        "CUDA": _cuda(),
        "ONNX Runtime": ", ".join(each.removesuffix("ExecutionProvider") for each in _providers()),
        "Python": platform.python_version(),
        "versions": ", ".join(f"{name} {_version(name)}" for name in ("torch", "transformers", "onnxruntime", "onnx")),
    }
    return Report(facts, list(_faults()))


def _faults() -> Iterator[str]:
    """What is wrong with the installed packages, by what Bertie's own metadata asks for."""
    if not (asked := _requirements()):
        yield "bertie is not installed, so what it needs is not known: pip install -e '.[cpu,train]'"
    for requirement in asked:
        installed = _version(requirement.name)
        if not installed:
            yield f"{requirement.name} is not installed: pip install '{requirement}'"
        elif not requirement.specifier.contains(installed, prereleases=True):
            yield (
                f"{requirement.name} {installed} is installed, and Bertie wants {requirement.specifier}: "
                f"pip install '{requirement.name}{requirement.specifier}'"
            )
    runtimes = [name for name in RUNTIMES if _version(name)]
    if len(runtimes) == 2:
        yield "onnxruntime and onnxruntime-gpu are both installed and overwrite each other: uninstall both, install one"
    if not runtimes:
        yield "no ONNX Runtime is installed: pip install onnxruntime, or onnxruntime-gpu for CUDA"
    if torch.cuda.is_available() and "CUDAExecutionProvider" not in _providers():
        yield "torch finds a GPU that ONNX Runtime cannot use: install onnxruntime-gpu in place of onnxruntime"
    if torch.get_num_threads() > cpu_quota():
        yield (
            f"torch computes on {torch.get_num_threads()} threads where {cpu_quota()} cores may be used: set "
            f"OMP_NUM_THREADS={cpu_quota()}"
        )


def _requirements() -> list[Requirement]:
    """What the service and training need, of what is for this machine."""
    found = []
    try:
        written = requires("bertie") or []
    except PackageNotFoundError:
        return []
    for line in written:
        try:
            requirement = Requirement(line)
        except InvalidRequirement:
            continue
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in EXTRAS):
            requirement.marker = None
            found.append(requirement)
    return found


def _providers() -> list[str]:
    found: list[str] = onnxruntime.get_available_providers()
    return found


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _flags() -> set[str]:
    return set((_said(CPUINFO, "flags") or _said(CPUINFO, "Features")).split())


def _said(path: Path, key: str) -> str:
    """What a file of lines `key : value` says of a key first; empty where it does not."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == key), "")


def _memory() -> str:
    total, free = (int((_said(MEMINFO, key) or "0").split()[0]) * 1024 for key in ("MemTotal", "MemAvailable"))
    limits = []
    for path in LIMITS:
        try:
            limits.append(int(path.read_text(encoding="ascii")))
        except (OSError, ValueError):  # "max": no limit
            continue
    limit = min(limits, default=total)
    held = f", limited to {limit / 1e9:.1f} GB" if 0 < limit < total else ""
    return f"{total / 1e9:.1f} GB, {free / 1e9:.1f} GB free{held}"


def _cuda() -> str:
    if not torch.cuda.is_available():
        return f"none (torch is built for CUDA {torch.version.cuda})" if torch.version.cuda else "none"
    found = (torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count()))
    return ", ".join(f"{each.name}, {each.total_memory / 1e9:.0f} GB" for each in found)
