"""While all would be refused, a request is refused before it is looked at; and never otherwise."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest
from pydantic import SecretStr
from starlette.types import Message, Scope

from service.errors import QueueFull
from service.metrics import Metrics
from service.scheduler.batcher import Batcher
from service.settings import Settings
from tests.serving import serving

GOOD = {"text": "a wonderful film"}
QUESTION = {"question": "Who wrote code?", "context": "Grace Hopper wrote code."}
Full = Callable[..., None]


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> Full:
    """`full(sentiment=7.0)`: that model's queue admits none for so many seconds."""
    check_open = Batcher.check_open

    def fill(**seconds: float) -> None:
        def check(batcher: Batcher) -> None:
            if batcher.name in seconds:
                raise QueueFull("full", retry_after=seconds[batcher.name], model=batcher.name)
            check_open(batcher)

        monkeypatch.setattr(Batcher, "check_open", check)

    return fill


def refusals(metrics: Metrics, route: str, model: str) -> float:
    labels = {"route": route, "model": model, "status": "429"}
    return metrics.registry.get_sample_value("bertie_requests_total", labels) or 0


async def test_a_refusal_does_not_wait_for_the_body(settings: Settings, metrics: Metrics, full: Full) -> None:
    """Nor does it ask what it is declared as: it is told of its route and the model that admits first, all the same."""
    full(sentiment=9.0, nli=6.5)
    scope: Scope = {
        "type": "http", "method": "POST", "path": "/classify", "raw_path": b"/classify", "query_string": b"",
        "headers": [(b"content-type", b"text/html"), (b"x-request-id", b"mine")], "http_version": "1.1",
    }  # fmt: skip
    sent: list[Message] = []

    async def receive() -> Message:
        raise AssertionError("the body was asked for")

    async def send(message: Message) -> None:
        sent.append(message)

    async with serving(settings, metrics=metrics) as client:
        app: Any = client.app  # type: ignore[attr-defined]
        await app(scope, receive, send)
    headers = dict(sent[0]["headers"])
    assert (sent[0]["status"], headers[b"retry-after"], headers[b"x-request-id"]) == (429, b"7", b"mine")
    assert refusals(metrics, "/classify", "nli") == 1
    assert metrics.registry.get_sample_value("bertie_rejected_total", {"reason": "queue_full"}) == 1


async def test_what_another_model_may_take_is_looked_at(
    client: httpx.AsyncClient, full: Full, metrics: Metrics
) -> None:
    full(sentiment=9.0)
    assert (await client.post("/qa", json=QUESTION)).status_code == 200
    assert (await client.post("/classify", json={"premise": "a", "hypothesis": "b"})).status_code == 200
    assert (await client.post("/classify", content=b"{")).status_code == 415
    refused = await client.post("/classify", json=GOOD)
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "9")
    assert refusals(metrics, "/classify", "sentiment") == 1


async def test_a_full_queue_of_one_route_is_nothing_to_others(client: httpx.AsyncClient, full: Full) -> None:
    full(qa=3.0)
    assert (await client.post("/qa", json=QUESTION)).status_code == 429
    assert (await client.post("/classify", json=GOOD)).status_code == 200
    assert (await client.get("/health/ready")).status_code == 200
    assert (await client.get("/qa")).status_code == 405


async def test_who_may_not_ask_is_told_so_first(settings: Settings, full: Full) -> None:
    full(sentiment=9.0, nli=9.0)
    async with serving(settings.model_copy(update={"api_keys": (SecretStr("key"),)})) as client:
        assert (await client.post("/classify", json=GOOD)).status_code == 401
        asked = await client.post("/classify", json=GOOD, headers={"authorization": "Bearer key"})
        assert asked.status_code == 429
