"""A server in a process of its own, and what its whole process tree uses.

Owns start, stop and the reading of /proc. Knows nothing of HTTP or of what is served.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from bench.errors import BenchError

PROC = Path("/proc")
TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
SAMPLE_SECONDS = 0.5
"""How often memory is looked at: seldom enough to cost nothing."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process tree uses now.

    Attributes:
        cpu_seconds: spent so far, by processes that have ended too.
        rss: bytes resident, summed over the processes: what they share counts for each.
        processes, threads, descriptors: how many there are.
    """

    cpu_seconds: float
    rss: int
    processes: int
    threads: int
    descriptors: int


@dataclass(frozen=True, slots=True)
class _Stat:
    parent: int
    session: int
    cpu_seconds: float
    threads: int
    rss: int


class Server:
    """A command that serves until it is stopped. Use it as a context manager.

    Attributes:
        log: file with all that it has written.
        peak_rss: most bytes resident that were seen since `reset_peak`.
    """

    def __init__(self, command: Sequence[str], *, environment: Mapping[str, str], log: Path) -> None:
        """Starts it, in a session of its own, so that nothing of it is lost sight of."""
        self.log = log
        self.peak_rss = 0
        with open(log, "wb") as output:
            self._process = subprocess.Popen(
                list(command), env=os.environ | environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                start_new_session=True,
            )  # fmt: skip
        self._stopped = threading.Event()
        self._sampler = threading.Thread(target=self._sample, daemon=True)
        self._sampler.start()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    @property
    def alive(self) -> bool:
        """Whether its first process runs."""
        return self._process.poll() is None

    def usage(self) -> Usage:
        """What the tree uses now."""
        return usage(self._process.pid)

    def pss(self) -> int:
        """Bytes resident, shared pages divided among those who share them. Costs more than `usage`."""
        return sum(_pss(pid) for pid in tree(self._process.pid))

    def reset_peak(self) -> None:
        """Begins a new peak."""
        self.peak_rss = 0

    def last_words(self) -> str:
        """The last line of its log."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return lines[-1].strip() if lines else "it wrote nothing"

    def stop(self, seconds: float = 20.0) -> None:
        """SIGTERM, some time, then SIGKILL to whatever is left of the tree."""
        self._stopped.set()
        self._sampler.join()
        family = set(tree(self._process.pid))
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
        for pid in family | set(tree(self._process.pid)):
            with contextlib.suppress(ProcessLookupError):
                if pid == self._process.pid or _session(pid) == self._process.pid:
                    os.kill(pid, signal.SIGKILL)
        self._process.wait()

    def _sample(self) -> None:
        while not self._stopped.wait(SAMPLE_SECONDS):
            self.peak_rss = max(self.peak_rss, self.usage().rss)


def python(module: str) -> list[str]:
    """The command that runs a module with this interpreter."""
    return [sys.executable, "-m", module]


def tree(root: int) -> list[int]:
    """`root`, its descendants, and everything else in its session (a child whose parent has ended)."""
    return list(_tree(root))


def usage(root: int) -> Usage:
    """What the tree under `root` uses now."""
    stats = _tree(root)
    return Usage(
        cpu_seconds=sum(stat.cpu_seconds for stat in stats.values()),
        rss=sum(stat.rss for stat in stats.values()),
        processes=len(stats),
        threads=sum(stat.threads for stat in stats.values()),
        descriptors=sum(map(_descriptors, stats)),
    )


@contextlib.contextmanager
def only_cores(count: int) -> Iterator[int]:
    """Holds this process, and those that it starts meanwhile, to the first `count` of its cores; 0 for all of them.

    Yields how many they are.

    Raises:
        BenchError: there are not so many.
    """
    before = os.sched_getaffinity(0)
    if count > len(before):
        raise BenchError(f"--cores {count}: this process may use {len(before)}")
    chosen = set(sorted(before)[: count or len(before)])
    os.sched_setaffinity(0, chosen)
    try:
        yield len(chosen)
    finally:
        os.sched_setaffinity(0, before)


def wait_until(condition: object, seconds: float, step: float = 0.05) -> bool:
    """Calls `condition` until it is true or the time is over. Returns whether it came true."""
    assert callable(condition)
    until = time.perf_counter() + seconds
    while not condition():
        if time.perf_counter() > until:
            return False
        time.sleep(step)
    return True


def _tree(root: int) -> dict[int, _Stat]:
    stats = {}
    for entry in PROC.iterdir():
        if entry.name.isdigit() and (stat := _stat(entry)) is not None:
            stats[int(entry.name)] = stat
    found: dict[int, _Stat] = {}
    fresh = [pid for pid, stat in stats.items() if pid == root or stat.session == root]
    while fresh:
        found |= {pid: stats[pid] for pid in fresh}
        fresh = [pid for pid, stat in stats.items() if stat.parent in found and pid not in found]
    return found


def _stat(entry: Path) -> _Stat | None:
    try:
        fields = (entry / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:  # it has just ended
        return None
    # proc(5), counted from the state, which is the third field there. Of the children those who were waited for.
    return _Stat(
        parent=int(fields[1]),
        session=int(fields[3]),
        cpu_seconds=sum(map(int, fields[11:15])) / TICKS,
        threads=int(fields[17]),
        rss=int(fields[21]) * PAGE,
    )


def _session(pid: int) -> int:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return -1


def _descriptors(pid: int) -> int:
    try:
        return len(os.listdir(PROC / str(pid) / "fd"))
    except OSError:
        return 0


def _pss(pid: int) -> int:
    try:
        lines = (PROC / str(pid) / "smaps_rollup").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)
