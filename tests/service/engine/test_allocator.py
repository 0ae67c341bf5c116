"""Large blocks that are freed stay with the process; what is returned goes."""

import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
import numpy as np
from service.engine import allocator

if sys.argv[1] == "kept":
    allocator.keep_blocks()

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

for _ in range(3):
    np.ones(1 << 20)  # 8 MB
before = faults()
for _ in range(20):
    np.ones(1 << 20)
print(faults() - before)
blocks = [np.ones(1 << 10) for _ in range(1 << 13)]  # 64 MB in pieces
resident = lambda: int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
last, full = np.ones(1 << 10), resident()
del blocks
allocator.return_freed()
print(full - resident())
"""


def run(mode: str) -> tuple[int, int]:
    done = subprocess.run([sys.executable, "-c", PROGRAM, mode], capture_output=True, text=True, check=True)
    faults, returned = map(int, done.stdout.split())
    return faults, returned


THREADS = """
import resource, sys, threading
import numpy as np
from service.engine import allocator

if sys.argv[1] == "shared":
    allocator.share_arenas(1)
allocator.keep_blocks()
turn, alive = threading.Lock(), threading.Barrier(8)

def call():
    alive.wait()
    with turn:
        blocks = [np.ones(1 << 17) for _ in range(16)]  # 16 MB
        del blocks
    alive.wait()

threads = [threading.Thread(target=call) for _ in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize())
"""
LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc")


@LINUX
def test_threads_that_share_an_arena_keep_what_one_needs() -> None:
    own, shared = (
        int(subprocess.run([sys.executable, "-c", THREADS, mode], capture_output=True, text=True, check=True).stdout)
        for mode in ("own", "shared")
    )
    assert own - shared > 48 << 20  # of 112 MB


@LINUX
def test_large_blocks_are_kept_and_freed_ones_returned() -> None:
    kept, returned = run("kept")
    assert kept < 1000  # 20 times 2048 pages otherwise
    assert returned > 32 << 20


def test_a_library_without_them_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    from service.engine import allocator

    monkeypatch.setattr(allocator, "_function", lambda name: None)
    allocator.share_arenas(1)
    allocator.keep_blocks()
    allocator.return_freed()
