"""Connections taken from a socket that other processes listen on too, so that each holds as many as the others.

One socket for all: a process that is killed takes no connection with it but those that it had accepted. The system
wakes all of them for each, and the quickest would take nearly all (docs/lab.md), so one that holds more than another
lets that go first.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

PATIENCE = 0.002
"""Seconds that a process with more connections than another leaves to that one."""
PAUSE = 1.0
"""Seconds before another try where no connection can be taken: there are no descriptors left."""


class Acceptor:
    """Takes the connections of a listening socket. Made on the event loop that will serve them; stands where an
    `asyncio.Server` would."""

    def __init__(
        self,
        listener: socket.socket,
        protocol: Callable[[], asyncio.Protocol],
        *,
        backlog: int,
        is_ahead: Callable[[], bool],
    ) -> None:
        """
        Args:
            protocol: makes one for each connection.
            is_ahead: whether this process holds more connections than another.
        """
        listener.setblocking(False)
        listener.listen(backlog)
        self._listener, self._protocol, self._is_ahead = listener, protocol, is_ahead
        self._loop = asyncio.get_running_loop()
        self._file = listener.fileno()
        self._accepted: set[asyncio.Task[object]] = set()
        self._pause: asyncio.TimerHandle | None = None
        self._loop.add_reader(self._file, self._look)

    def close(self) -> None:
        """Take no more."""
        if self._pause is not None:
            self._pause.cancel()
        self._loop.remove_reader(self._file)

    async def wait_closed(self) -> None:
        """Wait for what was taken to have its protocol."""
        if self._accepted:
            await asyncio.wait(self._accepted)

    def _look(self) -> None:
        if self._is_ahead():
            self._later(PATIENCE, self._again)
        else:
            self._take()

    def _again(self) -> None:
        """Take one, if nobody else has."""
        self._loop.add_reader(self._file, self._look)
        self._take()

    def _take(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return  # somebody else has it, or the client is gone
        except OSError:
            self._later(PAUSE, lambda: self._loop.add_reader(self._file, self._look))
            return
        connection.setblocking(False)
        task = self._loop.create_task(self._begin(connection))
        self._accepted.add(task)
        task.add_done_callback(self._accepted.discard)

    async def _begin(self, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._protocol, connection)
        except OSError:  # the client is gone
            connection.close()

    def _later(self, seconds: float, what: Callable[[], None]) -> None:
        self._loop.remove_reader(self._file)
        self._pause = self._loop.call_later(seconds, what)
