"""The attackers themselves, against a small server that does what is wanted: no attack fails by its own fault."""

import asyncio
import contextlib
import itertools
import threading
import time
from collections.abc import Awaitable, Callable, Iterator

import pytest

from bench.chaos import crowd, fairness, heads, raw
from bench.chaos.apart import Apart
from bench.chaos.raw import Address, Asker, Peer

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.contextmanager
def server(handle: Handler) -> Iterator[Address]:
    """An asyncio server in a thread of its own."""
    loop = asyncio.new_event_loop()
    started = loop.create_future()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def begin() -> None:
        listener = await asyncio.start_server(handle, "127.0.0.1", 0, limit=65536)
        started.set_result(listener)

    asyncio.run_coroutine_threadsafe(begin(), loop).result(5)
    listener = started.result()
    try:
        yield listener.sockets[0].getsockname()
    finally:
        loop.call_soon_threadsafe(listener.close)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def answer(status: int, body: bytes = b"{}", headers: str = "") -> bytes:
    return f"HTTP/1.1 {status} Words\r\nContent-Length: {len(body)}\r\n{headers}\r\n".encode() + body


async def careful(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers 431 to a head of more than 64 KB, and closes what is slow: a head of 0.3 s, a body of 0.6 s."""
    status = 0
    try:
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 0.3)
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0] or 0)
        await asyncio.wait_for(reader.readexactly(length), 0.6)
        status = 200
    except asyncio.LimitOverrunError:
        status = 431
    except TimeoutError:
        status = 408
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    if status:
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n" + answer(status))
    writer.close()


@pytest.mark.parametrize("kind", list(heads.HEADS))
def test_who_pours_notices_that_it_is_cut_off(kind: str) -> None:
    with server(careful) as address, Peer(address) as peer:
        sent, reply = peer.pour(heads.HEADS[kind](60_000_000), seconds=3)
        assert not reply.open
        assert reply.status in (431, 0)  # a RST may overtake the answer
        assert sent < 16e6


def test_the_crowd_sees_how_and_when_it_is_closed() -> None:
    with server(careful) as address:
        found = crowd.slow(address, heads=5, bodies=3, silent=2, size=10_000, seconds=4)
    assert {name: (each.opened, each.closed) for name, each in found.items()} == {
        "slow heads": (5, 5),
        "half bodies": (3, 3),
        "silent": (2, 2),
    }
    assert found["half bodies"].statuses == {100: 3}  # the first that it was told
    assert 0.2 < found["slow heads"].last < 2
    assert 0.5 < found["half bodies"].last < 2


def test_the_crowd_gives_up_where_nobody_closes() -> None:
    async def patient(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    with server(patient) as address:
        found = crowd.slow(address, heads=2, bodies=0, silent=2, size=100, seconds=0.5)
    assert [(each.opened, each.closed) for each in found.values()] == [(2, 0), (0, 0), (2, 0)]


def test_replies_skip_what_is_interim_and_read_chunks() -> None:
    async def chunks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n1\r\n!\r\n0\r\n\r\n")

    with server(careful) as address:
        reply = raw.get(address, "/")
        assert (reply.status, reply.body, reply.json()) == (200, b"{}", {})
    with server(chunks) as address:
        assert raw.get(address, "/").body == b"hello!"


def test_silence_is_no_close() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    with server(silent) as address:
        reply = raw.get(address, "/", timeout=0.3)
        assert reply.open
        assert reply.status == 0
        with Peer(address) as peer:
            assert peer.closed_within(0.2) is None


def test_who_is_polite_counts_its_tries_from_an_address_of_its_own() -> None:
    count, sources = itertools.count(), set()

    async def busy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        sources.add(writer.get_extra_info("peername")[0])
        writer.write(answer(200) if next(count) == 2 else answer(429, headers="Retry-After: 0\r\n"))
        writer.close()

    with server(busy) as address:
        admitted = fairness.obey(address, raw.request("/"), source="127.0.0.7", seconds=5)
        assert (admitted.tries, admitted.statuses, admitted.admitted) == (3, (429, 429, 200), True)
        assert sources == {"127.0.0.7"}
        assert not fairness.obey(address, raw.request("/"), source="127.0.0.7", seconds=0.2).admitted


def test_the_asker_counts_what_is_never_answered() -> None:
    with server(careful) as address, Asker(address, raw.request("/"), every=0.01) as asked:
        threading.Event().wait(0.2)
    assert asked.good == len(asked.statuses) > 3
    with Asker(address, raw.request("/"), every=0.01) as asked:
        threading.Event().wait(0.1)
    assert asked.good == 0
    assert asked.statuses


def test_what_runs_apart_returns_or_is_ended() -> None:
    with Apart(sum, (1, 2, 3)) as call:
        assert call.result(20) == 6
    with Apart(time.sleep, 60) as call, pytest.raises(TimeoutError):
        call.result(0.1)


def test_a_metric_is_summed_over_its_labels() -> None:
    text = '# HELP a_total\na_total{m="x",r="1"} 2.0\na_total{m="x",r="2"} 3.0\na_total{m="y",r="1"} 5.0\nb 1.5\n'
    assert raw.metric(text, "a_total") == 10
    assert raw.metric(text, "a_total", m="x") == 5
    assert raw.metric(text, "b") == 1.5
    assert raw.metric(text, "a") is None
