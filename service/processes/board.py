"""The board: memory that all processes of a service share, where each says how it is and what it has counted.

Owns the layout. What a process has put there is readable when it is dead. Knows nothing of what is counted. Linux only.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import select
import time
from collections.abc import Iterator

BYTES = 64 << 20
"""Room for what a process has counted, twice, and far more than that takes: what was never written to is no memory."""
WORD = 8
_STOPS = 0
_UP, _SERVES, _READY, _ALIVE, _BEAT, _CONNECTIONS, _BEGUN, _DONE = range(8)
_WORDS = 8
_FIRST = 8
"""Words before the first process's."""
_LOOK_SECONDS = 0.001


class Board:
    """Made before the processes are forked.

    Attributes:
        slots: one for each process, and for each that takes its place when it dies.
    """

    def __init__(self, slots: int) -> None:
        self._file = os.memfd_create("bertie-board")
        self._header = -(-WORD * (_FIRST + _WORDS * slots) // mmap.PAGESIZE) * mmap.PAGESIZE
        os.ftruncate(self._file, self._header)
        self._map = mmap.mmap(self._file, self._header)
        words = memoryview(self._map).cast("q")
        self._words = words
        self.slots = [
            Slot(words[_FIRST + _WORDS * i :][:_WORDS], self._file, self._header + 2 * BYTES * i) for i in range(slots)
        ]

    @property
    def stops(self) -> int:
        """How many signals to stop have come."""
        return self._words[_STOPS]

    @stops.setter
    def stops(self, count: int) -> None:
        self._words[_STOPS] = count

    @property
    def up(self) -> list[Slot]:
        """The slots of the processes that run."""
        return [slot for slot in self.slots if slot.up]

    @property
    def serving(self) -> list[Slot]:
        """Those of them that have models."""
        return [slot for slot in self.slots if slot.up and slot.serves]

    def ask(self, seconds: float) -> None:
        """Have the processes that are up write down what they have counted; no longer than so many seconds."""
        until = time.monotonic() + seconds
        wanted = [(slot, slot.ask()) for slot in self.up]
        while time.monotonic() < until and any(slot.up and slot.done < number for slot, number in wanted):
            time.sleep(_LOOK_SECONDS)

    @contextlib.contextmanager
    def lock(self, *, wait: bool = True) -> Iterator[bool]:
        """Hold a lock that no other process holds meanwhile; a process that dies lets go of it.

        Gives whether it was had, which without `wait` it may not be.
        """
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        try:
            yield True
        finally:
            fcntl.lockf(self._file, fcntl.LOCK_UN)


class _Word:
    """A number of a slot's."""

    def __init__(self, place: int) -> None:
        self._place = place

    def __get__(self, slot: Slot, owner: type[Slot]) -> int:
        number: int = slot.words[self._place]
        return number

    def __set__(self, slot: Slot, number: int) -> None:
        slot.words[self._place] = number


class Slot:
    """One process's part of the board. That process writes it; any may read it.

    Attributes:
        up, serves: whether it runs, and has models.
        ready, alive: whether it would answer requests, and can come to by itself.
        connections: that it holds.
        done: how often it has written down what it has counted.
    """

    def __init__(self, words: memoryview, file: int, offset: int) -> None:
        self.words, self._file, self._offset = words, file, offset
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    up = _Word(_UP)
    serves = _Word(_SERVES)
    ready = _Word(_READY)
    alive = _Word(_ALIVE)
    connections = _Word(_CONNECTIONS)
    done = _Word(_DONE)

    def beat(self) -> None:
        """Say that the process goes on."""
        self.words[_BEAT] = time.monotonic_ns()

    @property
    def silent_seconds(self) -> float:
        """Time since its last beat."""
        return (time.monotonic_ns() - self.words[_BEAT]) / 1e9

    def clear(self) -> None:
        """Say that its process is gone; what it has counted stays."""
        for word in (_UP, _READY, _ALIVE, _CONNECTIONS):
            self.words[word] = 0

    def ask(self) -> int:
        """Have the process write down what it has counted. Returns the number that `done` is to come to."""
        number = self.words[_BEGUN] + 1
        with contextlib.suppress(BlockingIOError):
            os.eventfd_write(self._wake, 1)
        return number

    def wait(self, seconds: float) -> None:
        """Wait until somebody asks, no longer than so many seconds."""
        if select.select([self._wake], [], [], seconds)[0]:
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._wake)

    def begin(self) -> None:
        """Say that what is counted from now on is not yet in what `write` will write."""
        self.words[_BEGUN] = self.words[_DONE] + 1

    def write(self, content: bytes) -> None:
        """Write down what the process has counted, beside what it wrote before: that stays whole if it dies now."""
        number = self.words[_DONE] + 1
        at = self._offset + number % 2 * BYTES
        os.pwrite(self._file, len(content).to_bytes(WORD, "little") + content, at)
        self.words[_DONE] = number

    def read(self) -> bytes:
        """Get what was written last; empty before anything was."""
        while (number := self.words[_DONE]) > 0:
            at = self._offset + number % 2 * BYTES
            size = int.from_bytes(os.pread(self._file, WORD, at), "little")
            content = os.pread(self._file, size, at + WORD)
            if self.words[_BEGUN] <= number + 1:  # else it may have been written over meanwhile
                return content
        return b""
