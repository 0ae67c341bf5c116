"""Connections of a socket that others listen on too."""

import asyncio
import errno
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from service.processes import acceptor as module
from service.processes.acceptor import Acceptor
from tests.engines import until


class Hello(asyncio.Protocol):
    """Says hello to whoever connects."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.write(b"hello")  # type: ignore[attr-defined]
        transport.close()


class Listener(socket.socket):
    """A socket whose `accept` fails while there are errors left."""

    def __init__(self) -> None:
        super().__init__()
        self.errors: list[OSError] = []
        self.bind(("127.0.0.1", 0))

    def accept(self) -> Any:
        if self.errors:
            raise self.errors.pop()
        return super().accept()


class Other:
    """What another process holds."""

    def __init__(self) -> None:
        self.ahead = False
        self.listener = Listener()

    @asynccontextmanager
    async def accepting(self) -> AsyncIterator[Acceptor]:
        acceptor = Acceptor(self.listener, Hello, backlog=64, is_ahead=lambda: self.ahead)
        try:
            yield acceptor
        finally:
            acceptor.close()
            await acceptor.wait_closed()
            self.listener.close()

    async def hello(self) -> bytes:
        reader, writer = await asyncio.open_connection(*self.listener.getsockname())
        said = await asyncio.wait_for(reader.read(), 5)
        writer.close()
        return said


async def test_each_connection_has_a_protocol() -> None:
    other = Other()
    async with other.accepting():
        assert await asyncio.gather(*(other.hello() for _ in range(20))) == [b"hello"] * 20


async def test_who_is_ahead_lets_another_go_first_and_takes_what_that_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.2)
    other = Other()
    other.ahead = True
    async with other.accepting():
        began = asyncio.get_running_loop().time()
        assert await other.hello() == b"hello"
        assert asyncio.get_running_loop().time() - began >= 0.2
        for waiting in await asyncio.gather(*(_connect(other) for _ in range(3))):
            waiting.close()
        await asyncio.sleep(0.05)
        taken, _ = socket.socket.accept(other.listener)  # by the other one meanwhile
        taken.close()
        assert await other.hello() == b"hello"


async def _connect(other: Other) -> asyncio.StreamWriter:
    return (await asyncio.open_connection(*other.listener.getsockname()))[1]


async def test_what_another_took_is_no_error() -> None:
    other = Other()
    async with other.accepting():
        other.listener.errors = [BlockingIOError(), ConnectionAbortedError()]
        assert await other.hello() == b"hello"


async def test_no_descriptors_left_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSE", 0.2)
    other = Other()
    async with other.accepting():
        other.listener.errors = [OSError(errno.EMFILE, "too many")]
        began = asyncio.get_running_loop().time()
        assert await other.hello() == b"hello"
        assert asyncio.get_running_loop().time() - began >= 0.2


async def test_closed_it_takes_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.2)
    other = Other()
    other.ahead = True
    async with other.accepting() as acceptor:
        writer = await _connect(other)
        await asyncio.sleep(0.01)
        acceptor.close()
        await asyncio.sleep(0.3)
        taken, _ = other.listener.accept()  # it is still there
        taken.close()
        writer.close()


async def test_a_client_that_is_gone_harms_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    other = Other()
    loop = asyncio.get_running_loop()
    connect, gone = loop.connect_accepted_socket, [True]

    async def fail_once(*arguments: Any) -> Any:
        if gone:
            gone.pop()
            raise ConnectionResetError
        return await connect(*arguments)

    monkeypatch.setattr(loop, "connect_accepted_socket", fail_once)
    async with other.accepting():
        with pytest.raises((ConnectionError, AssertionError)):
            assert await other.hello()
        await until(lambda: not gone)
        assert await other.hello() == b"hello"
