"""What clients are told when something is full, late, broken or stopping; and what those who leave cost."""

import asyncio
import logging
from typing import Any

import pytest

from service.metrics import Metrics
from service.predictor import Predictor
from service.settings import Settings
from tests.engines import FakeEngine, load_with, until
from tests.serving import call, serving

GOOD = {"text": "a wonderful film"}


def count(metrics: Metrics, name: str, **labels: str) -> float:
    return metrics.registry.get_sample_value(name, labels) or 0.0


class TestTrouble:
    async def test_a_full_queue_says_when_to_come_back(self, settings: Settings, metrics: Metrics) -> None:
        engine = FakeEngine()
        small = settings.model_copy(update={"max_requests": 2})
        async with serving(small, load=load_with(sentiment=engine), metrics=metrics) as client:
            engine.gate.clear()
            posts = [asyncio.create_task(client.post("/classify", json=GOOD))]
            await until(engine.entered.is_set)
            posts.append(asyncio.create_task(client.post("/classify", json=GOOD)))
            await until(lambda: count(metrics, "bertie_queue_rows", model="sentiment") == 1)
            refused = await client.post("/classify", json=GOOD)
            engine.gate.set()
            answers = await asyncio.gather(*posts)
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) >= 1
        assert refused.json()["type"] == "urn:bertie:problem:queue-full"
        assert [answer.status_code for answer in answers] == [200, 200]
        assert count(metrics, "bertie_rejected_total", reason="queue_full") == 1

    async def test_a_deadline_that_passes(self, settings: Settings, metrics: Metrics) -> None:
        engine = FakeEngine()
        hasty = settings.model_copy(update={"timeout_seconds": 0.7})
        async with serving(hasty, load=load_with(sentiment=engine), metrics=metrics) as client:
            engine.gate.clear()
            late = await client.post("/classify", json=GOOD)
            engine.gate.set()
            assert (late.status_code, late.json()["type"]) == (504, "urn:bertie:problem:deadline-exceeded")
            assert count(metrics, "bertie_rejected_total", reason="deadline") == 1
            assert (await client.post("/classify", json=GOOD)).status_code == 200

    async def test_a_failing_engine_fails_its_batch_alone(
        self, settings: Settings, caplog: pytest.LogCaptureFixture
    ) -> None:
        engine = FakeEngine()
        async with serving(settings, load=load_with(sentiment=engine)) as client:
            engine.error = RuntimeError("secret internals")
            with caplog.at_level(logging.CRITICAL, logger="service.scheduler.batcher"):
                failed = await client.post("/classify", json=GOOD)
            assert failed.status_code == 500
            assert failed.json()["type"] == "urn:bertie:problem:inference"
            assert "secret" not in failed.text
            engine.error = None
            assert (await client.post("/classify", json=GOOD)).status_code == 200
            assert (await client.get("/health/ready")).status_code == 200

    async def test_a_client_that_left_costs_no_inference(self, settings: Settings, metrics: Metrics) -> None:
        engine = FakeEngine()
        async with serving(settings, load=load_with(sentiment=engine), metrics=metrics) as client:
            app = client.app  # type: ignore[attr-defined]
            engine.gate.clear()
            first = asyncio.create_task(client.post("/classify", json=GOOD))
            await until(engine.entered.is_set)
            hang_up = asyncio.Event()
            inputs = {"inputs": [GOOD] * 20}
            left = asyncio.create_task(call(app, "/classify", inputs, hang_up=hang_up))
            await until(lambda: count(metrics, "bertie_queue_rows", model="sentiment") == 20)
            hang_up.set()
            sent = await asyncio.wait_for(left, 5)  # at once: the engine is still at work on another's row
            engine.gate.set()
            assert (await first).status_code == 200
            assert (await client.post("/classify", json=GOOD)).status_code == 200
        assert sent == []
        assert engine.rows == 2
        assert count(metrics, "bertie_rejected_total", reason="cancelled") == 1
        assert count(metrics, "bertie_requests_total", route="/classify", model="sentiment", status="499") == 1

    async def test_a_client_that_leaves_in_the_middle_of_the_body(self, settings: Settings, metrics: Metrics) -> None:
        engine = FakeEngine()
        async with serving(settings, load=load_with(sentiment=engine), metrics=metrics) as client:
            app = client.app  # type: ignore[attr-defined]
            hang_up = asyncio.Event()
            hang_up.set()
            sent = await call(app, "/classify", GOOD, hang_up=hang_up, more_body=True)
        assert sent == []
        assert engine.rows == 0
        assert count(metrics, "bertie_rejected_total", reason="cancelled") == 1

    async def test_a_client_that_stays_is_not_cut_off_by_the_watch(self, settings: Settings) -> None:
        async with serving(settings) as client:
            app = client.app  # type: ignore[attr-defined]
            sent = await call(app, "/classify", GOOD, hang_up=asyncio.Event())
        assert sent[0]["status"] == 200

    async def test_a_lost_worker_turns_readiness_off(self, settings: Settings, metrics: Metrics) -> None:
        class Deadly(FakeEngine):
            def run(self, batch: Any) -> Any:
                raise SystemExit

        async with serving(settings, load=load_with(sentiment=Deadly()), metrics=metrics) as client:
            assert (await client.get("/health/ready")).status_code == 200
            answer = await asyncio.wait_for(client.post("/classify", json=GOOD), 5)
            assert answer.status_code == 500
            predictor = client.app.state.routes.predictor  # type: ignore[attr-defined]
            await until(lambda: not predictor.ready)
            ready = await client.get("/health/ready")
            assert (ready.status_code, ready.json()["type"]) == (503, "urn:bertie:problem:not-ready")
            assert (await client.get("/health/live")).status_code == 200
        assert count(metrics, "bertie_workers_lost_total") >= 1

    async def test_a_process_that_cannot_come_back_is_not_alive(
        self, settings: Settings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with serving(settings) as client:
            assert (await client.get("/health/live")).json() == {"status": "live"}
            monkeypatch.setattr(Predictor, "alive", False)
            live = await client.get("/health/live")
            assert (live.status_code, live.json()["type"]) == (503, "urn:bertie:problem:not-ready")

    async def test_permits_are_given_back_whatever_happens(self, settings: Settings, metrics: Metrics) -> None:
        engine = FakeEngine()
        async with serving(settings, load=load_with(sentiment=engine)) as client:
            permits = client.app.state.routes.predictor.permits  # type: ignore[attr-defined]
            for body in (GOOD, {"text": ""}, {"text": 1}, {"text": "a", "model": "nope"}, {"inputs": [{}] * 200}, 0):
                await client.post("/classify", json=body)
                assert (permits.requests.held, permits.short.held, permits.long.held) == (0, 0, 0)

    async def test_readiness_is_read_when_it_is_scraped(self, settings: Settings) -> None:
        async with serving(settings) as client:
            assert "\nbertie_ready 1.0\n" in (await client.get("/metrics")).text
            client.app.state.routes.predictor.stop()  # type: ignore[attr-defined]
            assert "\nbertie_ready 0.0\n" in (await client.get("/metrics")).text

    async def test_draining_refuses_what_is_new_and_finishes_what_was_admitted(
        self, settings: Settings, metrics: Metrics
    ) -> None:
        engine = FakeEngine()
        async with serving(settings, load=load_with(sentiment=engine), metrics=metrics) as client:
            predictor = client.app.state.routes.predictor  # type: ignore[attr-defined]
            engine.gate.clear()
            admitted = asyncio.create_task(client.post("/classify", json=GOOD))
            await until(engine.entered.is_set)
            predictor.stop()
            assert (await client.get("/health/ready")).status_code == 503
            assert (await client.post("/classify", json=GOOD)).status_code == 503
            assert count(metrics, "bertie_rejected_total", reason="draining") == 1  # the probe is no request
            engine.gate.set()
            assert (await admitted).status_code == 200
