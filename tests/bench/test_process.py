"""A server's process tree: found, counted, and ended."""

import os
import sys
import time
from pathlib import Path

import psutil
import pytest

from bench import process
from bench.errors import BenchError
from bench.process import Server

# A parent that ignores SIGTERM's politeness by having a child of its own, which works and holds memory.
FAMILY = """
import subprocess, sys, time
child = "x = bytearray(30_000_000)\\nt = 0\\nwhile True: t += 1"
subprocess.Popen([sys.executable, "-c", child])
print("started", flush=True)
time.sleep(60)
"""


@pytest.fixture
def server(tmp_path: Path) -> Server:
    return Server([sys.executable, "-c", FAMILY], environment={"MARK": "1"}, log=tmp_path / "log")


def test_children_count_and_are_ended(server: Server) -> None:
    with server:
        assert process.wait_until(lambda: server.usage().processes == 2 and server.usage().rss > 35e6, 30)
        before = server.usage().cpu_seconds
        assert process.wait_until(lambda: server.usage().cpu_seconds > before, 30), "the child's work is not seen"
        assert 0 < server.pss() <= server.usage().rss * 1.05
        assert server.usage().threads >= 2
        assert process.wait_until(lambda: server.peak_rss > 35e6, 30)
        family = process.tree(server._process.pid)
        assert server.last_words() == "started"
    assert not server.alive
    # The child is an orphan now that awaits its burial (Z), or gone; it does not run.
    time.sleep(0.1)
    assert all(not process.is_running() or process.status() == psutil.STATUS_ZOMBIE for process in family)


def test_only_cores() -> None:
    before = os.sched_getaffinity(0)
    with process.only_cores(1) as count:
        assert count == 1
        assert len(os.sched_getaffinity(0)) == 1
    assert os.sched_getaffinity(0) == before
    with process.only_cores(0) as count:
        assert count == len(before)


def test_more_cores_than_there_are() -> None:
    with pytest.raises(BenchError, match="--cores 100000"), process.only_cores(100_000):
        pass
