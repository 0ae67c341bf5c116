"""The light client: what it sends, what it reads, and how it makes load."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from bench import client
from bench.errors import ClientError

Handle = Callable[[bytes], Awaitable[bytes]]


@asynccontextmanager
async def answering(handle: Handle) -> AsyncIterator[str]:
    """A server that reads a request with its body and writes what `handle` returns; nothing hangs up."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next((int(x.split(b":")[1]) for x in head.split(b"\r\n") if b"Content-Length" in x), 0)
                answer = await handle(head + await reader.readexactly(length))
                if not answer:
                    break
                writer.write(answer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/route"
    finally:
        server.close()


def respond(status: str, body: bytes, *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"content-length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


async def test_reads_status_headers_and_body() -> None:
    async def handle(request: bytes) -> bytes:
        assert request.startswith(b"POST /route HTTP/1.1\r\nHost: 127.0.0.1:")
        assert request.endswith(b'\r\n\r\n{"a":1}')
        return respond("429 Too Many Requests", b'{"detail": "full"}', "Retry-After: 7")

    async with answering(handle) as url:
        answers = await client.closed(url, [client.request(url, b'{"a":1}')] * 3, connections=1)
    assert [(a.status, a.retry_after, a.ok, a.json()) for a in answers] == [(429, 7.0, False, {"detail": "full"})] * 3


async def test_a_lost_connection_is_status_0_and_the_next_request_connects_again() -> None:
    turns = itertools.count()

    async def handle(_: bytes) -> bytes:
        return b"" if next(turns) == 0 else respond("200 OK", b"{}")

    async with answering(handle) as url:
        answers = await client.closed(url, [client.request(url, b"{}")] * 2, connections=1)
    assert [answer.status for answer in answers] == [0, 200]


async def test_chunks_are_refused_and_not_misread() -> None:
    async def handle(_: bytes) -> bytes:
        return b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"

    async with answering(handle) as url:
        with pytest.raises(ClientError, match="chunks"):
            await client.closed(url, [client.request(url, b"{}")], connections=1)


async def test_closed_keeps_so_many_in_flight() -> None:
    now = most = 0

    async def handle(_: bytes) -> bytes:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.01)
        now -= 1
        return respond("200 OK", b"{}")

    async with answering(handle) as url:
        answers = await client.closed(url, [client.request(url, b"{}")] * 40, connections=5)
    assert most == 5
    assert len(answers) == 40
    assert all(answer.seconds >= 0.01 for answer in answers)


async def test_opened_does_not_wait_for_answers() -> None:
    """An open loop: a server that takes its time gets as many requests as one that does not."""

    async def handle(_: bytes) -> bytes:
        await asyncio.sleep(0.3)
        return respond("200 OK", b"{}")

    async with answering(handle) as url:
        began = time.perf_counter()
        answers = await client.opened(url, itertools.repeat(client.request(url, b"{}")), rate=50, seconds=0.4)
    sent = [answer.sent - began for answer in answers]
    assert 10 <= len(answers) <= 20  # 20; fewer only where the machine stalls
    assert max(sent) < 0.5
    assert all(answer.ok for answer in answers)


async def test_opened_sends_nothing_while_each_connection_waits() -> None:
    """Two connections and answers that take 0.1 s: some 20 a second, however many are asked for."""
    now = most = 0

    async def handle(_: bytes) -> bytes:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.1)
        now -= 1
        return respond("200 OK", b"{}")

    async with answering(handle) as url:
        requests = itertools.repeat(client.request(url, b"{}"))
        answers = await client.opened(url, requests, rate=1000, seconds=0.45, connections=2)
    assert most == 2
    assert 4 <= len(answers) <= 10
    assert all(answer.ok for answer in answers)


async def test_an_answer_may_come_in_pieces() -> None:
    whole = respond("200 OK", b'{"a": 1}')

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for byte in whole:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0.001)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    async with server:
        (answer,) = await client.closed(url, [client.request(url)], connections=1)
    assert answer.json() == {"a": 1}


async def test_each_answer_can_be_looked_at_and_let_go() -> None:
    async def handle(_: bytes) -> bytes:
        return respond("200 OK", b"{}")

    seen: list[client.Answer] = []
    async with answering(handle) as url:
        requests = [client.request(url, b"{}")] * 7
        assert await client.closed(url, requests, connections=2, each=seen.append) == []
    assert len(seen) == 7
