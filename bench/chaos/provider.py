"""What the service makes of a machine: CUDA that is broken, a quota that a parent sets, threads. (14, 16)"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from bench.chaos.result import Result
from bench.chaos.target import Service
from service.engine.processor import cpu_quota

BROKEN_CUDA = ("-m", "bench.chaos.provider")
"""A service for which ONNX Runtime says that it has CUDA, and which then cannot open a session there."""


def broken_cuda(models: Path) -> Result:
    """`BERTIE_DEVICE=auto` where ONNX Runtime lists CUDA and cannot run there."""
    result = Result(
        14,
        "`auto` finds CUDA broken",
        "serves on the CPU with a warning that tells the reason, and counts it (bertie_provider_fallback_total)",
    )
    with Service(models, "sentiment", program=BROKEN_CUDA, device="auto", workers="1") as service:
        warnings = [words for words in service.messages("warning") if "cuda" in words.lower()]
        result.put("ready", service.ready())
        result.put("warnings", len(warnings))
        result.put("said", warnings[0] if warnings else "nothing")
        result.put("on the CPU, by bertie_model_info", int(service.metric("bertie_model_info", provider="cpu") or 0))
        counted = service.metric("bertie_provider_fallback_total")
        result.put("bertie_provider_fallback_total", "none" if counted is None else int(counted))
        told = result["on the CPU, by bertie_model_info"] == 1 if counted is None else counted >= 1
    result.met = result["ready"] == 200 and bool(warnings) and told
    return result


def threads(models: Path) -> Result:
    """Threads of a process with one bundle, and of one with all."""
    names = sorted(path.parent.name for path in models.glob("*/manifest.json"))
    cores = len(os.sched_getaffinity(0))
    result = Result(
        16,
        f"{len(names)} bundles on {cores} cores",
        f"{cores} engine threads in all, and for each further bundle those of its low-latency session, at most 7",
    )
    counts = {}
    for chosen in (names[:1], names):
        with Service(models, *chosen) as service:
            counts[len(chosen)] = service.threads()
            result.put(f"threads with {len(chosen)}", service.threads())
            named = result.put(f"of them engine-* with {len(chosen)}", service.named_threads("engine-"))
    # ONNX Runtime shares a pool between all sessions of a process or none: each low-latency session has its own.
    own = min(cores, 8) - 1
    result.met = named in (0, cores) and counts[len(names)] <= counts[1] + own * (len(names) - 1)
    return result


TREES: dict[str, tuple[dict[str, str], int]] = {
    "v2, on a parent": (
        {
            "proc/self/cgroup": "0::/system.slice/bertie.service/inner\n",
            "sys/fs/cgroup/cgroup.controllers": "cpu memory\n",
            "sys/fs/cgroup/system.slice/bertie.service/cpu.max": "100000 100000\n",
            "sys/fs/cgroup/system.slice/bertie.service/inner/cpu.max": "max 100000\n",
            "sys/fs/cgroup/system.slice/cpu.max": "max 100000\n",
        },
        1,
    ),
    "v2, the least of several": (
        {
            "proc/self/cgroup": "0::/a/b\n",
            "sys/fs/cgroup/a/cpu.max": "50000 100000\n",
            "sys/fs/cgroup/a/b/cpu.max": "6400000 100000\n",
        },
        1,
    ),
    "v2, in a container's namespace": ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "100000 100000\n"}, 1),
    "v1, on a parent": (
        {
            "proc/self/cgroup": "9:name=systemd:/\n3:cpu,cpuacct:/docker/abc\n0::/\n",
            "sys/fs/cgroup/cpu,cpuacct/docker/cpu.cfs_quota_us": "100000\n",
            "sys/fs/cgroup/cpu,cpuacct/docker/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/cpu,cpuacct/docker/abc/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu,cpuacct/docker/abc/cpu.cfs_period_us": "100000\n",
        },
        1,
    ),
    "none": ({"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/cpu.max": "max 100000\n"}, 0),
    "nonsense": ({"proc/self/cgroup": "?\n", "sys/fs/cgroup/cpu.max": "many\n"}, 0),
}
"""Files of a tree, and the cores of its quota; 0 is as many as there are."""


def quota(models: Path, *, only: tuple[str, ...] = ()) -> Result:
    """A CPU quota that stands on a parent control group, as systemd sets it."""
    cores = len(os.sched_getaffinity(0))
    result = Result(16, "a CPU quota of one core on a parent control group", "found: 1; without any, all cores")
    found = {name: _quota(files) for name, (files, _) in TREES.items() if not only or name in only}
    for name, count in found.items():
        result.put(name, count)
    result.met = all(count == (TREES[name][1] or cores) for name, count in found.items())
    return result


def _quota(files: dict[str, str]) -> int | str:
    """What the service's own function finds in a tree of these files, or how it fails."""
    with tempfile.TemporaryDirectory(prefix="chaos-") as name:
        for path, text in files.items():
            file = Path(name) / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        try:
            return cpu_quota(Path(name) / "sys/fs/cgroup", Path(name) / "proc/self/cgroup")
        except Exception as error:
            return f"{type(error).__name__}: {error}"


def main() -> int:
    """Serves where ONNX Runtime claims a CUDA that it cannot use. Returns the exit status."""
    import onnxruntime

    from service import program

    onnxruntime.get_available_providers = lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    return program.main([])


if __name__ == "__main__":
    sys.exit(main())
