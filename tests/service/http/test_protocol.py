"""A connection's bounds, and the order of its answers, through a transport that only records."""

import pytest

from service.http import protocol
from service.http.context import BEGAN
from service.http.protocol import FLUSH_SECONDS, LINGER_SECONDS, MOST_PIPELINED
from tests.connections import CHUNKED, GET, LIMITS, POST, Connection
from tests.engines import until


class TestHead:
    @pytest.mark.parametrize("size", [1, 7, 10_000])
    async def test_a_request_in_pieces_of_any_size(self, size: int) -> None:
        connection = Connection()
        request = b"POST /" + b"x" * 200 + POST[7:] + b"hello"
        answer = await connection.send(*(request[i : i + size] for i in range(0, len(request), size)))
        assert answer.startswith(b"HTTP/1.1 200 OK")
        assert connection.bodies == [b"hello"]
        assert connection.scopes[0][BEGAN] > 0

    @pytest.mark.parametrize("piece", [500, 100_000])
    @pytest.mark.parametrize(
        "head",
        [
            b"GET /" + b"a" * 100_000,
            b"GET / HTTP/1.1\r\nHost: " + b"a" * 100_000,
            b"GET / HTTP/1.1\r\nHost: a\r\n" + b"b" * 100_000,
            b"GET / HTTP/1.1\r\nHost: a\r\n" + b"b: c\r\n" * 50_000,
            b"\r\n" * 50_000,
            CHUNKED + b"5\r\nhello\r\n0\r\nA: " + b"b" * 300_000,
            CHUNKED + b"5\r\nhello\r\n0\r\n" + b"A: b\r\n" * 50_000,
            CHUNKED + b"5;" + b"e" * 300_000,
        ],
        ids=["url", "value", "name", "lines", "empty lines", "trailer", "trailers", "chunk extension"],
    )
    async def test_an_endless_one_is_refused(self, head: bytes, piece: int) -> None:
        connection = Connection()
        answer = await connection.send(*(head[i : i + piece] for i in range(0, len(head), piece)))
        assert answer.startswith(b"HTTP/1.1 431 ")
        assert answer.count(b"HTTP/1.1") == 1
        assert b"connection: close" in answer
        assert connection.transport.ended
        assert not connection.transport.closed  # it is read on, for the client to see the answer
        assert connection.bodies == []
        connection.expire(LINGER_SECONDS + 1)
        assert connection.transport.aborted

    async def test_lines_and_bytes_up_to_the_limits_are_taken(self) -> None:
        connection = Connection()
        await connection.send(b"GET / HTTP/1.1\r\nHost: a\r\n" + b"b: c\r\n" * 8 + b"\r\n")
        await connection.send(b"GET / HTTP/1.1\r\nHost: a\r\nb: " + b"c" * 1900 + b"\r\n\r\n")
        assert connection.answers == 2
        assert b" 431 " in await connection.send(b"GET / HTTP/1.1\r\nHost: a\r\n" + b"b: c\r\n" * 9 + b"\r\n")

    @pytest.mark.parametrize(
        ("head", "reason"),
        [
            (b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", b"one Host header, not 2"),
            (b"GET / HTTP/1.1\r\nHost: a\r\nhOST: b\r\n\r\n", b"one Host header, not 2"),
            (b"GET / HTTP/1.1\r\n\r\n", b"one Host header, not none"),
            (b"GET /\r\n\r\n", b"HTTP/0.9 is not spoken here"),
            (b"GET / HTTP/0.9\r\n\r\n", b"HTTP/0.9 is not spoken here"),
            (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", b"HTTP/2.0 is not spoken here"),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"no HTTP/1.1 request"),
            (b"CONNECT b:80 HTTP/1.1\r\nHost: b\r\n\r\n", b"this is no proxy"),
            (b"\x16\x03\x01\x02\x00\x01", b"no HTTP/1.1 request"),
            (b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", b"no HTTP/1.1 request"),
            (b"GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n", b"no HTTP/1.1 request"),
            (POST[:-2] + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b"no HTTP/1.1 request"),
            (POST[:-2] + b"Content-Length: 6\r\n\r\nhello!", b"no HTTP/1.1 request"),
            (CHUNKED[:-4] + b", identity\r\n\r\n0\r\n\r\n", b"no HTTP/1.1 request"),
        ],
    )
    async def test_what_is_refused(self, head: bytes, reason: bytes) -> None:
        connection = Connection()
        answer = await connection.send(head + GET)
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert reason in answer
        assert answer.count(b"HTTP/1.1 ") == 1 + answer.count(b"no HTTP/1.1 ")
        assert connection.scopes == []
        assert await connection.send(GET) == answer  # nothing else is answered

    async def test_http_1_0_needs_no_host_and_is_closed(self) -> None:
        connection = Connection()
        assert b" 200 " in await connection.send(b"GET / HTTP/1.0\r\n\r\n")
        assert connection.transport.closed

    async def test_what_follows_a_body_is_no_header(self) -> None:
        connection = Connection()
        connection.go.clear()
        await connection.send(CHUNKED + b"5\r\nhello\r\n0\r\nAuthorization: Bearer x\r\n\r\n")
        assert connection.bodies == [b"hello"]
        assert b"authorization" not in dict(connection.scopes[0]["headers"])


class TestOffers:
    HEAD = (
        b"POST /a?b=c HTTP/1.1\r\nHost: b\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
        b"HTTP2-Settings: AAMAAABk\r\nX-Mine: d\r\n"
    )

    @pytest.mark.parametrize("size", [1, 50, 10_000])
    @pytest.mark.parametrize(
        "body", [b"Content-Length: 5\r\n\r\nhello", b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"]
    )
    async def test_an_offer_of_another_protocol_is_ignored(self, body: bytes, size: int) -> None:
        connection = Connection()
        request = self.HEAD + body
        await connection.send(*(request[i : i + size] for i in range(0, len(request), size)))
        assert connection.bodies == [b"hello"]
        (scope,) = connection.scopes
        assert (scope["method"], scope["path"], scope["query_string"]) == ("POST", "/a", b"b=c")
        assert dict(scope["headers"])[b"x-mine"] == b"d"
        await connection.send(GET)  # and the connection goes on
        assert connection.answers == 2
        assert not connection.transport.closed

    @pytest.mark.parametrize("offer", [b"websocket", b"TLS/1.0"])
    async def test_any_offer(self, offer: bytes) -> None:
        connection = Connection()
        await connection.send(
            b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: " + offer + b"\r\n\r\n" + GET
        )
        assert connection.answers == 2

    async def test_one_that_wants_the_connection_closed_gets_that(self) -> None:
        connection = Connection()
        await connection.send(self.HEAD.replace(b"Upgrade,", b"close, Upgrade,") + b"\r\n")
        assert connection.answers == 1
        assert connection.transport.closed


class TestManyRequests:
    async def test_a_connection_is_kept_for_the_next(self) -> None:
        connection = Connection()
        for n in range(1, 4):
            await connection.send(GET)
            assert connection.answers == n
        assert not connection.transport.closed
        connection.expire(100)  # the time between requests is uvicorn's to bound
        assert not connection.transport.closed

    async def test_pipelined_ones_are_answered_in_order(self) -> None:
        connection = Connection()
        connection.go.clear()
        await connection.send(POST + b"first" + POST + b"other" + GET)
        assert connection.bodies == [b"first"]
        connection.go.set()
        await connection.settle()
        await until(lambda: connection.answers == 3)
        assert connection.bodies == [b"first", b"other", b""]

    async def test_so_many_wait_and_no_more(self) -> None:
        connection = Connection()
        connection.go.clear()
        await connection.send(GET * (MOST_PIPELINED + 10))
        connection.go.set()
        await until(lambda: connection.transport.closed)
        assert connection.answers == len(connection.scopes) == MOST_PIPELINED + 1

    async def test_the_second_may_take_its_time_for_its_body(self) -> None:
        connection = Connection()
        connection.go.clear()
        await connection.send(GET + POST + b"he")
        connection.go.set()
        await until(lambda: connection.answers == 1)
        connection.expire(LINGER_SECONDS + 1)
        await connection.send(b"llo")
        assert connection.answers == 2

    async def test_what_follows_and_is_no_request_costs_the_earlier_one_nothing(self) -> None:
        connection = Connection()
        connection.go.clear()
        await connection.send(GET + b"\x00\x01\x02")
        connection.expire(LINGER_SECONDS + 1)
        assert not connection.transport.closed
        connection.go.set()
        await connection.settle()
        assert connection.transport.written.count(b"HTTP/1.1 ") == connection.answers == 1
        assert connection.transport.closed

    async def test_an_empty_line_after_a_request_costs_it_nothing(self) -> None:
        connection = Connection()
        connection.go.clear()
        await connection.send(POST + b"hello", b"\r\n")
        connection.expire(LIMITS.seconds + 1)
        assert not connection.transport.closed
        connection.go.set()
        await connection.settle()
        assert connection.answers == 1


class TestBodies:
    @pytest.mark.parametrize("also", [b"", b"Connection: close\r\n", b"Expect: 100-continue\r\n"])
    async def test_an_answer_before_the_body_ends_the_connection_and_is_not_lost(self, also: bytes) -> None:
        """Closed at once, it would be reset; kept, nobody could tell whether what comes next is the body."""
        connection = Connection()
        connection.reads = False
        answer = await connection.send(POST[:-2] + also + b"\r\n")
        assert b" 200 " in answer
        assert connection.transport.ended
        assert not connection.transport.closed
        assert await connection.send(b"hello", GET) == answer
        assert connection.protocol.eof_received() is None  # the transport closes by itself
        connection.expire(LINGER_SECONDS - 1)
        assert not connection.transport.closed
        connection.expire(LINGER_SECONDS + 1)
        assert connection.transport.aborted

    async def test_one_that_came_unread_costs_nothing(self) -> None:
        connection = Connection()
        connection.reads = False
        connection.go.clear()
        await connection.send(POST, b"hello")
        connection.go.set()
        await connection.settle()
        await connection.send(GET)
        assert connection.answers == 2

    async def test_one_that_breaks_off_is_refused_and_its_request_ends(self) -> None:
        connection = Connection()
        answer = await connection.send(CHUNKED + b"5\r\nhello\r\n", b"not a length\r\n")
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert connection.gone == 1
        assert connection.transport.ended
        connection.expire(LINGER_SECONDS + 1)
        assert connection.transport.aborted

    async def test_one_that_breaks_off_after_its_answer_gets_no_other(self) -> None:
        connection = Connection()
        connection.reads = False
        await connection.send(CHUNKED + b"5\r\nhello\r\n", b"not a length\r\n")
        assert connection.transport.written.count(b"HTTP/1.1 ") == connection.answers == 1
        assert connection.transport.ended


class TestTime:
    async def test_a_silent_connection_is_closed(self) -> None:
        connection = Connection()
        connection.expire(LIMITS.seconds - 1)
        assert not connection.transport.closed
        connection.expire(LIMITS.seconds + 1)
        assert connection.transport.closed
        assert connection.transport.written == b""

    @pytest.mark.parametrize("before", [b"", GET])
    async def test_a_slow_head_is_told_so(self, before: bytes) -> None:
        connection = Connection()
        await connection.send(before, b"GET / HT")
        connection.transport.written = b""
        connection.expire(LIMITS.seconds + 1)
        assert connection.transport.written.startswith(b"HTTP/1.1 408 ")
        assert await connection.send(b"TP/1.1\r\n") == connection.transport.written
        connection.expire(LIMITS.seconds + LINGER_SECONDS + 2)
        assert connection.transport.aborted

    async def test_a_request_at_work_is_the_applications(self) -> None:
        connection = Connection()
        connection.go.clear()
        await connection.send(POST + b"hello")
        connection.expire(1000)
        assert not connection.transport.closed

    async def test_an_answer_that_nobody_reads_is_not_kept(self) -> None:
        connection = Connection()
        await connection.send(b"GET / HTTP/1.0\r\n\r\n")
        connection.expire(0)
        connection.expire(FLUSH_SECONDS - 1)
        assert not connection.transport.aborted
        connection.expire(FLUSH_SECONDS + 1)
        assert connection.transport.aborted

    @pytest.mark.parametrize(("request_", "closed"), [(b"", True), (b"GET / HT", True), (GET, True), (b"\x00", True)])
    async def test_a_stop_closes_what_waits_for_nothing(self, request_: bytes, closed: bool) -> None:
        connection = Connection()
        await connection.send(request_)
        connection.protocol.shutdown()
        assert connection.transport.closed == closed

    async def test_a_stop_lets_a_request_be_answered(self) -> None:
        connection = Connection()
        connection.go.clear()
        await connection.send(GET)
        connection.protocol.shutdown()
        assert not connection.transport.closed
        connection.go.set()
        await connection.settle()
        assert b"connection: close" in connection.transport.written
        assert connection.transport.closed


class TestHalfClose:
    async def test_who_sends_no_more_is_answered(self) -> None:
        connection = Connection()
        connection.go.clear()
        await connection.send(POST + b"hello")
        assert connection.protocol.eof_received() is True
        assert connection.transport.written == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.go.set()
        await connection.settle()
        assert connection.answers == 1
        assert connection.transport.closed

    async def test_who_has_gone_is_not(self) -> None:
        connection = Connection()
        connection.go.clear()
        await connection.send(GET)
        connection.protocol.eof_received()
        connection.transport.peer_state = protocol._TCP_CLOSE
        await until(lambda: connection.transport.aborted)

    async def test_no_interim_answer_comes_between_others(self) -> None:
        connection = Connection()
        connection.go.clear()
        await connection.send(GET + GET)
        assert connection.protocol.eof_received() is True
        assert connection.transport.written == b""
        connection.go.set()
        await until(lambda: connection.transport.closed)
        assert connection.answers == 2

    @pytest.mark.parametrize("sent", [b"", b"GET / HT", POST + b"hel", GET])
    async def test_half_a_request_or_none_is_the_end(self, sent: bytes) -> None:
        connection = Connection()
        await connection.send(sent)
        assert connection.protocol.eof_received() is None  # the transport closes by itself
        connection.protocol.connection_lost(None)
        await connection.settle()
        assert connection.protocol not in connection.state.connections
        assert connection.gone == (sent == POST + b"hel")
