"""How much of a body is read, and what its permit makes of its length."""

from collections.abc import Sequence
from typing import Any

import pytest
from starlette.requests import Request

from service.errors import QueueFull, TooLarge, UnsupportedMediaType
from service.http import body
from service.http.body import ClientGone
from service.scheduler.permits import BYTES_PER_TOKEN, LONG_TOKENS, REQUEST_TOKENS, Permits

LIMIT = 100_000


def request(chunks: Sequence[bytes | None] = (), **headers: str) -> Request:
    """A request whose body comes in chunks; None: the client leaves."""
    rest = list(chunks)

    async def receive() -> Any:
        chunk = rest.pop(0)
        if chunk is None:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": chunk, "more_body": bool(rest)}

    named = {"content-type": "application/json"} | {name.replace("_", "-"): value for name, value in headers.items()}
    raw = [(name.encode(), value.encode("latin-1")) for name, value in named.items()]
    return Request({"type": "http", "method": "POST", "headers": raw}, receive)


def tokens(permits: Permits) -> int:
    """Counted in flight, of both kinds."""
    return permits.short.held + permits.long.held


class TestDeclared:
    @pytest.mark.parametrize(("length", "expected"), [("0", 0), ("7", 7), ("0007", 7), (str(LIMIT), LIMIT), ("x", 0)])
    def test_length(self, length: str, expected: int) -> None:
        assert body.declared_length(request(content_length=length), LIMIT) == expected
        assert body.declared_length(request(), LIMIT) == 0

    @pytest.mark.parametrize("length", [str(LIMIT + 1), "9" * 30])
    def test_one_over_the_limit_is_not_read(self, length: str) -> None:
        with pytest.raises(TooLarge, match=f"the limit is {LIMIT}"):
            body.declared_length(request(content_length=length), LIMIT)

    @pytest.mark.parametrize(
        "headers",
        [
            {"content_type": "text/html"},
            {"content_type": ""},
            {"content_type": "application/json; charset=latin-1"},
            {"content_encoding": "gzip"},
            {"content_encoding": "br, gzip"},
        ],
    )
    def test_what_is_no_plain_json_in_utf_8(self, headers: dict[str, str]) -> None:
        with pytest.raises(UnsupportedMediaType):
            body.declared_length(request(**headers), LIMIT)


class TestRead:
    @pytest.mark.parametrize("chunks", [[b"{}"], [b"{", b"}"], [b"", b"{", b"", b"}", b""]])
    async def test_in_pieces(self, chunks: list[bytes]) -> None:
        permit = Permits(10, 65536, lambda: 0.0).acquire("a", 2)
        assert await body.read(request(chunks), 2, LIMIT, permit) == b"{}"

    @pytest.mark.parametrize("declared", [0, 10])
    async def test_one_that_grows_over_the_limit(self, declared: int) -> None:
        permit = Permits(10, 65536, lambda: 0.0).acquire("a", declared)
        asked = request([b"x" * 60_000] * 10)
        with pytest.raises(TooLarge, match=f"more than {LIMIT} bytes"):
            await body.read(asked, declared, LIMIT, permit)

    async def test_a_client_that_leaves_half_way(self) -> None:
        permit = Permits(10, 65536, lambda: 0.0).acquire("a", 2)
        with pytest.raises(ClientGone):
            await body.read(request([b"{", None]), 2, LIMIT, permit)

    async def test_a_declared_length_is_counted_once(self) -> None:
        permits = Permits(10, 65536, lambda: 0.0)
        permit = permits.acquire("a", 4000)
        counted = tokens(permits)
        assert counted == REQUEST_TOKENS + 1000
        await body.read(request([b"x" * 1000] * 4), 4000, LIMIT, permit)
        assert tokens(permits) == counted
        permit.release()
        assert tokens(permits) == 0

    async def test_an_undeclared_one_is_counted_as_it_comes(self) -> None:
        permits = Permits(10, 65536, lambda: 0.0)
        permit = permits.acquire("a", 0)
        assert tokens(permits) == REQUEST_TOKENS
        await body.read(request([b"x" * 1000] * 4), 0, LIMIT, permit)
        assert tokens(permits) == REQUEST_TOKENS + 4000 // BYTES_PER_TOKEN
        permit.release()
        assert tokens(permits) == 0

    async def test_and_refused_where_too_much_is_in_flight_by_then(self) -> None:
        permits = Permits(10, 8000, lambda: 0.0)
        others = [permits.acquire(client, 4000) for client in range(7)]
        permit = permits.acquire("a", 0)
        with pytest.raises(QueueFull):
            await body.read(request([b"x" * 1000] * 8), 0, LIMIT, permit)
        for each in (*others, permit):
            each.release()
        assert tokens(permits) == 0

    async def test_a_long_one_counts_as_long(self) -> None:
        permits = Permits(10, 65536, lambda: 0.0)
        permit = permits.acquire("a", 0)
        await body.read(request([b"x" * BYTES_PER_TOKEN * LONG_TOKENS]), 0, LIMIT, permit)
        assert permits.long.held == LONG_TOKENS + REQUEST_TOKENS
        assert permits.short.held == 0
