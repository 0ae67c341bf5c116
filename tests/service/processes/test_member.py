"""A process among others, as far as one process can show it."""

import asyncio
import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import generate_latest

from service.metrics import Metrics
from service.processes import member as module
from service.processes.board import Board
from service.processes.member import Member, resident
from tests.engines import until


class Server:
    """What of a server a member looks at."""

    def __init__(self) -> None:
        self.server_state = SimpleNamespace(connections={1, 2, 3})
        self.should_exit = False
        self.signals: list[int] = []

    def handle_exit(self, sig: int, frame: object) -> None:
        self.signals.append(sig)


class Models:
    """What of the models a member looks at."""

    def __init__(self) -> None:
        self.ready = self.alive = True
        self.models: dict[str, Any] = {}


def working(member: Member, server: Server, predictor: Any = None) -> Any:
    return member.working(server, predictor)  # type: ignore[arg-type]


async def test_what_it_says_of_itself() -> None:
    board, server, models = Board(2), Server(), Models()
    member = Member(board, 0, Metrics())
    [slot, _] = board.slots
    assert (member.ready, member.alive) == (False, False)  # nobody serves
    async with working(member, server, models):
        await until(lambda: slot.up)
        assert (slot.serves, slot.ready, slot.alive, slot.connections) == (1, 1, 1, 3)
        assert (member.ready, member.alive) == (True, True)
        models.ready = models.alive = False
        await until(lambda: not slot.alive)
        assert (member.ready, member.alive) == (False, False)
        models.ready = models.alive = True
        board.slots[1].up = board.slots[1].serves = board.slots[1].alive = 1  # another, which is not ready
        await until(lambda: slot.ready)
        assert (member.ready, member.alive) == (False, True)
        board.slots[1].alive = 0  # nor will be: it is being replaced
        assert member.ready
        board.stops = 1
        assert (member.ready, member.alive) == (False, True)
        server.should_exit = True
        await until(lambda: not slot.up)


async def test_whose_parent_is_gone_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    member, server = Member(Board(1), 0, Metrics()), Server()
    async with working(member, server):
        monkeypatch.setattr(os, "getppid", lambda: 1)
        await until(lambda: server.should_exit)
        await asyncio.sleep(2 * module.BEAT_SECONDS)
    assert server.signals == [signal.SIGTERM]


async def test_who_comes_after_goes_on_counting() -> None:
    board = Board(1)
    for number in (1, 2, 3):
        metrics = Metrics()
        member = Member(board, 0, metrics)
        async with working(member, Server(), Models()):
            board.slots[0].clear()
            await until(lambda: board.up)
            metrics.rejected.labels("deadline").inc()
            text = (await member.exposition(generate_latest)).decode()
        assert f'bertie_rejected_total{{reason="deadline"}} {number}.0' in text
        assert f"bertie_processes_lost_total {number - 1}.0" in text
        assert "bertie_processes 1.0" in text


async def test_counting_that_fails_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    board, count, failures = Board(1), Member._count, [True]

    def fail_once(member: Member) -> Any:
        if failures:
            failures.pop()
            raise RuntimeError
        return count(member)

    monkeypatch.setattr(Member, "_count", fail_once)
    member = Member(board, 0, Metrics())
    async with working(member, Server(), Models()):
        await until(lambda: board.up and not failures)
        assert b"bertie_processes 1.0" in await member.exposition(generate_latest)
    assert "cannot be written down" in caplog.text


def test_what_is_resident(tmp_path: Path) -> None:
    assert resident() == {"process_resident_memory_bytes": pytest.approx(100e6, rel=9)}
    assert resident(5, tmp_path) == {}
    (tmp_path / "5").mkdir()
    for content, found in (("Rss: 9 kB\nPss: 7 kB\n", {"process_resident_memory_bytes": 7168.0}), ("Pss:\n", {})):
        (tmp_path / "5" / "smaps_rollup").write_text(content)
        assert resident(5, tmp_path) == found
