"""Signals, bound sockets, and the servers' stop, as far as one process can show them."""

import asyncio
import contextlib
import signal
import socket
import threading
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from service.app import create_app, create_ops_app
from service.errors import ConfigurationError
from service.server import STOP_SIGNALS, MainServer, address, bind, in_thread
from service.settings import Settings
from tests.engines import FakeEngine, load_with, until

GOOD = {"text": "a wonderful film"}


class Service:
    """An application behind its server, on a free port.

    Attributes:
        engine: the sentiment model's.
        done: the server's task.
    """

    def __init__(self, settings: Settings) -> None:
        self.engine = FakeEngine()
        self.settings = settings
        self.app: FastAPI = create_app(settings, load=load_with(sentiment=self.engine))

    @contextlib.asynccontextmanager
    async def run(self) -> AsyncIterator[httpx.AsyncClient]:
        async with self.app.router.lifespan_context(self.app):
            listener = bind("127.0.0.1", 0)
            self.url = address(listener)
            self.server = MainServer(self.app, self.settings, self.app.state.routes.predictor)
            self.done = asyncio.create_task(self.server.serve([listener]))
            await until(lambda: self.server.started)
            async with httpx.AsyncClient(base_url=self.url, timeout=20, verify=False) as client:
                yield client
            self.engine.gate.set()
            self.server.should_exit = True
            await self.done


@pytest.fixture
def service(settings: Settings) -> Service:
    return Service(settings.model_copy(update={"drain_seconds": 5.0, "head_seconds": 0.5}))


@pytest.fixture(autouse=True)
def _handlers_of_before() -> Any:
    """The server's signal handlers do not outlive a test."""
    before = {each: signal.getsignal(each) for each in STOP_SIGNALS}
    yield
    for each, handler in before.items():
        signal.signal(each, handler)


async def _connect_for_ever(host: str, port: int) -> None:
    while True:
        _, writer = await asyncio.open_connection(host, port)
        writer.close()
        await asyncio.sleep(0.02)


async def test_a_first_signal_finishes_what_was_admitted(service: Service) -> None:
    async with service.run() as client:
        service.engine.gate.clear()
        admitted = asyncio.create_task(client.post("/classify", json=GOOD))
        await until(service.engine.entered.is_set)
        service.server.handle_exit(15, None)
        assert not service.app.state.routes.predictor.ready  # from this moment
        host, port = service.url.removeprefix("http://").split(":")
        with pytest.raises(ConnectionRefusedError):
            await asyncio.wait_for(_connect_for_ever(host, int(port)), 5)
        service.engine.gate.set()
        assert (await admitted).status_code == 200
        await asyncio.wait_for(service.done, 5)


async def test_a_second_one_ends_it_now(service: Service) -> None:
    async with service.run() as client:
        service.engine.gate.clear()
        admitted = asyncio.create_task(client.post("/classify", json=GOOD))
        await until(service.engine.entered.is_set)
        service.server.handle_exit(2, None)
        service.server.handle_exit(2, None)
        answer = await asyncio.wait_for(admitted, 3)
        assert (answer.status_code, answer.json()["type"]) == (503, "urn:bertie:problem:not-ready")


async def test_one_after_the_end_is_no_error(service: Service) -> None:
    """The log may take another second to be written."""
    async with service.run():
        pass
    loop = asyncio.new_event_loop()
    loop.close()
    service.server._loop = loop
    service.server.handle_exit(15, None)


async def test_the_end_of_the_drain_is_a_503_and_not_a_cut(settings: Settings) -> None:
    service = Service(settings.model_copy(update={"drain_seconds": 0.8}))
    async with service.run() as client:
        service.engine.gate.clear()
        admitted = asyncio.create_task(client.post("/classify", json=GOOD))
        await until(service.engine.entered.is_set)
        service.server.handle_exit(15, None)
        assert (await asyncio.wait_for(admitted, 3)).status_code == 503


async def test_slow_heads_and_silent_connections_end_also_during_the_stop(service: Service) -> None:
    async with service.run() as client:
        service.engine.gate.clear()
        admitted = asyncio.create_task(client.post("/classify", json=GOOD))
        await until(service.engine.entered.is_set)
        host, port = service.url.removeprefix("http://").split(":")
        slow = []
        for sent in (b"", b"GET / HT"):
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(sent)
            slow.append((reader, writer))
        told = [await asyncio.wait_for(reader.read(), 5) for reader, _ in slow]
        assert told[0] == b""
        assert told[1].startswith(b"HTTP/1.1 408 ")
        for _, writer in slow:
            writer.close()
        service.engine.gate.set()
        assert (await admitted).status_code == 200


async def test_the_ops_server_answers_while_the_main_loop_is_busy(settings: Settings) -> None:
    app = create_app(settings)
    async with app.router.lifespan_context(app):
        listener = bind("127.0.0.1", 0)
        url = address(listener)
        with in_thread(create_ops_app(app, settings), settings, listener):
            statuses = []

            def probe() -> None:
                with httpx.Client(base_url=url, verify=False, timeout=10) as client:
                    for path in ("/health/live", "/health/ready", "/metrics", "/qa"):
                        statuses.append(client.get(path).status_code)

            thread = threading.Thread(target=probe)
            thread.start()
            thread.join(10)  # this thread's loop does nothing meanwhile
            assert statuses == [200, 200, 200, 404]
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{url}/health/live", verify=False)


class TestBind:
    def test_does_not_listen_yet(self) -> None:
        with bind("127.0.0.1", 0) as listener, socket.socket() as client, pytest.raises(ConnectionRefusedError):
            client.connect(listener.getsockname())

    def test_an_address_of_no_interface_is_one_line(self) -> None:
        with pytest.raises(ConfigurationError, match=r"cannot listen on 203\.0\.113\.1 port 1"):
            bind("203.0.113.1", 1)

    def test_ipv6_has_brackets(self) -> None:
        if not socket.has_ipv6:
            pytest.skip("no IPv6")
        try:
            listener = bind("::1", 0)
        except ConfigurationError:
            pytest.skip("no IPv6 here")
        with listener:
            assert address(listener) == f"http://[::1]:{listener.getsockname()[1]}"
