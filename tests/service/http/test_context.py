"""One deadline around a request, its end by a stop, and what is noted of it. The rest is seen through `test_routes`."""

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from service.errors import DeadlineExceeded, QueueFull
from service.http import requests
from service.http.context import BEGAN, Context, ContextMiddleware, InFlight, Recorder, request_id
from service.metrics import Metrics
from service.settings import Settings
from service.tasks import ClassificationTask
from tests.engines import FakeEngine, load_with, until
from tests.serving import call, serving

GOOD = {"text": "a wonderful film"}
JSON = {"content-type": "application/json"}


class Request:
    """A request to an application that waits until `go` is set, and is told of as it goes.

    Attributes:
        sent: what was sent.
        entered: the application is at work.
    """

    def __init__(self, metrics: Metrics, *, begun: bool = False, seconds: float = 30.0, began: float = 0.0) -> None:
        self.sent: list[Any] = []
        self.entered = asyncio.Event()
        self.go = asyncio.Event()
        self.in_flight = InFlight()
        self.error: Exception | None = None
        self.begun = begun
        self.scope = {"type": "http", "method": "POST", "path": "/classify", "headers": [], "client": ("1.2.3.4", 5)}
        if began:
            self.scope[BEGAN] = began
        self.app = ContextMiddleware(self._app, Recorder(metrics), seconds, self.in_flight)

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        assert 0 <= Context.of(scope).seconds < 100
        if self.begun:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        self.entered.set()
        await self.go.wait()
        if self.error is not None:
            raise self.error
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def run(self) -> list[Any]:
        async def send(message: Any) -> None:
            self.sent.append(message)

        await self.app(dict(self.scope), None, send)  # type: ignore[arg-type]
        return self.sent


def count(metrics: Metrics, status: str) -> float | None:
    labels = {"route": "", "model": "", "status": status}
    return metrics.registry.get_sample_value("bertie_requests_total", labels)


def rejected(metrics: Metrics, reason: str) -> float | None:
    return metrics.registry.get_sample_value("bertie_rejected_total", {"reason": reason})


class TestStop:
    async def test_ends_all_that_is_in_flight_with_a_503(self, metrics: Metrics) -> None:
        request = Request(metrics)
        tasks = [asyncio.create_task(request.run()) for _ in range(3)]
        await until(lambda: len(request.in_flight.deadlines) == 3)
        request.in_flight.stop()
        request.in_flight.stop()  # twice is no error
        await asyncio.wait_for(asyncio.gather(*tasks), 5)
        starts = [message for message in request.sent if message["type"] == "http.response.start"]
        assert [start["status"] for start in starts] == [503] * 3
        assert (b"content-type", b"application/problem+json") in starts[0]["headers"]
        assert count(metrics, "503") == 3
        assert rejected(metrics, "draining") == 3
        assert request.in_flight.deadlines == set()

    async def test_what_is_over_is_left_alone(self, metrics: Metrics) -> None:
        request = Request(metrics)
        request.go.set()
        (start,) = await request.run()
        request.in_flight.stop()
        assert start["status"] == 200


class TestDeadline:
    async def test_counts_from_the_first_byte(self, metrics: Metrics) -> None:
        """What the server noted; the head and the wait behind another request of the connection count."""
        request = Request(metrics, seconds=10, began=time.perf_counter() - 9.9)
        began = time.perf_counter()
        start, body = await request.run()
        assert time.perf_counter() - began < 5
        assert start["status"] == 504
        assert json.loads(body["body"])["detail"] == "the request took longer than the 10 seconds that it may take"
        assert count(metrics, "504") == 1

    async def test_one_that_passed_before_work_began(self, metrics: Metrics) -> None:
        request = Request(metrics, seconds=10, began=time.perf_counter() - 20)
        assert (await request.run())[0]["status"] == 504

    async def test_a_timeout_of_anything_else_is_an_unexpected_error(self, metrics: Metrics) -> None:
        request = Request(metrics)
        request.error = TimeoutError()
        request.go.set()
        assert (await request.run())[0]["status"] == 500

    async def test_half_an_answer_gets_no_other(self, metrics: Metrics) -> None:
        request = Request(metrics, begun=True, seconds=0.05)
        with pytest.raises(DeadlineExceeded):
            await request.run()
        (start,) = request.sent
        assert start["status"] == 200
        assert count(metrics, "200") == 1

    @pytest.mark.parametrize("part", ["body", "parse", "encode", "run", "decode"])
    async def test_is_one_around_every_part(
        self, settings: Settings, metrics: Metrics, monkeypatch: pytest.MonkeyPatch, part: str
    ) -> None:
        engine = FakeEngine()
        # Long enough for a thread each: to be parsed, encoded and decoded there.
        body: Any = {"inputs": [{"text": "good " * 200}] * 100}
        hasty = settings.model_copy(update={"timeout_seconds": 0.5})

        def slow(function: Any) -> Any:
            def wrapped(*arguments: Any) -> Any:
                time.sleep(1.0)
                return function(*arguments)

            return wrapped

        match part:
            case "parse":
                monkeypatch.setattr(requests, "parse_value", slow(requests.parse_value))
            case "encode" | "decode":
                monkeypatch.setattr(ClassificationTask, part, slow(getattr(ClassificationTask, part)))
            case "run":
                engine.seconds = 1.0

        async def content() -> AsyncIterator[bytes]:
            yield json.dumps(body).encode()
            if part == "body":
                await asyncio.sleep(30)

        async with serving(hasty, load=load_with(sentiment=engine), metrics=metrics) as client:
            began = time.perf_counter()
            if part == "body":
                app = client.app  # type: ignore[attr-defined]
                sent = await call(app, "/classify", body, hang_up=asyncio.Event(), more_body=True)
                status, problem = sent[0]["status"], json.loads(sent[1]["body"])
            else:
                answer = await client.post("/classify", content=content(), headers=JSON)
                status, problem = answer.status_code, answer.json()
            assert time.perf_counter() - began < 0.95
            assert (status, problem["type"]) == (504, "urn:bertie:problem:deadline-exceeded")
            assert rejected(metrics, "deadline") == 1
            permits = client.app.state.gate.predictor.permits  # type: ignore[attr-defined]
            assert (permits.requests.held, permits.short.held) == (0, 0)


class TestClient:
    async def test_one_that_leaves_is_sent_nothing(self, settings: Settings, metrics: Metrics) -> None:
        engine = FakeEngine()
        async with serving(settings, load=load_with(sentiment=engine), metrics=metrics) as client:
            app = client.app  # type: ignore[attr-defined]
            engine.gate.clear()
            hang_up = asyncio.Event()
            left = asyncio.create_task(call(app, "/classify", GOOD, hang_up=hang_up))
            await until(engine.entered.is_set)
            hang_up.set()
            assert await asyncio.wait_for(left, 5) == []
            engine.gate.set()
            assert app.state.gate.predictor.permits.requests.held == 0
        labels = {"route": "/classify", "model": "sentiment", "status": "499"}
        assert metrics.registry.get_sample_value("bertie_requests_total", labels) == 1
        assert rejected(metrics, "cancelled") == 1


class TestFirst:
    """What is refused before the body is read, and in which order."""

    @contextmanager
    def full(self, client: httpx.AsyncClient, of: str = "requests") -> Iterator[None]:
        permits = client.app.state.gate.predictor.permits  # type: ignore[attr-defined]
        budget, held = getattr(permits, of), []
        limit, budget.limit = budget.limit, 8
        with suppress(QueueFull):
            for other in range(100):
                held.append(permits.acquire(other, 0))
        yield
        for permit in held:
            permit.release()
        budget.limit = limit

    async def post(self, client: httpx.AsyncClient, body: dict[str, str], *headers: tuple[bytes, bytes]) -> Any:
        """Post without a body that could be read. Returns status and headers."""
        sent: list[Any] = []

        async def receive() -> Any:
            raise AssertionError("the body was asked for")

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http", "method": "POST", "path": "/classify", "raw_path": b"/classify", "query_string": b"",
            "headers": [(b"content-type", b"application/json"), (b"content-length", b"30"), *headers],
            "http_version": "1.1", "client": ("1.2.3.4", 5),
        }  # fmt: skip
        await client.app(scope, receive, send)  # type: ignore[attr-defined]
        return sent[0]["status"], dict(sent[0]["headers"])

    @pytest.mark.parametrize("of", ["requests", "short"])
    async def test_a_full_house_is_told_at_once(self, settings: Settings, metrics: Metrics, of: str) -> None:
        async with serving(settings, metrics=metrics) as client:
            with self.full(client, of):
                status, headers = await self.post(client, GOOD, (b"x-request-id", b"mine"))
                assert (status, headers[b"x-request-id"]) == (429, b"mine")
                assert int(headers[b"retry-after"]) >= 1
                assert (await client.get("/health/ready")).status_code == 200
                assert (await client.get("/metrics")).status_code == 200
            assert (await client.post("/classify", json=GOOD)).status_code == 200
        assert rejected(metrics, "queue_full") == 1

    async def test_who_may_not_ask_is_told_so_first(self, settings: Settings) -> None:
        async with serving(settings.model_copy(update={"api_keys": (SecretStr("key"),)})) as client:
            with self.full(client):
                assert (await self.post(client, GOOD))[0] == 401
                assert (await self.post(client, GOOD, (b"authorization", b"Bearer key")))[0] == 429

    async def test_a_stopped_service_says_so(self, settings: Settings) -> None:
        async with serving(settings) as client:
            client.app.state.gate.predictor.stop()  # type: ignore[attr-defined]
            assert (await self.post(client, GOOD))[0] == 503

    async def test_the_share_is_the_keys_or_else_the_addresss(self, settings: Settings) -> None:
        keys = (SecretStr("a"), SecretStr("b"))
        for changes, header, expected in (
            ({}, (b"authorization", b"Bearer b"), "1.2.3.4"),
            ({"api_keys": keys}, (b"authorization", b"Bearer b"), "key-2"),
        ):
            async with serving(settings.model_copy(update=changes)) as client:
                permits = client.app.state.gate.predictor.permits  # type: ignore[attr-defined]
                seen = []

                def acquire(who: Any, size: int, quota: Any = None, *, seen: list[Any] = seen) -> Any:
                    seen.append((who, size))
                    raise QueueFull("full", retry_after=1.2)

                permits.acquire = acquire
                status, headers = await self.post(client, GOOD, header)
                assert (status, headers[b"retry-after"]) == (429, b"2")
                assert seen == [(expected, 30)]


def test_a_process_that_is_forked_gives_ids_of_its_own() -> None:
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        os.write(write, request_id({"headers": []}).encode())
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    assert os.read(read, 100)[:16] != request_id({"headers": []})[:16].encode()
