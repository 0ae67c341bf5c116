"""The parent of several processes: forks them, replaces those that end, hands on signals, and waits for the end.

Owns the processes' lives, and no thread and no event loop, so that it can fork at any time. Knows nothing of what they
do.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import math
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NoReturn

from service.processes.board import Board, Slot

logger = logging.getLogger(__name__)

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
CANNOT_START = 3
SETTLE_SECONDS = 1.0
LOOK_SECONDS, START_LOOK_SECONDS = 0.25, 0.02
YOUNG_SECONDS = 10.0
"""A process that ends sooner has failed; what fails again and again is forked again after a while only."""
BACK_OFF, MOST_BACK_OFF = 0.1, 30.0
FAILURES = 6
"""Times that each process fails, one after another, before the service ends."""
MARGIN = 5.0
"""Seconds over the drain after which a process that does not end is killed."""


@dataclass(slots=True)
class _Process:
    """A slot's process.

    Attributes:
        pid: 0 while there is none.
        serves: whether it is waited for at the start and at the end.
        failures: times that it ended young, one after another.
        due: when it is to be forked, and `overdue` when it is to be killed.
    """

    name: str
    slot: Slot
    work: Callable[[], int]
    serves: bool = True
    pid: int = 0
    born: float = 0.0
    failures: int = 0
    due: float = 0.0
    overdue: float = math.inf


class Supervisor:
    """Runs the processes of a board's slots."""

    def __init__(
        self,
        board: Board,
        works: Sequence[Callable[[], int]],
        helper: Callable[[], int] | None = None,
        *,
        drain_seconds: float,
        hang_seconds: float,
        on_up: Callable[[], None] = lambda: None,
        on_stop: Callable[[], None] = lambda: None,
    ) -> None:
        """
        Args:
            works: what each process does, up to its exit status.
            helper: what one more does, which ends with the last of them.
            hang_seconds: after so long without a beat a process is killed.
            on_up: called when all serve.
            on_stop: called at the first signal.
        """
        self._board = board
        self._processes = [_Process(f"process {i}", board.slots[i], work) for i, work in enumerate(works)]
        self._helpers = [_Process("operations", board.slots[len(works)], helper, serves=False)] if helper else []
        self._drain_seconds, self._hang_seconds = drain_seconds, hang_seconds
        self._on_up, self._on_stop = on_up, on_stop
        self._started = False
        self._status = 0

    def run(self) -> int:
        """Run them until a signal. Returns the exit status."""
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        waited = (*STOP_SIGNALS, signal.SIGCHLD)
        signal.pthread_sigmask(signal.SIG_BLOCK, waited)
        gc.disable()  # between now and the fork it would write to what is shared; the processes turn it on
        gc.collect()
        gc.freeze()
        while True:
            now = time.monotonic()
            if not self._board.stops:
                self._fork_due(now)
            wait = LOOK_SECONDS if self._started else START_LOOK_SECONDS
            came = signal.sigtimedwait(waited, wait)
            while came is not None:
                if came.si_signo != signal.SIGCHLD:
                    self._stop(signal.Signals(came.si_signo))
                came = signal.sigtimedwait(waited, 0)
            self._reap()
            now = time.monotonic()
            if not self._board.stops:
                self._look_after(now)
            for process in self._running():
                if now > process.overdue:
                    logger.error("%s does not end and is killed", process.name)
                    _kill(process, signal.SIGKILL)
                    process.overdue = math.inf
            if self._board.stops and not any(process.pid for process in self._processes):
                for process in self._helpers:
                    if process.pid:
                        _kill(process, signal.SIGKILL)
                        os.waitpid(process.pid, 0)
                return self._status

    # ---- their beginning --------------------------------------------------------------------------------------------

    def _fork_due(self, now: float) -> None:
        for process in [*self._processes, *self._helpers]:
            if not process.pid and now >= process.due:
                process.born, process.overdue = now, math.inf
                process.pid = os.fork()
                if not process.pid:
                    _become(process)

    def _look_after(self, now: float) -> None:
        """See who is up, who hangs, and who cannot come to be ready by itself."""
        if not self._started and all(process.slot.up for process in [*self._processes, *self._helpers]):
            self._started = True
            self._on_up()
        for process in self._running():
            if not process.slot.up or process.overdue < math.inf:
                continue
            if process.slot.silent_seconds > self._hang_seconds:
                logger.error("%s hangs and is replaced", process.name)
                process.overdue = 0.0
            elif not process.slot.alive:
                logger.error("%s has lost its engine's workers and is replaced", process.name)
                _kill(process, signal.SIGTERM)
                process.overdue = now + self._drain_seconds + MARGIN

    # ---- their end --------------------------------------------------------------------------------------------------

    def _stop(self, number: signal.Signals) -> None:
        """Hand a signal on. What is admitted is answered first; at a second one no more."""
        self._board.stops += 1
        if self._board.stops == 1:
            self._on_stop()
        for process in self._processes:
            process.overdue = min(process.overdue, time.monotonic() + self._drain_seconds + MARGIN)
            _kill(process, number)

    def _reap(self) -> None:
        """Bury who has ended: as process 1 of a container, others' children too."""
        by_pid = {process.pid: process for process in self._running()}
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            if (process := by_pid.get(pid)) is not None:
                self._ended(process, os.waitstatus_to_exitcode(status))

    def _ended(self, process: _Process, code: int) -> None:
        pid, process.pid = process.pid, 0
        process.slot.clear()
        if self._board.stops:
            return
        now = time.monotonic()
        how = f"was killed by {_signal_name(-code)}" if code < 0 else f"ended with status {code}"
        if not self._started:
            if code != CANNOT_START:  # else it has said why
                logger.error("cannot start: %s %s", process.name, how)
            self._give_up()
            return
        process.failures = process.failures + 1 if now - process.born < YOUNG_SECONDS else 0
        wait = 0.0 if process.failures < 2 else min(MOST_BACK_OFF, BACK_OFF * 2**process.failures)
        process.due = now + wait
        logger.warning("%s (pid %d) %s; another takes its place in %.1f s", process.name, pid, how, wait)
        if all(each.failures >= FAILURES and not each.slot.up for each in self._processes):
            logger.error("no process can start again")
            self._give_up()

    def _give_up(self) -> None:
        self._status = CANNOT_START
        self._stop(signal.SIGTERM)

    def _running(self) -> list[_Process]:
        return [process for process in [*self._processes, *self._helpers] if process.pid]


def threads(most: int = 0) -> int:
    """Count the threads of this process, those of libraries too.

    Args:
        most: what is to be left of them when those that are ending have ended, for which it waits a moment.
    """
    until = time.monotonic() + SETTLE_SECONDS
    while (count := len(os.listdir("/proc/self/task"))) > most and most and time.monotonic() < until:
        time.sleep(0.001)
    return count


def _become(process: _Process) -> NoReturn:
    """Do a process's work, in the process that was just forked."""
    status = 1
    try:
        for each in STOP_SIGNALS:  # until it serves there is nothing to finish
            signal.signal(each, lambda *_: os._exit(0))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (*STOP_SIGNALS, signal.SIGCHLD))
        gc.enable()
        status = process.work()
    except BaseException:
        logger.exception("%s failed", process.name)
    finally:
        os._exit(status)


def _kill(process: _Process, number: int) -> None:
    if process.pid:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, number)


def _signal_name(number: int) -> str:
    with contextlib.suppress(ValueError):
        return signal.Signals(number).name
    return f"signal {number}"
