"""Requests that are refused before there is a task for them, through a connection whose transport only records."""

import asyncio
import gc
import itertools
import weakref
from typing import Any

import pytest

from service.http.context import WAIT
from service.http.protocol import LINGER_SECONDS, MOST_REFUSED, Pacer
from tests.connections import CHUNKED, GET, POST, Connection
from tests.engines import until


class TestRefusals:
    """What is refused before there is a task for it."""

    REFUSED = b"HTTP/1.1 429 Too Many Requests\r\ncontent-length: 0\r\n\r\n"

    def connect(self) -> Connection:
        """A connection whose POSTs are refused."""
        return Connection(refusal=lambda scope, keep_alive: self.REFUSED if scope["method"] == "POST" else None)

    async def test_the_body_is_thrown_away_and_the_connection_goes_on(self) -> None:
        connection = self.connect()
        assert await connection.send(POST) == self.REFUSED  # at once
        await connection.send(b"hel", b"lo", GET)
        assert connection.answers == 1
        assert connection.bodies == [b""]
        connection.expire(LINGER_SECONDS + 1)
        assert not connection.transport.closed

    async def test_but_not_for_ever(self) -> None:
        connection = self.connect()
        await connection.send(POST, b"hel")
        connection.expire(LINGER_SECONDS + 1)
        assert connection.transport.ended
        connection.expire(2 * LINGER_SECONDS + 2)
        assert connection.transport.aborted

    async def test_a_client_that_wants_no_more_is_closed_after_its_body(self) -> None:
        connection = self.connect()
        await connection.send(POST[:-2] + b"Connection: close\r\n\r\n")
        assert not connection.transport.closed
        await connection.send(b"hello")
        assert connection.transport.closed

    async def test_a_body_that_breaks_off_gets_no_second_answer(self) -> None:
        connection = self.connect()
        assert await connection.send(CHUNKED + b"5\r\nhello\r\n", b"not a length\r\n") == self.REFUSED
        assert connection.transport.ended

    async def test_one_that_is_to_wait_comes_later_and_its_body_is_not_read_meanwhile(self) -> None:
        def refusal(scope: Any, keep_alive: bool) -> bytes:
            scope[WAIT] = 0.1
            return self.REFUSED

        connection = Connection(refusal=refusal)
        assert await connection.send(POST, b"hel") == b""
        assert connection.transport.paused
        await until(lambda: connection.transport.written == self.REFUSED)
        assert not connection.transport.paused
        connection.protocol.refusal = lambda scope, keep_alive: None  # type: ignore[method-assign]
        await connection.send(b"lo", POST + b"hello")
        await until(lambda: connection.bodies == [b"hello"])

    @pytest.mark.parametrize("end", ["lost", "broken", "closing"])
    async def test_one_that_is_to_wait_may_never_be_told(self, end: str) -> None:
        def refusal(scope: Any, keep_alive: bool) -> bytes:
            scope[WAIT] = 0.05
            return self.REFUSED

        connection = Connection(refusal=refusal)
        await connection.send(CHUNKED)
        if end == "lost":
            connection.transport.closed = True
            connection.protocol.connection_lost(None)
        elif end == "broken":
            await connection.send(b"no length\r\n")
        else:
            connection.transport.closed = True
        await asyncio.sleep(0.1)
        assert self.REFUSED not in connection.transport.written
        assert connection.transport.written.count(b"HTTP/1.1 400") == (end == "broken")

    async def test_connections_take_turns(self) -> None:
        """A flood's connections are answered a few in a turn of the loop, so that it gets to others between them."""
        first = self.connect()
        others = [self.connect() for _ in range(3 * MOST_REFUSED)]
        turns = []
        for each in others:
            each.protocol.pacer = first.protocol.pacer
            each.protocol.data_received(POST + b"hello")
        while (answered := sum(bool(each.transport.written) for each in others)) < len(others):
            turns.append(answered)
            await asyncio.sleep(0)
        assert turns[0] == MOST_REFUSED
        assert all(later - earlier <= MOST_REFUSED for earlier, later in itertools.pairwise(turns))

    @pytest.mark.parametrize("first", [b"", GET], ids=["at once", "behind another"])
    async def test_very_many_on_one_connection_take_turns_with_others(self, first: bytes) -> None:
        connection = self.connect()
        connection.protocol.data_received(first + (POST + b"hello") * 1000)
        at_once = connection.transport.written.count(self.REFUSED)
        assert at_once <= MOST_REFUSED
        await until(lambda: connection.protocol.cycle.response_complete and not connection.protocol.pipeline)
        assert connection.transport.written.count(self.REFUSED) + connection.answers == 1000 + bool(first)


@pytest.mark.parametrize("sent", [b"", b"GET / HT", GET, POST + b"hello", b"\x00"])
@pytest.mark.parametrize("refused", [False, True])
async def test_a_closed_connection_leaves_nothing(sent: bytes, refused: bool) -> None:
    """No circle of references that would wait for the garbage collector: a flood of connections would pile them up."""
    refusal = TestRefusals.REFUSED if refused else None
    connection = Connection(refusal=lambda scope, keep_alive: refusal)
    await connection.send(sent)
    left = weakref.ref(connection.protocol)
    gc.disable()
    try:
        connection.protocol.connection_lost(None)
        await connection.settle()
        connection.state.connections.clear()
        del connection.protocol
        assert left() is None
    finally:
        gc.enable()


async def test_turns_keep_the_order_and_begin_anew() -> None:
    pacer, done, loop = Pacer(2), [], asyncio.get_running_loop()
    for i in range(5):
        pacer.take(loop, lambda i=i: done.append(i))  # type: ignore[misc]
    assert done == [0, 1]
    await asyncio.sleep(0)
    pacer.take(loop, lambda: done.append(5))
    assert done == [0, 1, 2, 3]
    await until(lambda: len(done) == 6)
    assert done == sorted(done)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    pacer.take(loop, lambda: done.append(6))
    assert done[-1] == 6  # at once again
