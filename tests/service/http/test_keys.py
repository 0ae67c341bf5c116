"""Named keys over HTTP: what each may use and how much, what is counted of it, and changes while requests come."""

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from service import protocols
from service.http.endpoints import Endpoint
from service.keys import entries, keyring
from service.metrics import Metrics
from service.settings import Settings
from tests.engines import FakeEngine, load_with, until
from tests.serving import serving

GOOD = {"text": "a wonderful film"}
QUESTION = {"question": "Where does Ada live?", "context": "Ada lives in London."}
SECRET = "bertie_this-stays-out-of-log-and-metrics"


def entry(name: str, *tokens: str, **limits: Any) -> str:
    hashes = ", ".join(f'"{entries.written(token)}"' for token in tokens or (name,))
    more = "".join(f"{field} = {value}\n" for field, value in limits.items())
    return f'[[key]]\nname = "{name}"\nhashes = [{hashes}]\n{more}\n'


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def count(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


@pytest.fixture
def keyed(settings: Settings) -> Settings:
    keys = entry("all") + entry("reader", models='["qa"]') + entry("writer", models='["sentiment", "not-loaded"]')
    return settings.model_copy(update={"keys": keys})


@pytest.fixture
async def client(keyed: Settings, metrics: Metrics) -> AsyncIterator[httpx.AsyncClient]:
    async with serving(keyed, metrics=metrics) as client:
        yield client


# ---- models ---------------------------------------------------------------------------------------------------------


async def test_a_model_that_a_key_may_not_use_is_forbidden(client: httpx.AsyncClient, metrics: Metrics) -> None:
    response = await client.post("/classify", json=GOOD | {"model": "sentiment"}, headers=bearer("reader"))
    assert response.status_code == 403
    problem = response.json()
    assert problem["type"] == "urn:bertie:problem:forbidden"
    assert (problem["detail"], problem["field"]) == ("this API key may not use model 'sentiment'", "model")
    assert "x-model-version" not in response.headers
    assert count(metrics, "bertie_rejected_total", reason="forbidden") == 1
    assert count(metrics, "bertie_key_rejected_total", key="reader", reason="forbidden") == 1
    for token in ("writer", "all"):
        response = await client.post("/classify", json=GOOD | {"model": "sentiment"}, headers=bearer(token))
        assert response.status_code == 200


async def test_without_a_name_one_of_the_keys_models_is_chosen(client: httpx.AsyncClient) -> None:
    assert (await client.post("/qa", json=QUESTION, headers=bearer("reader"))).json()["model"] == "qa"
    response = await client.post("/classify", json=GOOD, headers=bearer("reader"))
    assert response.status_code == 404
    assert response.json()["detail"] == "no loaded model can answer these fields"
    pair = {"premise": "A man sleeps.", "hypothesis": "A man is awake."}
    assert (await client.post("/classify", json=pair, headers=bearer("all"))).json()["model"] == "nli"
    assert (await client.post("/classify", json=pair, headers=bearer("writer"))).json().get("model") != "nli"


@pytest.mark.parametrize(
    "path", ["/models", "/v1/models", "/v2/models", "/v2/repository/index", "/info", "/models/qa", "/models/qa/info"]
)
async def test_no_list_names_a_model_that_the_key_may_not_use(client: httpx.AsyncClient, path: str) -> None:
    response = await client.get(path, headers=bearer("reader"))
    if response.status_code == 405:
        response = await client.post(path, json={}, headers=bearer("reader"))
    if response.status_code != 404:
        assert response.status_code == 200, response.text
        assert '"qa"' in response.text
        for name in ("sentiment", "nli"):
            assert f'"{name}"' not in response.text
        assert '"sentiment"' in (await client.get("/models", headers=bearer("all"))).text


async def test_no_error_names_a_model_that_the_key_may_not_use(client: httpx.AsyncClient) -> None:
    for response in (
        await client.post("/qa", json=QUESTION | {"model": "nope"}, headers=bearer("reader")),
        await client.get("/models/nope", headers=bearer("reader")),
    ):
        assert response.status_code == 404
        assert response.json()["detail"] == "there is no model 'nope'; there are qa"


def templated(settings: Settings) -> list[Endpoint]:
    return [each for each in protocols.endpoints(settings) if "{name}" in each.path and not each.open]


async def test_every_path_that_names_a_model_asks_whether_the_key_may_use_it(
    client: httpx.AsyncClient, keyed: Settings
) -> None:
    """In every protocol's own form: none has a way around."""
    endpoints = templated(keyed)
    assert len(endpoints) >= 10
    for endpoint in endpoints:
        named = endpoint.path.replace("{name}", "sentiment").replace("{version}", "1")
        body = endpoint.document.example or {"inputs": "a film"}
        response = await client.request(
            endpoint.method, named, json=body if endpoint.method == "POST" else None, headers=bearer("reader")
        )
        assert response.status_code == 403, (endpoint.path, response.text)
        assert "may not use model 'sentiment'" in response.text, endpoint.path


async def test_a_key_whose_models_are_not_loaded_gets_none(settings: Settings) -> None:
    keys = entry("nothing", models='["gone"]')
    async with serving(settings.model_copy(update={"keys": keys})) as client:
        assert (await client.get("/models", headers=bearer("nothing"))).json() == {"models": []}
        assert (await client.get("/info", headers=bearer("nothing"))).status_code == 404
        assert (await client.post("/qa", json=QUESTION, headers=bearer("nothing"))).status_code == 404


# ---- limits ---------------------------------------------------------------------------------------------------------


async def test_requests_a_second(settings: Settings, metrics: Metrics) -> None:
    keys = entry("slow", requests_per_second=0.4, requests_burst=2) + entry("other")
    async with serving(settings.model_copy(update={"keys": keys}), metrics=metrics) as client:
        statuses = []
        for _ in range(4):
            response = await client.post("/classify", json=GOOD, headers=bearer("slow"))
            statuses.append(response.status_code)
        assert statuses == [200, 200, 429, 429]
        assert response.json()["type"] == "urn:bertie:problem:rate-limited"
        assert "slow may send 0.4 requests a second" in response.json()["detail"]
        wait = int(response.headers["retry-after"])
        assert 2 <= wait <= 3
        assert (await client.post("/classify", json=GOOD, headers=bearer("other"))).status_code == 200
        await asyncio.sleep(wait)
        assert (await client.post("/classify", json=GOOD, headers=bearer("slow"))).status_code == 200
        assert (await client.get("/models", headers=bearer("slow"))).status_code == 200  # runs no model
    assert count(metrics, "bertie_rejected_total", reason="rate_limit") == 2
    assert count(metrics, "bertie_key_rejected_total", key="slow", reason="rate_limit") == 2
    assert count(metrics, "bertie_key_rejected_total", key="other", reason="rate_limit") is None


async def test_tokens_a_second_count_as_they_ran(settings: Settings, metrics: Metrics) -> None:
    """The estimate at the gate is by bytes; what runs takes its place."""
    keys = entry("few", tokens_per_second=0.01, tokens_burst=100)
    async with serving(settings.model_copy(update={"keys": keys}), metrics=metrics) as client:
        answered = 0
        while (response := await client.post("/classify", json=GOOD, headers=bearer("few"))).status_code == 200:
            answered += 1
        assert response.status_code == 429
        ran = count(metrics, "bertie_key_tokens_total", key="few") or 0
        assert ran == answered * 5  # [CLS] a wonderful film [SEP]
        assert 75 < ran <= 100  # the next one's estimate is some 23 tokens
        large = {"inputs": [GOOD] * 100}
        response = await client.post("/classify", json=large, headers=bearer("few"))
        assert (response.status_code, response.json()["type"]) == (429, "urn:bertie:problem:rate-limited")
        assert int(response.headers["retry-after"]) > 1000


async def test_a_body_of_unknown_length_is_counted_as_it_comes(settings: Settings) -> None:
    keys = entry("few", tokens_per_second=1, tokens_burst=1000)

    async def parts() -> AsyncIterator[bytes]:
        yield b'{"text": "'
        for _ in range(100):
            yield b"a" * 1000
        yield b'"}'

    async with serving(settings.model_copy(update={"keys": keys})) as client:
        assert (await client.post("/classify", json=GOOD, headers=bearer("few"))).status_code == 200
        headers = bearer("few") | {"content-type": "application/json"}
        response = await client.post("/classify", content=parts(), headers=headers)
        assert (response.status_code, response.json()["type"]) == (429, "urn:bertie:problem:rate-limited")
        assert client.app.state.gate.predictor.permits.requests.held == 0  # type: ignore[attr-defined]


async def test_a_share_of_the_queue(settings: Settings) -> None:
    engine = FakeEngine()
    engine.gate.clear()
    changes = {"keys": entry("half", share=0.5) + entry("other"), "max_requests": 8}
    load = load_with(sentiment=engine)
    async with serving(settings.model_copy(update=changes), load=load) as client:
        app: Any = client.app  # type: ignore[attr-defined]
        permits = app.state.gate.predictor.permits

        def ask(token: str) -> asyncio.Task[httpx.Response]:
            return asyncio.create_task(client.post("/classify", json=GOOD, headers=bearer(token)))

        asked = [ask("half") for _ in range(4)]
        await until(lambda: permits.requests.held == 4)
        response = await ask("half")
        assert (response.status_code, response.json()["type"]) == (429, "urn:bertie:problem:queue-full")
        assert "4 of this client's; the limit is 8, 50% of it for this client" in response.json()["detail"]
        asked += [ask("other") for _ in range(3)]
        await until(lambda: permits.requests.held == 7)
        engine.gate.set()
        assert {response.status_code for response in await asyncio.gather(*asked)} == {200}


# ---- what is noted --------------------------------------------------------------------------------------------------


async def test_a_keys_name_is_noted_and_its_token_nowhere(
    settings: Settings, metrics: Metrics, caplog: pytest.LogCaptureFixture
) -> None:
    keys = entry("team", SECRET, models='["sentiment"]')
    caplog.set_level(logging.DEBUG)
    async with serving(settings.model_copy(update={"keys": keys}), metrics=metrics) as client:
        for body in (GOOD, {"text": 1}, GOOD | {"model": "qa"}, {"inputs": [GOOD, GOOD]}):
            await client.post("/classify", json=body, headers=bearer(SECRET))
        await client.get("/models", headers=bearer(SECRET))
        await client.post("/classify", json=GOOD, headers=bearer(SECRET + "x"))
        await client.post("/classify", json=GOOD)
        scraped = (await client.get("/metrics")).text
    fields = [vars(record)["fields"] for record in caplog.records if record.message == "request"]
    assert [(each["status"], each.get("key")) for each in fields] == [
        (200, "team"), (422, "team"), (403, "team"), (200, "team"), (200, "team"), (401, None), (401, None), (200, None)
    ]  # fmt: skip
    assert count(metrics, "bertie_key_requests_total", key="team", status="200") == 3
    assert count(metrics, "bertie_key_requests_total", key="team", status="422") == 1
    assert count(metrics, "bertie_key_tokens_total", key="team") == 15
    assert count(metrics, "bertie_key_rejected_total", key="team", reason="invalid") == 1
    for text in (scraped, caplog.text, str([vars(record) for record in caplog.records])):
        assert SECRET not in text
        assert entries.written(SECRET).removeprefix(entries.PREFIX) not in text


async def test_without_keys_nothing_is_noted_of_them(
    settings: Settings, metrics: Metrics, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with serving(settings, metrics=metrics) as client:
        assert (await client.post("/classify", json=GOOD, headers=bearer("x"))).status_code == 200
        assert "bertie_key_requests_total{" not in (await client.get("/metrics")).text
    assert all("key" not in vars(record)["fields"] for record in caplog.records if record.message == "request")


async def test_the_document_says_that_keys_are_wanted(client: httpx.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()
    assert document["components"]["securitySchemes"] == {"key": {"type": "http", "scheme": "bearer"}}
    assert "403" in document["paths"]["/classify"]["post"]["responses"]


# ---- changes while requests come ------------------------------------------------------------------------------------


async def test_no_request_fails_while_keys_change(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key that stays is good all the time; a rotated one by its old token and then by either."""
    monkeypatch.setattr(keyring, "POLL_SECONDS", 0.02)
    path = tmp_path / "keys.toml"

    def write(text: str) -> None:
        new = path.with_suffix(".new")
        new.write_text(text)
        os.replace(new, path)

    write(entry("stays") + entry("turns", "old"))
    async with serving(settings.model_copy(update={"keys_file": path})) as client:
        statuses: list[int] = []
        stop = time.perf_counter() + 1.5

        async def ask(token: str) -> None:
            while time.perf_counter() < stop:
                response = await client.post("/classify", json=GOOD, headers=bearer(token))
                statuses.append(response.status_code)

        async def status(token: str) -> int:
            return (await client.post("/classify", json=GOOD, headers=bearer(token))).status_code

        asking = [asyncio.create_task(ask(token)) for token in ("stays", "stays", "old")]
        for i in range(12):
            write(entry("stays") + entry("turns", "old", "new") + entry(f"guest-{i}"))
            await asyncio.sleep(0.07)
        assert [await status(token) for token in ("old", "new", "guest-11", "guest-10")] == [200, 200, 200, 401]
        await asyncio.gather(*asking)
        assert set(statuses) == {200}
        assert len(statuses) > 20
        write(entry("stays") + entry("turns", "new"))
        async with asyncio.timeout(5):
            while await status("old") != 401:
                await asyncio.sleep(0.01)
        assert await status("new") == 200


async def test_a_key_that_is_revoked_while_its_request_runs_is_answered(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keyring, "POLL_SECONDS", 0.02)
    path, engine = tmp_path / "keys.toml", FakeEngine()
    path.write_text(entry("goes", requests_per_second=10, tokens_per_second=1e4) + entry("stays"))
    engine.gate.clear()
    load = load_with(sentiment=engine)
    async with serving(settings.model_copy(update={"keys_file": path}), load=load) as client:
        first = asyncio.create_task(client.post("/classify", json=GOOD, headers=bearer("goes")))
        await until(engine.entered.is_set)
        path.write_text(entry("stays"))
        async with asyncio.timeout(5):
            while (await client.get("/models", headers=bearer("goes"))).status_code != 401:
                await asyncio.sleep(0.01)
        engine.gate.set()
        assert (await first).status_code == 200
        assert client.app.state.gate.predictor.permits.requests.held == 0  # type: ignore[attr-defined]


async def test_a_key_file_that_is_wrong_stops_the_start(settings: Settings, tmp_path: Path) -> None:
    from service.errors import ConfigurationError

    with pytest.raises(ConfigurationError, match="it cannot be read"):
        async with serving(settings.model_copy(update={"keys_file": tmp_path / "none"})):
            raise AssertionError("it serves")


async def test_plain_tokens_still_do(settings: Settings, metrics: Metrics) -> None:
    keys = (SecretStr("a"), SecretStr("b"))
    async with serving(settings.model_copy(update={"api_keys": keys}), metrics=metrics) as client:
        assert (await client.post("/classify", json=GOOD, headers=bearer("b"))).status_code == 200
    assert count(metrics, "bertie_key_requests_total", key="key-2", status="200") == 1
