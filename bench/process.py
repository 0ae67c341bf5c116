"""A server in a process of its own, and what its whole process tree uses.

Owns start, stop and counting (psutil's). Knows nothing of HTTP or of what is served.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import psutil

from bench.errors import BenchError

SAMPLE_SECONDS = 0.5
"""Between two looks at memory: seldom enough to cost nothing."""


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


class Server:
    """A command that serves until it is stopped. Use it as a context manager.

    Attributes:
        log: file with all that it has written.
        peak_rss: most bytes resident that were seen since `reset_peak`.
        started: when it was started, on `time.perf_counter`'s clock.
    """

    def __init__(
        self, command: Sequence[str], *, environment: Mapping[str, str], log: Path, cwd: Path | None = None
    ) -> None:
        """Start it, in a session of its own, so that children whose parent has ended are found too."""
        self.log = log
        self.peak_rss = 0
        self.started = time.perf_counter()
        with open(log, "wb") as output:
            self._process = subprocess.Popen(
                list(command), env=os.environ | environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                start_new_session=True, cwd=cwd,
            )  # fmt: skip
        self._stopped = threading.Event()
        self._sampler = threading.Thread(target=self._sample, daemon=True)
        self._sampler.start()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """The number of its first process."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether its first process runs."""
        return self._process.poll() is None

    def usage(self) -> Usage:
        """Count what the tree uses now."""
        return usage(self._process.pid)

    def main_thread_seconds(self) -> float:
        """Get the processor's seconds of the first thread of its first process: of a service, its event loop."""
        threads = psutil.Process(self._process.pid).threads()
        return sum(float(each.user_time + each.system_time) for each in threads if each.id == self._process.pid)

    def pss(self) -> int:
        """Sum the bytes resident, shared pages divided among those who share them. Costs more than `usage`."""
        total = 0
        for process in tree(self._process.pid):
            with contextlib.suppress(psutil.Error):
                total += process.memory_full_info().pss
        return total

    def reset_peak(self) -> None:
        """Begin a new peak."""
        self.peak_rss = 0

    def last_words(self) -> str:
        """Get the last line of its log."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return lines[-1].strip() if lines else "it wrote nothing"

    def stop(self, seconds: float = 20.0) -> None:
        """Send SIGTERM, wait, then send SIGKILL to what is left of the tree."""
        self._stopped.set()
        self._sampler.join()
        before = tree(self._process.pid)
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
        for process in {*before, *tree(self._process.pid)}:
            with contextlib.suppress(psutil.Error):
                process.kill()  # psutil looks first whether the number has passed to another process
        self._process.wait()

    def _sample(self) -> None:
        while not self._stopped.wait(SAMPLE_SECONDS):
            self.peak_rss = max(self.peak_rss, self.usage().rss)


def python(module: str) -> list[str]:
    """Get the command that runs a module with this interpreter."""
    return [sys.executable, "-m", module]


def tree(root: int) -> set[psutil.Process]:
    """Find `root`, its descendants, and everything else in its session (a child whose parent has ended)."""
    found = set()
    for process in psutil.process_iter():
        with contextlib.suppress(ProcessLookupError):
            if process.pid == root or os.getsid(process.pid) == root:
                found.add(process)
    with contextlib.suppress(psutil.Error):
        found |= set(psutil.Process(root).children(recursive=True))
    return found


def usage(root: int) -> Usage:
    """Count what the tree under `root` uses now."""
    counted = []
    for process in tree(root):
        with contextlib.suppress(psutil.NoSuchProcess), process.oneshot():
            spent = process.cpu_times()
            cpu = spent.user + spent.system + spent.children_user + spent.children_system
            counted.append((cpu, process.memory_info().rss, 1, process.num_threads(), _descriptors(process)))
    return Usage(*map(sum, zip(*counted, strict=True))) if counted else Usage(0.0, 0, 0, 0, 0)


@contextlib.contextmanager
def only_cores(count: int) -> Iterator[int]:
    """Hold this process, and those that it starts meanwhile, to the first `count` of its cores; 0 for all of them.

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


def wait_until(condition: Callable[[], bool], seconds: float, step: float = 0.05) -> bool:
    """Call `condition` until it is true or the time is over. Return whether it came true."""
    until = time.perf_counter() + seconds
    while not condition():
        if time.perf_counter() > until:
            return False
        time.sleep(step)
    return True


def _descriptors(process: psutil.Process) -> int:
    try:
        return int(process.num_fds())
    except psutil.Error:  # it has ended, and its parent has not looked yet
        return 0
