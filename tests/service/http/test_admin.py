"""The administrators' routes, over HTTP: who may, what they do, what is logged, and that what serves goes on."""

import asyncio
import logging
import os
import signal
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr, ValidationError

from service.repository import loading, plan
from service.settings import Settings
from tests.bundles import change_manifest, make_version
from tests.engines import until
from tests.serving import running, serving

KEY = "administrators-key"
BASE = "/admin/models/sentiment"
GOOD = {"text": "a wonderful film"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    models = tmp_path / "models"
    for version in ("1", "2"):
        make_version(models, "sentiment", version, temperature=float(version))
    with plan.edit(models / "sentiment") as edit:
        edit.plan = plan.Plan("1", warm=0)
    return models


@pytest.fixture
def settings(folder: Path) -> Settings:
    return Settings(models_dir=folder, device="cpu", workers=1, intra_op_threads=1, admin_key=SecretStr(KEY))


@pytest.fixture
async def client(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    async with serving(settings) as client:
        client.headers["authorization"] = f"Bearer {KEY}"
        yield client


async def version_of(client: httpx.AsyncClient, **headers: str) -> str:
    answer = await client.post("/classify", json=GOOD, headers=headers)
    assert answer.status_code == 200
    return answer.headers["x-model-version"]


def roles(answer: httpx.Response) -> dict[str, list[str]]:
    assert answer.status_code == 200, answer.text
    return {each["version"]: each["roles"] for each in answer.json()["versions"]}


class TestKey:
    async def test_without_one_there_is_no_such_path(self, settings: Settings) -> None:
        async with serving(settings.model_copy(update={"admin_key": None})) as client:
            assert (await client.get(BASE)).status_code == 404
            assert (await client.post(f"{BASE}/promote", json={"version": "2"})).status_code == 404
            assert await version_of(client) == "1"
            assert not [path for path in (await client.get("/openapi.json")).json()["paths"] if "admin" in path]

    @pytest.mark.parametrize(
        "value", ["", "Bearer", "Bearer x", f"Basic {KEY}", KEY, f"Bearer {KEY}x", f"Bearer {KEY[:-1]}"]
    )
    @pytest.mark.parametrize(
        ("method", "path"),
        [("GET", BASE), ("POST", f"{BASE}/promote"), ("DELETE", f"{BASE}/versions/2"), ("POST", f"{BASE}/versions")],
    )
    async def test_a_wrong_one(self, client: httpx.AsyncClient, value: str, method: str, path: str) -> None:
        answer = await client.request(method, path, headers={"authorization": value}, content=b"{")
        assert answer.status_code == 401
        assert answer.json()["type"] == "urn:bertie:problem:unauthorized"
        assert answer.headers["www-authenticate"]
        assert await version_of(client) == "1"

    async def test_a_clients_key_is_none(self, settings: Settings) -> None:
        both = settings.model_copy(update={"api_keys": (SecretStr("client"),)})
        async with serving(both) as client:
            wrong = await client.post(
                f"{BASE}/promote", json={"version": "2"}, headers={"authorization": "Bearer client"}
            )
            assert wrong.status_code == 401
            wrong = await client.post("/classify", json=GOOD, headers={"authorization": f"Bearer {KEY}"})
            assert wrong.status_code == 401

    def test_a_short_one_is_refused(self) -> None:
        with pytest.raises(ValidationError, match="at least 16"):
            Settings(admin_key="short")


class TestSteps:
    async def test_look(self, client: httpx.AsyncClient) -> None:
        found = (await client.get(BASE)).json()
        assert found["model"] == "sentiment"
        assert [(each["version"], each["roles"], each["state"]) for each in found["versions"]] == [
            ("1", ["stable"], "ready"),
            ("2", [], "available"),
        ]
        listed = (await client.get("/models/sentiment")).json()
        assert listed["versions"] == found["versions"]
        assert listed["version"] == "1"

    async def test_canary_promote_and_rollback(self, client: httpx.AsyncClient) -> None:
        body = {"version": "2", "percent": 0.0, "header": "X-Canary", "sticky": "X-User"}
        assert roles(await client.post(f"{BASE}/canary", json=body)) == {"1": ["stable"], "2": ["canary"]}
        assert await version_of(client) == "1"
        assert await version_of(client, **{"x-canary": "true"}) == "2"
        assert roles(await client.post(f"{BASE}/promote")) == {"1": ["previous"], "2": ["stable"]}
        assert await version_of(client) == "2"
        assert roles(await client.post(f"{BASE}/rollback", json={})) == {"1": ["stable"], "2": []}
        assert await version_of(client) == "1"

    async def test_shadow_rule_and_end(self, client: httpx.AsyncClient, folder: Path) -> None:
        assert roles(await client.post(f"{BASE}/shadow", json={"version": "2", "percent": 5})) == {
            "1": ["stable"],
            "2": ["shadow"],
        }
        rule = {"compared": 2000, "agreement": 0.98, "p95_ratio": 1.2}
        assert (await client.post(f"{BASE}/rule", json=rule)).status_code == 200
        assert plan.read(folder / "sentiment").rule == plan.Rule(2000, 0.98, 1.2)
        assert roles(await client.post(f"{BASE}/end")) == {"1": ["stable"], "2": []}

    async def test_add_verify_and_remove(self, client: httpx.AsyncClient, tmp_path: Path) -> None:
        source = make_version(tmp_path / "new", "sentiment", "x", temperature=3.0)
        change_manifest(source, name="sentiment")
        assert roles(await client.post(f"{BASE}/versions", json={"source": str(source)})) == {
            "1": ["stable"], "2": [], "3": [],
        }  # fmt: skip
        assert (await client.post(f"{BASE}/verify", json={"version": "3"})).status_code == 200
        assert roles(await client.delete(f"{BASE}/versions/3")) == {"1": ["stable"], "2": []}

    async def test_reload(self, client: httpx.AsyncClient, folder: Path) -> None:
        with plan.edit(folder / "sentiment") as edit:
            edit.plan = plan.promote(edit.plan, "2")
        assert await version_of(client) == "1"
        await client.post(f"{BASE}/reload")
        assert await version_of(client) == "2"


class TestRefusals:
    @pytest.mark.parametrize(
        ("path", "body", "status", "detail"),
        [
            ("promote", {}, 409, "neither a canary nor a shadow"),
            ("promote", {"version": "1"}, 409, "stable already"),
            ("promote", {"version": "9"}, 422, "no version '9'"),
            ("rollback", {}, 409, "no version to go back to"),
            ("end", {}, 409, "neither a canary nor a shadow"),
            ("canary", {"version": "2"}, 422, "percent"),
            ("canary", {"version": "2", "percent": 101}, 422, "percent"),
            ("canary", {"version": "2", "percent": 1, "header": "a b"}, 409, "header"),
            ("canary", {"version": "1", "percent": 1}, 409, "is stable"),
            ("versions", {"source": "/nowhere/at/all"}, 422, "manifest.json is missing"),
            ("versions", {"source": "x", "force": True}, 422, "force"),
            ("verify", {"version": "../1"}, 422, "no version"),
        ],
    )
    async def test_says_why(
        self, client: httpx.AsyncClient, path: str, body: dict[str, Any], status: int, detail: str
    ) -> None:
        answer = await client.post(f"{BASE}/{path}", json=body)
        assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
        assert detail in answer.text
        assert await version_of(client) == "1"

    async def test_a_broken_version(self, client: httpx.AsyncClient, folder: Path) -> None:
        (folder / "sentiment" / "2" / "model.fp32.onnx").write_bytes(b"")
        answer = await client.post(f"{BASE}/promote", json={"version": "2"})
        assert answer.status_code == 422
        assert answer.json()["type"] == "urn:bertie:problem:unservable"
        versions = {each["version"]: each for each in (await client.get(BASE)).json()["versions"]}
        assert versions["2"]["state"] == "failed"
        assert versions["2"]["reason"] == answer.json()["detail"]
        assert await version_of(client) == "1"

    async def test_an_unknown_model(self, client: httpx.AsyncClient) -> None:
        assert (await client.post("/admin/models/poetry/rollback")).status_code == 404

    async def test_a_body_that_is_too_large(self, client: httpx.AsyncClient) -> None:
        answer = await client.post(f"{BASE}/promote", content=b'{"version": "' + b"2" * 20_000 + b'"}')
        assert answer.status_code == 415  # not said to be JSON
        headers = {"content-type": "application/json"}
        answer = await client.post(f"{BASE}/promote", content=b'{"version": "' + b"2" * 20_000 + b'"}', headers=headers)
        assert answer.status_code == 413

        async def chunks() -> AsyncIterator[bytes]:
            for _ in range(40):
                yield b" " * 1024

        answer = await client.post(f"{BASE}/promote", content=chunks(), headers=headers)
        assert answer.status_code == 413


async def test_each_change_is_logged_with_its_outcome(
    client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "service.audit")
    await client.post(f"{BASE}/promote", json={"version": "2"}, headers={"x-request-id": "a"})
    await client.post(f"{BASE}/promote", json={"version": "2"}, headers={"x-request-id": "b"})
    done, refused = [record.__dict__["fields"] for record in caplog.records if record.name == "service.audit"]
    client_name = done.pop("client")
    assert refused.pop("client") == client_name == "127.0.0.1"
    assert done == {
        "action": "promote", "model": "sentiment", "version": "2", "request_id": "a", "outcome": "done",
    }  # fmt: skip
    assert refused["outcome"] == "refused: version '2' is stable already"
    assert KEY not in caplog.text


async def test_one_that_takes_long_goes_on(settings: Settings) -> None:
    gate = threading.Event()

    def slow(*given: Any) -> Any:
        gate.wait(30)
        return loading.open_bundle(*given)

    short = settings.model_copy(update={"timeout_seconds": 1.0})
    async with serving(short, open_bundle=slow) as client:
        client.headers["authorization"] = f"Bearer {KEY}"
        answer = await client.post(f"{BASE}/promote", json={"version": "2"})
        assert answer.status_code == 202
        assert {each["version"]: each["state"] for each in answer.json()["versions"]}["2"] == "loading"
        assert await version_of(client) == "1"
        gate.set()

        async def done() -> bool:
            return await version_of(client) == "2"

        async with asyncio.timeout(10):
            while not await done():
                await asyncio.sleep(0.01)


async def test_every_answer_says_which_version_gave_it(client: httpx.AsyncClient) -> None:
    for path, body in (
        ("/classify", GOOD),
        ("/classify", {"inputs": [GOOD, GOOD]}),
        ("/predict", {"inputs": "fine"}),
        ("/v1/models/sentiment:predict", {"instances": [GOOD]}),
    ):
        answer = await client.post(path, json=body)
        assert answer.status_code == 200
        assert answer.headers["x-model-version"] == "1"
    tensor = {"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["fine"]}]}
    answer = await client.post("/v2/models/sentiment/versions/1/infer", json=tensor)
    assert answer.json()["model_version"] == answer.headers["x-model-version"] == "1"
    assert (await client.post("/v2/models/sentiment/versions/2/infer", json=tensor)).status_code == 404
    await client.post(f"{BASE}/shadow", json={"version": "2", "percent": 0})
    answer = await client.post("/v2/models/sentiment/versions/2/infer", json=tensor)
    assert answer.json()["model_version"] == answer.headers["x-model-version"] == "2"
    index = (await client.post("/v2/repository/index", json={})).json()
    assert [each["version"] for each in index] == ["1", "2"]


SLOW_SWAP = (
    "-c",
    """
import functools, logging, sys, time
import service.program as program
from service.app import create_app
from service.repository import loading

def slow(*given):
    logging.getLogger("loader").info("loading beside")
    time.sleep(60)

program.create_app = functools.partial(create_app, open_bundle=slow)
sys.exit(program.main([]))
""",
)


async def test_sigterm_during_a_swap(folder: Path) -> None:
    with running(folder, command=SLOW_SWAP, BERTIE_ADMIN_KEY=KEY, BERTIE_DRAIN_SECONDS="5") as service:
        async with httpx.AsyncClient(base_url=service.url, headers={"authorization": f"Bearer {KEY}"}) as client:
            asked = asyncio.create_task(client.post(f"{BASE}/promote", json={"version": "2"}, timeout=20))
            await until(lambda: any(record["message"] == "loading beside" for record in service.log))
            assert await version_of(client) == "1"
            os.kill(service.process.pid, signal.SIGTERM)
            assert (await asked).status_code in (200, 202, 503)
        assert service.process.wait(15) == 0
    assert plan.read(folder / "sentiment") == plan.Plan("1", warm=0)
