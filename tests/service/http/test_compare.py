"""`GET /models/NAME/compare` and `POST /feedback` through HTTP."""

import hashlib
from pathlib import Path
from typing import Any

import pytest

from tests.engines import FakeEngine
from tests.service.rollout.test_shadow import OTHER, STABLE, service

KEY = {"authorization": "Bearer secret"}


async def test_the_snapshot_and_the_feedback(tmp_path: Path) -> None:
    async with service(tmp_path, FakeEngine(STABLE), FakeEngine(OTHER)) as it:
        answer = await it.ask()
        await it.ended(1)
        body = {"request_id": answer.headers["x-request-id"], "label": "negative"}
        judged = await it.client.post("/feedback", json=body)
        assert (judged.status_code, judged.json()) == (200, {"model": "sentiment", "right": {"1": False, "2": True}})
        told = await it.told()
        assert told["feedback"]["shadow_only"] == 1
        unknown = await it.client.post("/feedback", json=body | {"index": 1})
        assert (unknown.status_code, unknown.json()["field"]) == (404, "request_id")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"label": "lovely"}, "label"),
        ({"label": 3}, "label"),
        ({"score": 1.0}, "score"),
        ({"index": -1}, "index"),
        ({"request_id": ""}, "request_id"),
        ({"text": "a secret"}, "text"),
    ],
)
async def test_what_is_wrong_is_named(tmp_path: Path, change: dict[str, Any], field: str) -> None:
    async with service(tmp_path, FakeEngine(STABLE), FakeEngine(OTHER)) as it:
        answer = await it.ask()
        await it.ended(1)
        body = {"request_id": answer.headers["x-request-id"], "label": "negative"} | change
        refused = await it.client.post("/feedback", json=body)
        assert (refused.status_code, refused.json()["field"].split(".")[0]) == (422, field)


async def test_both_want_the_key(tmp_path: Path) -> None:
    async with service(tmp_path, FakeEngine(STABLE), FakeEngine(STABLE), api_keys="secret") as it:
        assert (await it.client.get("/models/sentiment/compare")).status_code == 401
        assert (await it.client.post("/feedback", json={"request_id": "x"})).status_code == 401
        assert (await it.client.get("/models/sentiment/compare", headers=KEY)).status_code == 200
        assert (await it.client.post("/feedback", json={"request_id": "x"}, headers=KEY)).status_code == 404


async def test_the_document_knows_them(tmp_path: Path) -> None:
    async with service(tmp_path, FakeEngine(STABLE), FakeEngine(STABLE)) as it:
        document = (await it.client.get("/openapi.json")).json()
        paths, schemas = document["paths"], document["components"]["schemas"]
        assert paths["/models/{name}/compare"]["get"]["responses"]["200"]["content"]["application/json"]["schema"] == {
            "$ref": "#/components/schemas/Snapshot"
        }
        assert "from" in schemas["Flip"]["properties"]
        assert schemas["Feedback"]["required"] == ["request_id"]
        assert "Server-Timing" not in paths["/feedback"]["post"]["responses"]["200"]["headers"]


async def test_before_the_models_are_loaded(tmp_path: Path) -> None:
    async with service(tmp_path, FakeEngine(STABLE), FakeEngine(STABLE)) as it:
        it.client.app.state.gate.rollouts = None  # type: ignore[attr-defined]
        assert (await it.client.get("/models/sentiment/compare")).status_code == 503


async def test_another_models_key_learns_nothing(tmp_path: Path) -> None:
    digest = hashlib.sha256(b"theirs").hexdigest()
    keys = f'[[key]]\nname = "a"\nhashes = ["sha256:{digest}"]\nmodels = ["poetry"]\n'
    async with service(tmp_path, FakeEngine(STABLE), FakeEngine(STABLE), api_keys="secret", keys=keys) as it:
        answer = await it.client.post("/classify", json={"text": "good"}, headers=KEY)
        await it.ended(1)
        theirs = {"authorization": "Bearer theirs"}
        assert (await it.client.get("/models/sentiment/compare", headers=theirs)).status_code == 403
        body = {"request_id": answer.headers["x-request-id"], "label": "negative"}
        assert (await it.client.post("/feedback", json=body, headers=theirs)).status_code == 404
        assert (await it.client.post("/feedback", json=body, headers=KEY)).status_code == 200
