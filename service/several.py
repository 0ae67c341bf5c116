"""The program as several processes at one port: what their parent opens for all, and what each of them does.

Owns the order of their start. `service.processes` has the parts.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import socket
from collections.abc import Callable, Sequence
from functools import partial
from types import FrameType
from typing import Any

import uvloop
from fastapi import FastAPI

from service import __version__, logs
from service.app import create_ops_app
from service.engine import processor, session
from service.errors import BertieError, ConfigurationError
from service.metrics import Metrics
from service.predictor import Predictor
from service.processes import placement, supervisor
from service.processes.acceptor import Acceptor
from service.processes.board import Board
from service.processes.member import Member
from service.processes.placement import Place
from service.processes.shared import Shared
from service.processes.shared import names as shared_names
from service.processes.supervisor import CANNOT_START, Supervisor
from service.repository import loading
from service.server import MainServer, Server, address, bind
from service.settings import Settings

logger = logging.getLogger(__name__)

OpenGrpc = Callable[[FastAPI, Settings], Any]
HANG_SECONDS = 10.0
"""A process whose event loop does not go round for so long, or for as long as a request may take, is killed."""


def find_places(settings: Settings) -> list[Place]:
    """Find where each process that the settings ask for runs.

    Raises:
        ConfigurationError: there cannot be several here.
    """
    if settings.processes == 1 or not hasattr(os, "memfd_create"):
        if settings.processes > 1:
            raise ConfigurationError("BERTIE_PROCESSES wants Linux: leave it at 1")
        return [Place(processor.cpu_quota())]
    cores, nodes = processor.cpu_quota(), placement.find_nodes(frozenset(os.sched_getaffinity(0)))
    gpus = placement.find_gpus() if settings.device != "cpu" and session.has_cuda() else []
    processes = settings.processes or placement.choose(cores, nodes, gpus)
    return placement.places(processes, cores, nodes, gpus)


def open_board(settings: Settings, places: Sequence[Place]) -> Board:
    """Make what the processes share, and send the parent's log, which is to have no thread."""
    board = Board(len(places) + (settings.ops_port is not None))
    logs.configure_unthreaded(settings.log_format, settings.log_level, partial(board.lock, wait=False))
    return board


def serve(
    settings: Settings,
    places: Sequence[Place],
    board: Board,
    create_app: Callable[..., FastAPI],
    open_grpc: OpenGrpc,
) -> int:
    """Run a process at each place until a signal. Returns the exit status.

    Raises:
        BertieError: it cannot start.
    """
    at_first = supervisor.threads()  # numpy's, which it ends at a fork by itself
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(bind(settings.host, settings.port))
        fields: dict[str, Any] = {"address": address(listener), "version": __version__, "processes": len(places)}
        each = placement.of_each(settings, len(places))
        if settings.grpc_port is not None:
            reserved = stack.enter_context(reserve(settings.host, settings.grpc_port))
            each = each.model_copy(update={"grpc_port": reserved.getsockname()[1]})
            fields["grpc_address"] = address(reserved).removeprefix("http://")
        ops = None if settings.ops_port is None else stack.enter_context(bind(settings.host, settings.ops_port))
        if ops is not None:
            fields["ops_address"] = address(ops)
        shared = _open(each, places, at_first)
        names = [one.bundle.name for one in shared.stable] if shared else shared_names(settings)
        fields["models"] = ",".join(names)
        part = Part(each, board, listener, shared, create_app, open_grpc)
        return Supervisor(
            board,
            [partial(part.work, number, place, ops) for number, place in enumerate(places)],
            partial(part.operate, len(places), ops) if ops is not None else None,
            drain_seconds=settings.drain_seconds,
            hang_seconds=max(HANG_SECONDS, settings.timeout_seconds),
            on_up=lambda: logger.info("serving", extra={"fields": fields}),
            on_stop=listener.close,  # who connects from now on is refused as soon as no process listens
        ).run()


def _open(settings: Settings, places: Sequence[Place], threads: int) -> Shared | None:
    """Open the models for all processes; None where each must do so by itself.

    Args:
        threads: that there were before.
    """
    cores = max(place.cores for place in places)
    if not placement.can_share(settings, cores, cuda=session.has_cuda()):
        return None
    processor.limit(cores)
    shared = Shared(settings, Metrics())
    if (left := supervisor.threads(threads)) > threads:
        raise ConfigurationError(
            f"opening the models has started {left - threads} threads, which a fork would leave behind: processes "
            "cannot share these models; set BERTIE_PROCESSES=1"
        )
    return shared


def reserve(host: str, port: int) -> socket.socket:
    """Bind a socket that never listens, so that processes may each listen at its port, and others may not.

    Raises:
        ConfigurationError: the address is in use, or none of this machine's.
    """
    with bind(host, port) as probe:  # who has a port to himself cannot be seen by one who would share it
        port = probe.getsockname()[1]
    return bind(host, port, shared=True)


class Part:
    """What each process does, from its fork to its exit status."""

    def __init__(
        self,
        settings: Settings,
        board: Board,
        listener: socket.socket,
        shared: Shared | None,
        create_app: Callable[..., FastAPI],
        open_grpc: OpenGrpc,
    ) -> None:
        self._settings, self._board, self._listener, self._shared = settings, board, listener, shared
        self._create_app, self._open_grpc = create_app, open_grpc

    def work(self, number: int, place: Place, ops: socket.socket | None) -> int:
        """Serve at a place until a signal."""
        if ops is not None:
            ops.close()
        _settle(place)
        metrics = Metrics()
        member = Member(self._board, number, metrics)
        load, open_bundle = loading.load, loading.open_tried
        if self._shared is not None:
            load, open_bundle = self._shared.load, self._shared.open_bundle
        with self._logging(f"{number}", metrics):
            app = self._create_app(self._settings, load=load, open_bundle=open_bundle, metrics=metrics, whole=member)
            return _run(self._serve(app, member, number))

    def operate(self, number: int, ops: socket.socket) -> int:
        """Answer at the operations' port, for all processes."""
        self._listener.close()
        metrics = Metrics()
        member = Member(self._board, number, metrics)
        with self._logging("operations", metrics):
            app = self._create_app(self._settings, metrics=metrics, whole=member)
            return _run(self._answer(create_ops_app(app, self._settings), member, ops))

    @contextlib.contextmanager
    def _logging(self, name: str, metrics: Metrics) -> Any:
        settings = self._settings
        writer = logs.configure(
            settings.log_format, settings.log_level, metrics.log_dropped, self._board.lock, {"process": name}
        )
        try:
            yield
        finally:
            writer.close_within(1.0)

    async def _serve(self, app: FastAPI, member: Member, number: int) -> None:
        grpc = None if self._settings.grpc_port is None else self._open_grpc(app, self._settings)
        async with app.router.lifespan_context(app):
            predictor: Predictor = app.state.gate.predictor
            if not number:
                for model in predictor.models.values():
                    logger.info("loaded", extra={"fields": model.summary})
            gc.freeze()
            server = PartServer(app, self._settings, predictor, self._board, number)
            if grpc is not None:
                server.on_stop = grpc.stop
                await grpc.start()
            async with member.working(server, predictor):
                await server.serve([self._listener])

    async def _answer(self, app: FastAPI, member: Member, ops: socket.socket) -> None:
        server = OperationsServer(app, self._settings)
        async with member.working(server, None):
            await server.serve([ops])


class PartServer(MainServer):
    """The server of one of several processes, which all listen on one socket."""

    def __init__(self, app: FastAPI, settings: Settings, predictor: Predictor, board: Board, number: int) -> None:
        super().__init__(app, settings, predictor)
        self._board, self._slot = board, board.slots[number]
        # Not the second signal that comes here: a terminal sends one to each process, and the parent hands its own on.
        self.urgent = lambda: board.stops > 1

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, beside the others."""
        [listener], config = sockets or [], self.config

        def protocol() -> asyncio.Protocol:
            made: asyncio.Protocol = config.http_protocol_class(  # type: ignore[call-arg]
                config=config, server_state=self.server_state, app_state=self.lifespan.state
            )
            return made

        self.servers = [Acceptor(listener, protocol, backlog=config.backlog, is_ahead=self._is_ahead)]  # type: ignore[list-item]
        self.started = True
        self.on_start()

    def _is_ahead(self) -> bool:
        self._slot.connections = len(self.server_state.connections)
        return self._slot.connections > min(slot.connections for slot in [self._slot, *self._board.serving])


class OperationsServer(Server):
    """The server of the operations' port, which ends with the last of the others."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Go on: the parent ends this process when there is nothing to tell any more."""


def _settle(place: Place) -> None:
    """Keep this process, and all that it starts, to its place."""
    if place.cpus is not None:
        os.sched_setaffinity(0, place.cpus)
    if place.gpu is not None:
        os.environ |= {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": place.gpu}
    processor.limit(place.cores)


def _run(work: Any) -> int:
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(work)
    except BertieError as error:
        logger.error("cannot start: %s", error.detail)
        return CANNOT_START
    return 0
