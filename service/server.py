"""The servers around the application: the main one, and the operations' own on a thread and port of its own.

Owns sockets, signals, and how they stop. Knows nothing of what is answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import signal
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from types import FrameType

import uvicorn
from fastapi import FastAPI

from service.errors import ConfigurationError
from service.http.context import InFlight
from service.http.gate import Gate
from service.http.protocol import HeadLimits, Protocol, limited
from service.predictor import Predictor
from service.settings import Settings

logger = logging.getLogger(__name__)

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_MARGIN = 0.5
"""Seconds of the drain that are kept for the last answers to be written."""


class Server(uvicorn.Server):
    """uvicorn's server, which ends what takes too long."""

    def __init__(self, app: FastAPI, settings: Settings, gate: Gate | None = None) -> None:
        limits = HeadLimits(settings.max_head_bytes, settings.max_head_lines, settings.head_seconds)
        super().__init__(
            uvicorn.Config(
                app,
                http=limited(limits, gate.refusal if gate else None),
                lifespan="off",  # run by the caller, so that what it raises is told in one line
                ws="none",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,  # nothing here asks where a request came from
                timeout_graceful_shutdown=math.ceil(settings.drain_seconds) + 2,
            )
        )

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until `should_exit` is set."""
        watch = asyncio.create_task(self._watch())
        try:
            await super().serve(sockets)
        finally:
            watch.cancel()

    async def _watch(self) -> None:
        """Close the connections that keep the server waiting, during its stop too."""
        while True:
            await asyncio.sleep(1.0)
            now = asyncio.get_running_loop().time()
            for connection in list(self.server_state.connections):
                assert isinstance(connection, Protocol)
                connection.expire(now)


class MainServer(Server):
    """The server of the application: a signal stops it, what was admitted is answered first.

    Attributes:
        on_start: called when it listens.
        on_stop: stops what else admits requests, within so many seconds.
        urgent: whether a signal asks to end it now; a second one does.
    """

    def __init__(self, app: FastAPI, settings: Settings, predictor: Predictor) -> None:
        super().__init__(app, settings, app.state.gate)
        self._predictor = predictor
        self._in_flight: InFlight = app.state.in_flight
        self._drain_seconds = settings.drain_seconds
        self._loop = asyncio.get_running_loop()
        self.on_start: Callable[[], None] = lambda: None
        self.on_stop: Callable[[float], Awaitable[object]] = lambda seconds: asyncio.sleep(0)
        self.urgent: Callable[[], bool] = lambda: self.should_exit

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say so."""
        await super().startup(sockets)
        self.on_start()

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until a signal."""
        for each in STOP_SIGNALS:  # uvicorn raises its signals again when it has stopped: that is success here
            with contextlib.suppress(ValueError):  # signals belong to the main thread
                signal.signal(each, self.handle_exit)
        await super().serve(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """On a signal: not ready from this moment; what was admitted goes on. On a second one: end it now."""
        self._predictor.stop()
        if self.urgent():
            with contextlib.suppress(RuntimeError):  # the loop is closed: all is over but the log
                self._loop.call_soon_threadsafe(self._in_flight.stop)
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close the listening socket and idle connections, and wait for what was admitted."""
        giving_up = self._loop.call_later(max(0.0, self._drain_seconds - _MARGIN), self._give_up)
        await asyncio.gather(super().shutdown(sockets), self.on_stop(self._drain_seconds))
        giving_up.cancel()

    def _give_up(self) -> None:
        logger.warning("drain time is over", extra={"fields": {"seconds": self._drain_seconds}})
        self._in_flight.stop()


@contextlib.contextmanager
def in_thread(app: FastAPI, settings: Settings, listener: socket.socket) -> Iterator[None]:
    """Serve an application on a thread and event loop of its own while the block runs."""
    server = Server(app, settings)
    listener.listen(server.config.backlog)  # who connects while the thread starts waits, and is not refused
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([listener])), name="ops", daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.should_exit = True
        thread.join(2.0)


def bind(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """Bind a socket that does not listen yet: who connects before the models are loaded is refused.

    Args:
        shared: whether others may be bound to the address too.

    Raises:
        ConfigurationError: the address is in use, or none of this machine's.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(address)
    except OSError as error:
        raise ConfigurationError(f"cannot listen on {host} port {port}: {error.strerror}") from error
    return listener


def address(listener: socket.socket) -> str:
    """Get the URL of a bound socket."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
