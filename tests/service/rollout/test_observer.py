"""What is made of answers: the rule's decisions, feedback, the file of disagreements."""

import asyncio
import json
import logging
from pathlib import Path
from typing import Any

import pytest

from service.errors import InvalidInput, RolloutError, UnknownModel, UnknownRequest
from service.repository import plan
from service.rollout import recent, rollouts
from service.tasks import Truth
from tests.engines import FakeEngine, until
from tests.service.rollout.test_shadow import OTHER, STABLE, Service, service

RULE = plan.Rule(compared=5, agreement=0.98, p95_ratio=1000.0)


def ruled(**changes: Any) -> plan.Plan:
    values = {"compared": 5, "agreement": 0.98, "p95_ratio": 1000.0} | changes
    return plan.Plan("1", warm=0, shadow=plan.Shadow("2", 100.0), rule=plan.Rule(**values))


def serves(it: Service) -> str:
    return it.rollouts._predictor.models["sentiment"].version


# ---- the rule -------------------------------------------------------------------------------------------------------


async def test_a_shadow_that_agrees_is_promoted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with service(tmp_path, FakeEngine(STABLE), FakeEngine(STABLE), ruled()) as it:
        for number in range(5):
            assert serves(it) == "1"
            await it.ask()
            await it.ended(number + 1) if number < 4 else None
        await until(lambda: serves(it) == "2")
        await until(lambda: "sentiment" in it.observer._decided)
        told = await it.told()
        assert (told["compared"], told["decision"]["action"], told["decision"]["done"]) == (5, "promote", True)
        assert "5 requests compared" in told["decision"]["why"]
        assert plan.read(tmp_path / "models" / "sentiment") == plan.Plan("2", ("1",), 0, rule=ruled().rule)
        (line,) = [record for record in caplog.records if "the rule decided" in record.getMessage()]
        assert line.fields["action"] == "promote"  # type: ignore[attr-defined]
        assert (await it.ask()).headers["x-model-version"] == "2"


async def test_a_shadow_that_disagrees_is_ended(tmp_path: Path) -> None:
    async with service(tmp_path, FakeEngine(STABLE), FakeEngine(OTHER), ruled()) as it:
        for _ in range(5):
            await it.ask()
        await until(lambda: "sentiment" in it.observer._decided)
        assert serves(it) == "1"
        told = await it.told()
        assert (told["decision"]["action"], told["agreement"]["value"]) == ("end", 0.0)
        assert plan.read(tmp_path / "models" / "sentiment").shadow is None
        await it.change(lambda now: plan.shadow(now, "2", 100.0))  # begun anew, with nothing counted
        assert (await it.told())["decision"] is None


async def test_a_shadow_that_fails_is_ended(tmp_path: Path) -> None:
    async with service(tmp_path, FakeEngine(STABLE), FakeEngine(STABLE), ruled()) as it:
        it.shadow.error = RuntimeError("broken")
        for _ in range(5):
            await it.ask()
        await until(lambda: "sentiment" in it.observer._decided)
        assert (await it.told())["decision"]["action"] == "end"


async def test_a_slower_shadow_is_ended(tmp_path: Path) -> None:
    slow = ruled(p95_ratio=1.5)
    async with service(tmp_path, FakeEngine(STABLE, seconds=0.01), FakeEngine(STABLE, seconds=0.05), slow) as it:
        for _ in range(5):
            await it.ask()
        await until(lambda: "sentiment" in it.observer._decided)
        told = await it.told()
        assert told["decision"]["action"] == "end"
        assert 2 < told["latency"]["p95_ratio"] < 10


async def test_without_a_rule_nothing_is_decided(tmp_path: Path) -> None:
    async with service(tmp_path, FakeEngine(STABLE), FakeEngine(STABLE)) as it:
        for _ in range(8):
            await it.ask()
        await it.ended(8)
        await asyncio.sleep(0.02)
        assert (serves(it), (await it.told())["decision"]) == ("1", None)


async def test_what_could_not_be_done_is_told_and_tried_again(tmp_path: Path) -> None:
    async with service(tmp_path, FakeEngine(STABLE), FakeEngine(STABLE), ruled()) as it:
        change, tries = it.observer._change, 0

        async def refuse(name: str, step: rollouts.Step) -> plan.Plan:
            nonlocal tries
            tries += 1
            if tries == 1:
                raise RolloutError("the disk is full")
            return await change(name, step)

        it.observer._change = refuse
        for _ in range(5):
            await it.ask()
        await it.ended(5)
        await until(lambda: it.pair.comparison.decision)
        told = (await it.told())["decision"]
        assert (told["done"], "the disk is full" in told["why"]) == (False, True)
        for _ in range(5):
            await it.ask()
        await until(lambda: serves(it) == "2")
        assert tries == 2


# ---- feedback -------------------------------------------------------------------------------------------------------


async def said(it: Service, response: Any, index: int = 0, **given: Any) -> dict[str, bool]:
    model, right = it.observer.feedback(
        response.headers["x-request-id"], index, Truth(**given), it.rollouts._predictor.serving
    )
    assert model == "sentiment"
    return dict(right)


async def test_both_versions_are_judged(tmp_path: Path) -> None:
    async with service(tmp_path, FakeEngine(STABLE), FakeEngine(OTHER)) as it:
        for number, label in enumerate(["positive", "positive", "negative"]):
            answer = await it.ask()
            await it.ended(number + 1)
            assert await said(it, answer, label=label) == {"1": label == "positive", "2": label == "negative"}
            await said(it, answer, label="negative")  # what came first counts
        told = await it.told()
        assert told["accuracy"]["1"]["count"] == 2
        assert (told["accuracy"]["2"]["count"], told["accuracy"]["2"]["of"]) == (1, 3)
        told["feedback"]["p_value"] = round(told["feedback"]["p_value"], 6)
        assert told["feedback"] == {"both": 0, "stable_only": 2, "shadow_only": 1, "neither": 0, "p_value": 0.625}
        labels = {"model": "sentiment", "version": "1", "outcome": "right"}
        assert it.metrics.registry.get_sample_value("bertie_feedback_total", labels) == 2
        await it.change(plan.end)
        assert it.metrics.registry.get_sample_value("bertie_feedback_total", labels | {"version": "2"}) is None
        assert it.metrics.registry.get_sample_value("bertie_feedback_total", labels) == 2


async def test_a_right_answer_that_comes_before_the_shadows(tmp_path: Path) -> None:
    async with service(tmp_path, FakeEngine(STABLE), FakeEngine(OTHER)) as it:
        it.shadow.gate.clear()
        answer = await it.ask()
        await until(it.shadow.entered.is_set)
        assert await said(it, answer, label="positive") == {"1": True}
        it.shadow.gate.set()
        await it.ended(1)
        told = await it.told()
        assert (told["feedback"]["stable_only"], told["accuracy"]["2"]["count"]) == (1, 0)
        assert await said(it, answer, label="positive") == {"1": True, "2": False}


async def test_of_many_inputs_the_index_says_which(tmp_path: Path) -> None:
    async with service(tmp_path, FakeEngine(STABLE), FakeEngine(OTHER)) as it:
        answer = await it.client.post("/classify", json={"inputs": [{"text": "fun"}, {"text": "dull"}]})
        await it.ended(1)
        assert await said(it, answer, 1, label="negative") == {"1": False, "2": True}
        with pytest.raises(UnknownRequest):
            await said(it, answer, 2, label="negative")


async def test_a_canary_is_judged_beside_the_stable_version(tmp_path: Path) -> None:
    wanted = plan.Plan("1", canary=plan.Canary("2", 0.0, "X-Canary"))
    async with service(tmp_path, FakeEngine(STABLE), FakeEngine(OTHER), wanted) as it:
        answer = await it.ask()
        await until(lambda: it.observer._recent.get(answer.headers["x-request-id"], 0))
        assert await said(it, answer, label="positive") == {"1": True}
        answer = await it.client.post("/classify", json={"text": "fun"}, headers={"x-canary": "true"})
        await until(lambda: it.observer._recent.get(answer.headers["x-request-id"], 0))
        assert await said(it, answer, label="positive") == {"2": False}
        told = await it.told()
        assert (told["shadow"], told["compared"]) == (None, 0)
        assert {version: share["value"] for version, share in told["accuracy"].items()} == {"1": 1.0, "2": 0.0}


async def test_what_is_not_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with service(tmp_path, FakeEngine(STABLE), FakeEngine(STABLE)) as it:
        with pytest.raises(UnknownRequest):
            it.observer.feedback("never", 0, Truth(label="positive"), it.rollouts._predictor.serving)
        answer = await it.ask()
        await it.ended(1)
        with pytest.raises(InvalidInput):
            await said(it, answer, label="lovely")
        with pytest.raises(InvalidInput):
            await said(it, answer, answer="positive")
        with pytest.raises(UnknownModel):
            it.observer.snapshot("other")


async def test_answers_are_kept_for_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with service(tmp_path, FakeEngine(STABLE), FakeEngine(STABLE)) as it:
        it.observer._recent = recent.Recent(most=2)
        answers = [await it.ask() for _ in range(3)]
        await it.ended(3)
        with pytest.raises(UnknownRequest):
            await said(it, answers[0], label="positive")
        assert await said(it, answers[1], label="positive") == {"1": True, "2": True}


# ---- the file -------------------------------------------------------------------------------------------------------


async def test_disagreements_are_written_where_a_setting_says(tmp_path: Path) -> None:
    path = tmp_path / "disagreements.jsonl"
    async with service(tmp_path, FakeEngine(STABLE), FakeEngine(OTHER), disagreements_file=path) as it:
        answer = await it.ask("a good film")
        await it.ended(1)
        await until(lambda: path.exists() and path.read_text().endswith("\n"))
    (line,) = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    assert (line["model"], line["stable"], line["request_id"]) == ("sentiment", "1", answer.headers["x-request-id"])
    assert line["input"]["text"] == "a good film"
    assert {version: said["label"] for version, said in line["answers"].items()} == {"1": "positive", "2": "negative"}


async def test_answers_that_agree_are_not_written(tmp_path: Path) -> None:
    path = tmp_path / "disagreements.jsonl"
    async with service(tmp_path, FakeEngine(STABLE), FakeEngine(STABLE), disagreements_file=path) as it:
        await it.ask()
        await it.ended(1)
    assert not path.exists()
