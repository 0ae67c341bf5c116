"""One process of several, seen from within: what it says of itself on the board, and what it can tell of all.

Owns the beat, the writing down of what it has counted, and the answers to probes and scrapes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from pathlib import Path

import uvicorn
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric
from prometheus_client.process_collector import ProcessCollector

from service.drift import Tally
from service.metrics import Metrics
from service.predictor import Predictor
from service.processes import merging
from service.processes.board import Board
from service.processes.merging import Counts
from service.rollout import aside

logger = logging.getLogger(__name__)

BEAT_SECONDS = 0.25
COUNT_SECONDS = 5.0
"""How often a process writes down what it has counted where nobody asks: so much is lost at most when it is killed."""
ASK_SECONDS = 2.0
"""How long a scrape waits for the others; of one that does not answer it has what that wrote down last."""
PROC = Path("/proc")


class Member:
    """The process of a slot. It is the `Whole` that the application is told by."""

    def __init__(self, board: Board, number: int, metrics: Metrics) -> None:
        self._board, self._slot, self._metrics = board, board.slots[number], metrics
        self._predictor: Predictor | None = None
        self._parent = os.getppid()
        self._parents = CollectorRegistry()
        ProcessCollector(pid=lambda: self._parent, registry=self._parents)
        self._ended = threading.Event()
        # What who was here before has counted goes on: no counter goes down.
        before = Counts.from_bytes(self._slot.read())
        self._before = [before] if before.families else []
        if self._before:
            metrics.processes_lost.inc()

    @property
    def ready(self) -> bool:
        """Whether all processes that serve would say so; one that is being replaced does not count."""
        serving = [slot for slot in self._board.serving if slot.alive]
        return not self._board.stops and bool(serving) and all(slot.ready for slot in serving)

    @property
    def alive(self) -> bool:
        """Whether a process serves, or comes to; one that cannot is replaced."""
        return bool(self._board.stops) or any(slot.alive for slot in self._board.serving)

    async def exposition(self, encode: Callable[[CollectorRegistry], bytes]) -> bytes:
        """Get the metrics of all processes, as this writes a registry."""
        return await aside.run(lambda: encode(_Merged(self)), nice=0)  # type: ignore[arg-type]

    def collect(self) -> Iterable[Metric]:
        """Get the metrics of all processes. Waits for them."""
        self._board.ask(ASK_SECONDS)
        up = {id(slot) for slot in self._board.up}
        living: list[Counts] = []
        gone: list[Counts] = []
        for slot in self._board.slots:
            (living if id(slot) in up else gone).append(Counts.from_bytes(slot.read()))
        living.append(merging.take(self._parents, instead=resident(self._parent)))
        return merging.collect(merging.merge(living, gone))

    @contextlib.asynccontextmanager
    async def working(self, server: uvicorn.Server, predictor: Predictor | None) -> AsyncIterator[None]:
        """Take part while the block runs. The server is stopped when the parent is gone.

        Args:
            predictor: of the models; None where the process serves none.
        """
        self._predictor = predictor
        beat = asyncio.create_task(self._beat(server))
        writer = threading.Thread(target=self._write_down, name="counts", daemon=True)
        writer.start()
        try:
            yield
        finally:
            beat.cancel()
            self._ended.set()
            self._slot.ask()
            writer.join(1.0)

    async def _beat(self, server: uvicorn.Server) -> None:
        predictor, slot = self._predictor, self._slot
        slot.serves = int(predictor is not None)
        self._metrics.processes.set(slot.serves)
        while True:
            slot.connections = len(server.server_state.connections)
            slot.ready = int(predictor is None or predictor.ready)
            slot.alive = int(predictor is None or predictor.alive)
            slot.beat()
            slot.up = int(not server.should_exit)  # one that ends by itself is as good as gone
            if os.getppid() != self._parent and not server.should_exit:
                server.handle_exit(signal.SIGTERM, None)
                server.should_exit = True
            await asyncio.sleep(BEAT_SECONDS)

    def _write_down(self) -> None:
        while True:
            ended = self._ended.is_set()
            self._slot.begin()
            try:
                self._slot.write(self._count().to_bytes())
            except Exception:  # what was written before stays; the next time may be better
                logger.exception("what was counted cannot be written down")
            if ended:
                return
            self._slot.wait(COUNT_SECONDS)

    def _count(self) -> Counts:
        models = {} if self._predictor is None else self._predictor.models
        drift: Mapping[str, tuple[str, Tally]] = {
            name: (model.version, model.drift.tally()) for name, model in models.items() if model.drift is not None
        }
        own = merging.take(self._metrics.registry, drift, resident())
        return merging.merge([own], self._before)


class _Merged:
    """All processes' metrics where a registry is asked for."""

    def __init__(self, member: Member) -> None:
        self._member = member

    def collect(self) -> Iterable[Metric]:
        return self._member.collect()


def resident(process: int | str = "self", root: Path = PROC) -> dict[str, float]:
    """Get a process's part of what is resident: what others map too is divided among them, so that the sum over all
    processes is true. Nothing where the system does not say."""
    try:
        for line in (root / str(process) / "smaps_rollup").read_text(encoding="ascii").splitlines():
            name, _, rest = line.partition(":")
            if name == "Pss":
                return {"process_resident_memory_bytes": int(rest.split()[0]) * 1024.0}
    except (OSError, ValueError, IndexError):
        pass
    return {}
