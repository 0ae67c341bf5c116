"""What is noted of a request that no answer of the application's ended. The rest is seen through `test_routes`."""

import asyncio
from typing import Any

import pytest

from service.http.context import Exchange, ExchangeMiddleware
from service.metrics import Metrics
from tests.engines import until


async def cancelled(metrics: Metrics, *, begun: bool) -> list[Any]:
    """What is sent of a request that the server cancels while it is at work, `begun`: when its answer has begun."""
    entered = asyncio.Event()
    sent: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert 0 <= Exchange.of(scope).seconds < 10
        if begun:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        entered.set()
        await asyncio.sleep(60)

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/classify", "headers": []}
    task = asyncio.create_task(ExchangeMiddleware(app, metrics)(scope, None, send))  # type: ignore[arg-type]
    await until(entered.is_set)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    return sent


def requests(metrics: Metrics, status: str) -> float | None:
    labels = {"route": "", "model": "", "status": status}
    return metrics.registry.get_sample_value("bertie_requests_total", labels)


async def test_what_the_end_of_the_grace_cuts_off_is_a_503(metrics: Metrics) -> None:
    start, _ = await cancelled(metrics, begun=False)
    assert start["status"] == 503
    assert (b"content-type", b"application/problem+json") in start["headers"]
    assert requests(metrics, "503") == 1
    assert metrics.registry.get_sample_value("bertie_rejected_total", {"reason": "draining"}) == 1


async def test_half_an_answer_gets_no_other(metrics: Metrics) -> None:
    (start,) = await cancelled(metrics, begun=True)
    assert start["status"] == 200
    assert requests(metrics, "200") == 1
