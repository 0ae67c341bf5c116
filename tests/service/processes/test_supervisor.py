"""The lives of processes that do next to nothing, under a supervisor in a process of its own."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from service.processes.supervisor import CANNOT_START, threads

ROOT = Path(__file__).parents[3]

PROGRAM = """
import json, os, signal, sys, time
from service.processes import supervisor
from service.processes.board import Board
from service.processes.supervisor import Supervisor

ATTRIBUTES
board = Board(3)
supervisor.logger.setLevel("INFO")
import logging
logging.basicConfig(stream=sys.stdout, format="%(message)s")

def say(**fields):
    os.write(1, (json.dumps(fields) + "\\n").encode())

def serve(number, alive=1, beats=True, deaf=False):
    slot, stopped = board.slots[number], []
    def stop(sig, frame):
        stopped.append(sig)
        say(stopping=number, signal=signal.Signals(sig).name, stops=board.stops)
    for each in supervisor.STOP_SIGNALS:
        signal.signal(each, stop)
    slot.serves, slot.alive, slot.ready = 1, alive, 1
    slot.beat()
    slot.up = 1
    say(up=number, pid=os.getpid())
    while deaf or not stopped:
        if beats:
            slot.beat()
        time.sleep(0.01)
    return 0

def helper():
    for each in supervisor.STOP_SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    board.slots[-1].beat()
    board.slots[-1].alive = board.slots[-1].up = 1
    say(helper=os.getpid())
    while True:
        board.slots[-1].beat()
        time.sleep(0.01)

WORKS
sys.exit(Supervisor(
    board, works, helper if HELPER else None, drain_seconds=0.2, hang_seconds=1.0,
    on_up=lambda: say(serving=True), on_stop=lambda: say(closed=True),
).run())
"""
TWO = "works = [lambda: serve(0), lambda: serve(1)]"


class Supervised:
    """The program, and what it says."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.said: list[object] = []

    def until(self, wanted: Callable[[object], object]) -> object:
        """Read on until something was said for which this is true, and get that."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            said = json.loads(line) if line.startswith("{") else line.strip()
            self.said.append(said)
            if wanted(said):
                return said
        raise AssertionError(self.said)

    def up(self, number: int) -> int:
        """Wait until a process is up, and get its number."""
        said = self.until(lambda said: isinstance(said, dict) and said.get("up") == number)
        assert isinstance(said, dict)
        pid: int = said["pid"]
        return pid

    def logged(self, *parts: str) -> str:
        return str(self.until(lambda said: isinstance(said, str) and all(part in said for part in parts)))

    def end(self, *signals: signal.Signals) -> int:
        for each in signals:
            self.process.send_signal(each)
            time.sleep(0.1)
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said.append(json.loads(line) if line.startswith("{") else line.strip())
        return self.process.wait(20)


@contextmanager
def supervised(works: str = TWO, *, helper: bool = False, attributes: str = "") -> Iterator[Supervised]:
    program = PROGRAM.replace("WORKS", works).replace("HELPER", str(helper)).replace("ATTRIBUTES", attributes)
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=ROOT, start_new_session=True
    )
    try:
        yield Supervised(process)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def serving(said: object) -> bool:
    return said == {"serving": True}


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_is_handed_on_and_all_are_waited_for(sig: signal.Signals) -> None:
    with supervised(helper=True) as it:
        it.until(serving)
        assert it.end(sig) == 0
        told = [said for said in it.said if isinstance(said, dict) and "stopping" in said]
        assert sorted((said["stopping"], said["signal"]) for said in told) == [(0, sig.name), (1, sig.name)]
        assert it.said.count({"closed": True}) == 1
        (helper,) = (said["helper"] for said in it.said if isinstance(said, dict) and "helper" in said)
        with pytest.raises(ProcessLookupError):
            os.kill(helper, 0)


def test_a_second_signal_is_told_from_the_first() -> None:
    with supervised("works = [lambda: serve(0, deaf=True)]") as it:
        it.until(serving)
        assert it.end(signal.SIGTERM, signal.SIGTERM) == 0  # what ends by no signal is killed at last
        told = [said["stops"] for said in it.said if isinstance(said, dict) and "stopping" in said]
        assert told == [1, 2]
        assert "process 0 does not end and is killed" in it.said


def test_what_is_killed_is_replaced_at_once() -> None:
    with supervised() as it:
        first = it.up(0)
        it.until(serving)
        began = time.monotonic()
        os.kill(first, signal.SIGKILL)
        it.logged("process 0", "was killed by SIGKILL; another takes its place in 0.0 s")
        assert it.up(0) != first
        assert time.monotonic() - began < 1
        assert it.end(signal.SIGTERM) == 0


def test_what_ends_by_itself_is_replaced_too() -> None:
    with supervised(helper=True) as it:
        first = it.up(1)
        it.until(serving)
        os.kill(first, signal.SIGTERM)
        it.logged("process 1", "ended with status 0")
        assert it.up(1) != first
        (helper,) = (said["helper"] for said in it.said if isinstance(said, dict) and "helper" in said)
        os.kill(helper, signal.SIGKILL)
        it.logged("operations", "was killed by SIGKILL")
        it.until(lambda said: isinstance(said, dict) and said.get("helper", helper) != helper)
        assert it.end(signal.SIGTERM) == 0


def test_what_fails_again_and_again_is_replaced_later_and_later() -> None:
    with supervised() as it:
        it.until(serving)
        waits = []
        for _ in range(3):
            pids = [said["pid"] for said in it.said if isinstance(said, dict) and said.get("up") == 0]
            os.kill(pids[-1], signal.SIGKILL)
            waits.append(float(it.logged("takes its place").split()[-2]))
            it.up(0)
        assert waits == [0.0, 0.4, 0.8]


@pytest.mark.parametrize(
    ("work", "said"),
    [
        ("sys.exit(3)", None),
        ("1 / 0", "cannot start: process 1 ended with status 1"),
        ("os.kill(os.getpid(), 9)", "cannot start: process 1 was killed by SIGKILL"),
        ("os.kill(os.getpid(), 40)", "cannot start: process 1 was killed by signal 40"),
    ],
)
def test_what_cannot_start_ends_all(work: str, said: str | None) -> None:
    work = "return 3" if said is None else work
    with supervised(f"def bad():\n    {work}\nworks = [lambda: serve(0), bad]") as it:
        assert it.end() == CANNOT_START
        assert not any(map(serving, it.said))
        assert said is None or said in it.said


def test_what_can_never_start_again_ends_it() -> None:
    once = "def once():\n    if os.path.exists(PATH): return 3\n    open(PATH, 'w').close(); return serve(0)\n"
    with supervised(
        f"import tempfile\nPATH = tempfile.mktemp()\n{once}works = [once]", attributes="supervisor.BACK_OFF = 0.001"
    ) as it:
        first = it.up(0)
        it.until(serving)
        os.kill(first, signal.SIGKILL)
        it.logged("no process can start again")
        assert it.end() == CANNOT_START


def test_what_hangs_is_killed_and_replaced() -> None:
    with supervised("works = [lambda: serve(0, beats=board.slots[0].connections, deaf=True)]") as it:
        it.up(0)
        it.logged("process 0 hangs and is replaced")
        it.logged("was killed by SIGKILL")
        it.up(0)


def test_what_cannot_come_to_be_ready_is_replaced() -> None:
    with supervised("works = [lambda: serve(0), lambda: serve(1, alive=0)]") as it:
        it.until(serving)
        it.logged("process 1 has lost its engine's workers and is replaced")
        it.logged("process 1", "ended with status 0")
        it.up(1)


def test_a_signal_before_all_are_up_ends_it() -> None:
    with supervised("works = [lambda: serve(0), lambda: time.sleep(30)]") as it:
        it.up(0)
        assert it.end(signal.SIGTERM) == 0
        assert not any(map(serving, it.said))


def test_others_children_are_buried_too() -> None:
    """As process 1 of a container it inherits them."""
    orphan = "import subprocess\norphan = subprocess.Popen(['true'])\n"
    with supervised(f"{orphan}{TWO}") as it:
        it.until(serving)
        status = Path(f"/proc/{it.process.pid}/task/{it.process.pid}/children").read_text()
        assert len(status.split()) == 2
        assert it.end(signal.SIGTERM) == 0


def test_threads_are_counted_when_those_that_end_have_ended() -> None:
    assert threads(most=1_000_000) >= 1
    began = time.monotonic()
    assert threads(most=1) >= 1
    assert time.monotonic() - began < 5
