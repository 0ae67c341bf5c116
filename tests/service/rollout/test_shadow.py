"""A shadow runs later what the stable version answered. Whatever becomes of it, clients are answered as without it."""

import asyncio
import contextlib
import gc
import logging
import weakref
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from service.engine.batch import Batch
from service.engine.session import Outputs
from service.metrics import Metrics
from service.repository import plan
from service.rollout import shadow as module
from service.rollout.observer import Observer
from service.rollout.shadow import Shadow
from service.serving import Answered
from service.settings import Settings
from service.tasks import ClassificationExample, Difference
from tests.bundles import make_version
from tests.engines import Death, FakeEngine, load_with, open_with, until
from tests.serving import serving

STABLE, OTHER = (0.0, 2.0), (2.0, 0.0)
"""Logits for `positive`, and for `negative`."""


class Echoing(FakeEngine):
    """Finds a text positive whose first token has an even number, so that texts have labels of their own."""

    def run(self, batch: Batch) -> Outputs:
        super().run(batch)
        even = batch.input_ids[:, 1] % 2 == 0
        return (np.where(even[:, None], np.float32((0.0, 2.0)), np.float32((2.0, 0.0))),)


class Service:
    """A service of `sentiment` with versions 1 (stable) and 2 (shadow), each with its engine."""

    def __init__(self, client: httpx.AsyncClient, stable: FakeEngine, shadow: FakeEngine, metrics: Metrics) -> None:
        self.client, self.stable, self.shadow, self.metrics = client, stable, shadow, metrics
        self.rollouts = client.app.state.gate.rollouts  # type: ignore[attr-defined]

    @property
    def observer(self) -> Observer:
        return self.rollouts.observer

    @property
    def pair(self) -> Shadow:
        return self.observer._shadows["sentiment"]

    async def ask(self, text: str = "good fun", **values: Any) -> httpx.Response:
        response = await self.client.post("/classify", json={"text": text, **values})
        assert response.status_code == 200, response.text
        return response

    async def told(self) -> Any:
        response = await self.client.get("/models/sentiment/compare")
        assert response.status_code == 200, response.text
        return response.json()

    def count(self, outcome: str) -> float:
        labels = {"model": "sentiment", "version": "2", "outcome": outcome}
        return self.metrics.registry.get_sample_value("bertie_shadow_requests_total", labels) or 0

    async def ended(self, number: int) -> None:
        """Wait until so many requests were compared, dropped or failed."""
        await until(lambda: sum(map(self.count, ("compared", "dropped", "failed"))) >= number, 30)

    async def change(self, step: Any) -> None:
        await self.rollouts.change("sentiment", step)


@contextlib.asynccontextmanager
async def service(
    folder: Path, stable: FakeEngine, shadow: FakeEngine, wanted: plan.Plan | None = None, **values: Any
) -> AsyncIterator[Service]:
    models = folder / "models"
    for version in ("1", "2"):
        make_version(models, "sentiment", version)
    with plan.edit(models / "sentiment") as edit:
        edit.plan = wanted or plan.Plan("1", warm=0, shadow=plan.Shadow("2", 100.0))
    settings, metrics = Settings(models_dir=models, device="cpu", **values), Metrics()
    opened = open_with({"1": stable, "2": shadow})
    try:
        async with (
            asyncio.timeout(60),
            serving(settings, load=load_with(sentiment=stable), open_bundle=opened, metrics=metrics) as client,
        ):
            yield Service(client, stable, shadow, metrics)
    finally:
        for engine in (stable, shadow):
            engine.gate.set()


# ---- what is compared -----------------------------------------------------------------------------------------------


async def test_the_same_answers_agree(tmp_path: Path) -> None:
    async with service(tmp_path, FakeEngine(STABLE), FakeEngine((0.0, 2.1))) as it:
        for _ in range(5):
            assert (await it.ask()).headers["x-model-version"] == "1"
        await it.ended(5)
        told = await it.told()
        assert (told["stable"], told["shadow"], told["compared"]) == ("1", "2", 5)
        assert told["agreement"]["value"] == 1.0
        assert told["distance"]["mean"] == pytest.approx(0.01, abs=0.005)
        assert told["latency"]["requests"] == 5
        assert it.stable.rows == 10  # once for each client, and once more for its time
        assert it.shadow.rows == 5


async def test_flips_are_counted_by_their_labels(tmp_path: Path) -> None:
    async with service(tmp_path, FakeEngine(STABLE), FakeEngine(OTHER)) as it:
        await it.ask()
        await it.client.post("/classify", json={"inputs": [{"text": "good fun"}, {"text": "bad fun"}]})
        await it.ended(2)
        told = await it.told()
        assert told["agreement"]["of"] == 3
        (flip,) = told["flips"]
        assert (flip["from"], flip["to"], flip["share"]["count"]) == ("positive", "negative", 3)
        value = it.metrics.registry.get_sample_value
        assert value("bertie_shadow_flips_total", {"model": "sentiment", "from": "positive", "to": "negative"}) == 3
        assert value("bertie_shadow_agreement_ratio", {"model": "sentiment", "version": "2"}) == 0.0
        assert value("bertie_shadow_score_distance_count", {"model": "sentiment"}) == 3
        assert (value("bertie_shadow_p95_ratio", {"model": "sentiment", "version": "2"}) or 0) > 0


async def test_each_answer_is_compared_with_its_own(tmp_path: Path) -> None:
    async with service(tmp_path, Echoing(), Echoing()) as it:
        texts = ["good fun", "bad film", "dull", "a great film", "fun", "the dog", "ada"] * 3
        await asyncio.gather(*(it.ask(text) for text in texts))
        answer = await it.client.post("/classify", json={"inputs": [{"text": text} for text in texts]})
        assert len({result["label"] for result in answer.json()["results"]}) == 2
        await it.ended(len(texts) + 1)
        told = await it.told()
        assert told["agreement"]["of"] == 2 * len(texts)
        assert told["agreement"]["value"] == 1.0
        assert told["distance"]["max"] == 0.0


async def test_what_was_asked_for_is_compared(tmp_path: Path) -> None:
    """Other scores than the model's own: of the task that the client had, not of the model's."""
    async with service(tmp_path, FakeEngine(STABLE), FakeEngine((0.0, 9.0))) as it:
        body = {"inputs": "fun", "parameters": {"function_to_apply": "none"}}
        answer = await it.client.post("/models/sentiment", json=body)
        assert answer.status_code == 200, answer.text
        await it.ended(1)
        told = await it.told()
        assert (told["compared"], told["agreement"]["value"], told["distance"]) == (1, 1.0, None)


async def test_a_part_of_the_requests(tmp_path: Path) -> None:
    wanted = plan.Plan("1", shadow=plan.Shadow("2", 30.0))
    async with service(tmp_path, FakeEngine(STABLE), FakeEngine(STABLE), wanted) as it:
        draws = iter([0.1, 0.5, 0.299, 0.3, 0.9])
        it.pair._draw = lambda: next(draws)
        for _ in range(5):
            await it.ask()
        await it.ended(2)
        await asyncio.sleep(0.02)
        assert (it.shadow.rows, it.count("compared")) == (2, 2)


async def test_none_of_the_requests(tmp_path: Path) -> None:
    wanted = plan.Plan("1", shadow=plan.Shadow("2", 0.0))
    async with service(tmp_path, FakeEngine(STABLE), FakeEngine(STABLE), wanted) as it:
        await it.ask()
        await asyncio.sleep(0.02)
        assert it.shadow.rows == 0
        assert it.stable.rows == 1


async def test_a_model_without_a_plan_is_told_of_nothing(tmp_path: Path) -> None:
    async with service(tmp_path, FakeEngine(STABLE), FakeEngine(STABLE), plan.Plan("1")) as it:
        assert it.rollouts._predictor.serving["sentiment"].observe is None
        await it.ask()
        missing = await it.client.get("/models/sentiment/compare")
        assert (missing.status_code, missing.json()["field"]) == (404, "name")


async def test_what_a_canary_answers_is_not_run_on_the_shadow(tmp_path: Path) -> None:
    wanted = plan.Plan("1", canary=plan.Canary("2", 0.0, "X-Canary"), shadow=plan.Shadow("2", 100.0))
    async with service(tmp_path, FakeEngine(STABLE), FakeEngine(STABLE), wanted) as it:
        body, headers = {"text": "fun"}, {"x-canary": "true"}
        answer = await it.client.post("/classify", json=body, headers=headers)
        assert answer.headers["x-model-version"] == "2"
        await it.ask()
        await it.ended(1)
        await asyncio.sleep(0.02)
        assert it.count("compared") == 1


# ---- what a shadow does to clients: nothing -------------------------------------------------------------------------


async def test_a_client_is_answered_before_its_shadow_runs(tmp_path: Path) -> None:
    async with service(tmp_path, FakeEngine(STABLE), FakeEngine(STABLE)) as it:
        it.shadow.gate.clear()
        for _ in range(3):
            await it.ask()
        await until(it.shadow.entered.is_set)
        predictor = it.rollouts._predictor
        assert predictor.permits.requests.held == 0
        assert predictor.schedulers["cpu"].wait_seconds == 0.0
        it.shadow.gate.set()
        await it.ended(3)


async def test_a_shadow_that_fails(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with service(tmp_path, FakeEngine(STABLE), FakeEngine(STABLE)) as it:
        it.shadow.error = RuntimeError("broken")
        for _ in range(12):
            await it.ask()
        await it.ended(12)
        assert (it.count("failed"), (await it.told())["failed"]) == (12, 12)
        assert (await it.client.get("/health/ready")).status_code == 200
        it.shadow.error = None
        await it.ask()
        await it.ended(13)
        assert it.count("compared") == 1


@pytest.mark.parametrize("fate", ["dies", "hangs"])
async def test_a_shadow_that_takes_its_worker_down(tmp_path: Path, fate: str) -> None:
    async with service(tmp_path, FakeEngine(STABLE), FakeEngine(STABLE), timeout_seconds=0.3) as it:
        it.shadow.gate.clear()
        await it.ask()
        await until(it.shadow.entered.is_set)
        if fate == "dies":
            it.shadow.error = Death()
            it.shadow.gate.set()
        for _ in range(20):
            await it.ask()
            assert (await it.client.get("/health/ready")).status_code == 200
            await asyncio.sleep(0.03)
        await it.ended(21)
        assert it.count("failed") == 21  # it gets no second worker
        assert (await it.client.get("/health/live")).status_code == 200
        assert it.stable.rows >= 21


async def test_a_slow_shadow_drops_what_it_has_no_room_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_WAITING", 4)
    async with service(tmp_path, FakeEngine(STABLE), FakeEngine(STABLE)) as it:
        it.shadow.gate.clear()
        await it.ask()
        await until(it.shadow.entered.is_set)
        for _ in range(30):
            await it.ask()
        await it.ended(26)
        assert it.count("dropped") == 26
        assert len(it.pair._waiting) == 4
        it.shadow.gate.set()
        await it.ended(31)
        assert it.count("compared") == 5
        assert (await it.told())["dropped"] == 26


async def test_long_texts_are_bounded_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_CHARACTERS", 100)
    async with service(tmp_path, FakeEngine(STABLE), FakeEngine(STABLE)) as it:
        it.shadow.gate.clear()
        await it.ask()
        await until(it.shadow.entered.is_set)
        await it.ask("good fun " * 8)
        await it.ask("good fun " * 8)
        await it.ended(1)
        assert it.count("dropped") == 1
        it.shadow.gate.set()
        await it.ended(3)
        assert it.pair._characters == 0
        await it.ask("good fun " * 8)  # there is room again
        await it.ended(4)
        assert it.count("dropped") == 1


async def test_a_full_background_drops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with service(tmp_path, FakeEngine(STABLE), FakeEngine(STABLE)) as it:
        scheduler = it.rollouts._predictor.schedulers["cpu"]
        runner = it.pair._shadow.runner
        monkeypatch.setattr("service.scheduler.background.BATCHES", 0)
        it.shadow.gate.clear()
        row = it.pair._shadow.tasks[0].encode([ClassificationExample("fun")])[0]
        blocking = [asyncio.create_task(scheduler.run(runner, row, background=True)) for _ in range(1)]
        await until(it.shadow.entered.is_set)
        waits = asyncio.create_task(scheduler.run(runner, row, background=True))
        await asyncio.sleep(0)
        await it.ask()
        await it.ended(1)
        assert it.count("dropped") == 1
        it.shadow.gate.set()
        await asyncio.gather(*blocking, waits)


async def test_a_flood_is_answered_as_without_a_shadow(tmp_path: Path) -> None:
    async with service(tmp_path, FakeEngine(STABLE, seconds=0.001), FakeEngine(STABLE, seconds=0.02)) as it:
        answers = await asyncio.gather(*(it.ask() for _ in range(300)))
        assert all(answer.headers["x-model-version"] == "1" for answer in answers)
        assert it.count("dropped") > 0
        assert len(it.pair._waiting) <= module.MOST_WAITING


async def test_an_error_of_what_compares_is_contained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with service(tmp_path, FakeEngine(STABLE), FakeEngine(STABLE)) as it:

        def broken(first: Any, second: Any) -> None:
            raise ValueError("a secret text")

        monkeypatch.setattr(it.pair._stable.tasks[0], "compare", broken)
        await it.ask()
        await it.ended(1)
        assert it.count("failed") == 1


async def test_what_answers_share_is_a_metric(tmp_path: Path) -> None:
    async with service(tmp_path, FakeEngine(STABLE), FakeEngine(STABLE)) as it:
        it.pair._observe([Difference(False, overlap=0.5), Difference(True, overlap=1.0)])
        value = it.metrics.registry.get_sample_value
        assert value("bertie_shadow_overlap_sum", {"model": "sentiment"}) == 1.5
        assert value("bertie_shadow_score_distance_count", {"model": "sentiment"}) is None


async def test_a_version_that_failed_and_is_gone_keeps_nobody_from_being_ready(tmp_path: Path) -> None:
    async with service(tmp_path, FakeEngine(STABLE), FakeEngine(STABLE), plan.Plan("1", warm=0)) as it:
        it.stable.error = RuntimeError("broken")
        for _ in range(5):
            assert (await it.client.post("/classify", json={"text": "fun"})).status_code == 500
        assert (await it.client.get("/health/ready")).status_code == 503
        await it.change(lambda now: plan.promote(now, "2"))
        assert (await it.client.get("/health/ready")).status_code == 200
        await it.ask()


# ---- its end --------------------------------------------------------------------------------------------------------


async def test_ended_with_its_series_and_freed(tmp_path: Path) -> None:
    async with service(tmp_path, FakeEngine(STABLE), FakeEngine(STABLE)) as it:
        for _ in range(3):
            await it.ask()
        await it.ended(3)
        held = weakref.ref(it.pair._shadow)
        await it.change(plan.end)
        await asyncio.sleep(0)

        def freed() -> bool:
            gc.collect()
            return held() is None

        await until(freed)
        page = (await it.client.get("/metrics")).text
        assert not [line for line in page.splitlines() if line.startswith("bertie_shadow") and "sentiment" in line]
        assert (await it.client.get("/models/sentiment/compare")).status_code == 404
        await it.ask()


async def test_ended_while_it_runs(tmp_path: Path) -> None:
    async with service(tmp_path, FakeEngine(STABLE), FakeEngine(STABLE)) as it:
        it.shadow.gate.clear()
        for _ in range(5):
            await it.ask()
        await until(it.shadow.entered.is_set)
        held = weakref.ref(it.pair._shadow)
        await it.change(plan.end)

        def freed() -> bool:
            gc.collect()
            return held() is None

        await until(freed)
        it.shadow.gate.set()
        await it.ask()
        assert it.shadow.rows == 1


async def test_the_same_pair_goes_on_when_the_plan_changes(tmp_path: Path) -> None:
    async with service(tmp_path, FakeEngine(STABLE), FakeEngine(STABLE)) as it:
        await it.ask()
        await it.ended(1)
        pair = it.pair
        await it.change(lambda now: plan.shadow(now, "2", 50.0))
        assert it.pair is pair
        assert pair.percent == 50.0
        assert (await it.told())["compared"] == 1


async def test_nothing_is_run_once_the_service_stops(tmp_path: Path) -> None:
    async with service(tmp_path, FakeEngine(STABLE), FakeEngine(STABLE)) as it:
        it.shadow.gate.clear()
        for _ in range(4):
            await it.ask()
        await until(it.shadow.entered.is_set)
        it.rollouts._predictor.stop()
        it.shadow.gate.set()
        await it.ended(4)
        assert it.count("dropped") == 3
        assert it.shadow.rows == 1


async def test_no_text_of_a_client_is_left(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Neither in the metrics, nor the log, nor what is told of the comparison, nor in memory once it has run."""
    caplog.set_level(logging.DEBUG)
    text = "zanzibarquux"
    async with service(tmp_path, FakeEngine(STABLE), FakeEngine(OTHER)) as it:
        await it.ask(text)
        answer = await it.ask("good " + text)
        await it.ended(2)
        await asyncio.sleep(0.01)
        gc.collect()
        own = [each for each in gc.get_objects() if isinstance(each, Answered) and each.model is it.pair._stable]
        assert not own
        it.shadow.error = RuntimeError(text)
        await it.ask("bad " + text)
        await it.ended(3)
        feedback = {"request_id": answer.headers["x-request-id"], "label": text}
        assert (await it.client.post("/feedback", json=feedback)).status_code == 422
        said = [(await it.client.get(path)).text for path in ("/metrics", "/models/sentiment/compare", "/models")]
        assert it.count("failed") == 1
        assert text not in "".join(said)
        assert text not in "".join(
            record.getMessage() for record in caplog.records if record.name.startswith("service")
        )
        assert not it.pair._waiting
