"""Memory that processes share: written by one, read by another, whole after any death."""

import os
import signal
import threading
import time
from collections.abc import Callable

import pytest

from service.processes import board as module
from service.processes.board import Board


def fork(work: Callable[[], object]) -> int:
    """Do it in a process of its own, and get its number."""
    pid = os.fork()
    if not pid:
        try:
            work()
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    return pid


def test_what_a_process_writes_others_read_when_it_is_dead() -> None:
    board = Board(2)
    slot = board.slots[1]

    def work() -> None:
        slot.up = slot.serves = slot.ready = slot.alive = 1
        slot.connections = 12
        slot.beat()
        slot.begin()
        slot.write(b"first")
        slot.begin()
        slot.write(b"second" * 1000)
        slot.begin()  # and dies in the midst of the third

    os.waitpid(fork(work), 0)
    assert board.up == board.serving == [slot]
    assert (slot.ready, slot.alive, slot.connections, slot.done) == (1, 1, 12, 2)
    assert slot.silent_seconds < 10
    assert slot.read() == b"second" * 1000
    slot.clear()
    assert (board.up, slot.connections, slot.read()) == ([], 0, b"second" * 1000)
    assert board.slots[0].read() == b""


def test_the_operations_process_has_no_models() -> None:
    board = Board(2)
    for slot in board.slots:
        slot.up = 1
    board.slots[0].serves = 1
    assert (board.up, board.serving) == (board.slots, board.slots[:1])


def test_what_is_asked_for_is_counted_after_the_question() -> None:
    board = Board(1)
    [slot] = board.slots
    slot.up = 1
    counted = 0
    ended = threading.Event()

    def write() -> None:
        while not ended.is_set():
            slot.begin()
            content = b"%d" % counted
            time.sleep(0.01)  # so that questions come in between
            slot.write(content)
            slot.wait(5.0)

    writer = threading.Thread(target=write)
    writer.start()
    for counted in range(1, 30):
        time.sleep(0.0007 * counted)
        board.ask(5.0)
        assert int(slot.read()) >= counted
    ended.set()
    slot.ask()
    writer.join()


def test_a_process_that_does_not_answer_is_not_waited_for_long() -> None:
    board = Board(2)
    board.slots[0].up = 1  # the other is down, and not waited for at all
    began = time.monotonic()
    board.ask(0.1)
    assert 0.1 <= time.monotonic() - began < 2
    board.slots[0].clear()
    began = time.monotonic()
    board.ask(5.0)
    assert time.monotonic() - began < 2


def test_a_wait_ends_by_itself() -> None:
    began = time.monotonic()
    Board(1).slots[0].wait(0.05)
    assert 0.05 <= time.monotonic() - began < 2


def test_questions_that_nobody_takes_do_no_harm() -> None:
    slot = Board(1).slots[0]
    assert {slot.ask() for _ in range(1000)} == {1}


def test_what_is_read_is_read_again_where_it_was_written_over(monkeypatch: pytest.MonkeyPatch) -> None:
    slot = Board(1).slots[0]
    for content in (b"1", b"2"):
        slot.begin()
        slot.write(content)
    pread = os.pread
    late = [b"3", b"4"]

    def slow(file: int, size: int, at: int) -> bytes:
        while late:
            slot.begin()
            slot.write(late.pop(0))
        slot.begin()
        return pread(file, size, at)

    monkeypatch.setattr(module.os, "pread", slow)
    assert slot.read() == b"4"


def test_the_lock_is_let_go_by_a_death() -> None:
    board = Board(1)
    held, released = os.pipe()

    def hold() -> None:
        with board.lock():
            os.write(released, b"x")
            time.sleep(30)

    pid = fork(hold)
    assert os.read(held, 1) == b"x"
    with board.lock(wait=False) as mine:
        assert not mine
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    with board.lock() as mine:
        assert mine
    with board.lock(wait=False) as mine:
        assert mine


def test_stops_are_counted() -> None:
    board = Board(1)
    board.stops += 1
    assert board.stops == 1
