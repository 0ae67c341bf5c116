"""Refusals before any task or body: the same document as the application's, counted and logged once."""

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from service.http.context import PERMIT, WAIT
from service.http.gate import Gate
from service.keys.keyring import REFUSAL_SECONDS, REFUSALS
from service.metrics import Metrics
from service.settings import Settings
from tests.serving import serving

GOOD = {"text": "a wonderful film"}


@pytest.fixture
async def client(settings: Settings, metrics: Metrics) -> AsyncIterator[httpx.AsyncClient]:
    guarded = settings.model_copy(update={"api_keys": (SecretStr("key"),), "max_requests": 1})
    async with serving(guarded, metrics=metrics) as client:
        yield client


@pytest.fixture
def gate(client: httpx.AsyncClient) -> Gate:
    made: Gate = client.app.state.gate  # type: ignore[attr-defined]
    return made


def scope(path: str = "/classify", method: str = "POST", **headers: str) -> dict[str, Any]:
    named = {"content-type": "application/json", "content-length": "30", "authorization": "Bearer key"} | {
        name.replace("_", "-"): value for name, value in headers.items()
    }
    raw = [(name.encode(), value.encode()) for name, value in named.items()]
    return {"type": "http", "method": method, "path": path, "headers": raw, "client": ("1.2.3.4", 5)}


def split(answer: bytes | None) -> tuple[int, dict[str, str], dict[str, Any]]:
    """Status, headers and document of a refusal."""
    assert answer is not None
    head, body = answer.split(b"\r\n\r\n", 1)
    line, *lines = head.decode().split("\r\n")
    return int(line.split()[1]), dict(line.split(": ", 1) for line in lines), json.loads(body)


@pytest.mark.parametrize(
    ("headers", "status", "slug"),
    [
        ({"authorization": ""}, 401, "unauthorized"),
        ({"authorization": "Bearer no", "content_type": "text/html"}, 401, "unauthorized"),
        ({"content_type": "text/html"}, 415, "unsupported-media-type"),
        ({"content_encoding": "gzip"}, 415, "unsupported-media-type"),
        ({"content_length": "999999999"}, 413, "too-large"),
    ],
)
async def test_is_what_the_application_would_say(
    client: httpx.AsyncClient, gate: Gate, metrics: Metrics, headers: dict[str, str], status: int, slug: str
) -> None:
    found, named, problem = split(gate.refusal(scope(x_request_id="mine", **headers), True))
    assert (found, problem["type"]) == (status, f"urn:bertie:problem:{slug}")
    raw = scope(x_request_id="mine", **headers)["headers"]
    said = await client.post("/classify", content=b"x" * 30, headers=raw)
    assert problem == said.json()
    assert named.keys() == said.headers.keys()
    assert (named["x-request-id"], named["content-type"]) == ("mine", "application/problem+json")
    assert int(named["content-length"]) == len(said.content)
    labels = {"route": "/classify", "model": "", "status": str(status)}
    assert metrics.registry.get_sample_value("bertie_requests_total", labels) == 2


async def test_a_full_house(gate: Gate, metrics: Metrics, caplog: pytest.LogCaptureFixture) -> None:
    """A line of the log for each refusal of a flood would be a flood of its own."""
    admitted = scope()
    with caplog.at_level("INFO", logger="service.http.context"):
        assert gate.refusal(admitted, True) is None
        for _ in range(50):
            status, headers, problem = split(gate.refusal(scope(), False))
            assert (status, problem["type"]) == (429, "urn:bertie:problem:queue-full")
            assert int(headers["retry-after"]) >= 1
            assert headers["connection"] == "close"
    assert len(caplog.records) == 1
    assert metrics.registry.get_sample_value("bertie_rejected_total", {"reason": "queue_full"}) == 50
    admitted[PERMIT].release()
    again = scope()
    assert gate.refusal(again, True) is None
    again[PERMIT].release()


async def test_who_asks_on_waits_for_its_refusals(gate: Gate) -> None:
    """The first hundred in a second come at once, each later one behind the one before, by a few seconds at most."""
    admitted = scope()
    assert gate.refusal(admitted, True) is None
    waits = []
    for _ in range(int(6 * REFUSALS)):
        refused = scope()
        assert gate.refusal(refused, True)
        waits.append(refused[WAIT])
    assert max(waits[: int(REFUSALS)]) == 0
    assert waits[int(1.5 * REFUSALS)] == pytest.approx(0.5, abs=0.2)
    assert max(waits) <= REFUSAL_SECONDS
    assert min(waits[-50:]) >= REFUSAL_SECONDS / 2
    assert len(set(waits[-50:])) > 40
    unknown = scope(authorization="Bearer no")
    assert gate.refusal(unknown, True)
    assert WAIT not in unknown
    admitted[PERMIT].release()
    again = scope()
    assert gate.refusal(again, True) is None  # what is admitted never waits
    assert WAIT not in again
    again[PERMIT].release()


async def test_asks_once(gate: Gate) -> None:
    admitted = scope()
    assert gate.refusal(admitted, True) is None
    found = gate.endpoints.find("POST", "/classify")
    assert found
    assert gate.admit(admitted, found[0]) is admitted[PERMIT]
    assert gate.serving().permits.requests.held == 1
    admitted[PERMIT].release()
    admitted[PERMIT].release()  # twice is once
    assert gate.serving().permits.requests.held == 0


async def test_a_stopped_service(gate: Gate) -> None:
    gate.serving().stop()
    assert split(gate.refusal(scope(), True))[0] == 503


@pytest.mark.parametrize(
    "asked",
    [
        scope("/models", "GET"), scope("/nope"), scope("/classify", "GET"), scope("/qa/"),
        scope(authorization="", origin="https://app.example"),
    ],
)  # fmt: skip
async def test_what_is_the_applications(gate: Gate, asked: dict[str, Any]) -> None:
    """A browser's answer wants CORS headers."""
    assert gate.refusal(asked, True) is None
    assert PERMIT not in asked


async def test_permits_are_given_back_after_any_answer(client: httpx.AsyncClient, gate: Gate) -> None:
    headers = {"authorization": "Bearer key"}
    for body in (GOOD, {"text": 1}, {"inputs": [{}] * 200}, GOOD | {"model": "nope"}):
        await client.post("/classify", json=body, headers=headers)
        assert gate.serving().permits.requests.held == 0
