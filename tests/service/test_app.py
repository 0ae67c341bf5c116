import asyncio
import hashlib
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from service import playground
from service.app import create_app
from service.errors import BundleError
from service.metrics import Metrics
from service.predict import Predictor
from service.settings import Settings
from tests.serving import serving

GOOD = {"text": "a wonderful film"}


class TestProblems:
    @pytest.mark.parametrize(
        ("method", "path", "status", "slug"),
        [
            ("GET", "/nope", 404, "not-found"),
            ("GET", "/health/ready/", 404, "not-found"),
            ("POST", "/models/../etc/passwd", 404, "not-found"),
            ("GET", "/qa", 405, "method-not-allowed"),
            ("DELETE", "/models", 405, "method-not-allowed"),
            ("POST", "/", 405, "method-not-allowed"),
            ("GET", "/models/nope", 404, "unknown-model"),
        ],
    )
    async def test_every_error_is_a_problem_document(
        self, client: httpx.AsyncClient, method: str, path: str, status: int, slug: str
    ) -> None:
        response = await client.request(method, path)
        assert response.status_code == status
        assert response.headers["content-type"] == "application/problem+json"
        problem = response.json()
        assert problem["type"] == f"urn:bertie:problem:{slug}"
        assert problem["status"] == status
        assert problem["title"]
        assert problem["detail"]
        assert problem["request_id"] == response.headers["x-request-id"]
        assert ("allow" in response.headers) == (status == 405)

    async def test_an_unexpected_error_tells_nothing_of_the_inside(
        self, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def broken(self: Predictor, *_: Any) -> None:
            raise ValueError("secret internals")

        monkeypatch.setattr(Predictor, "predict", broken)
        response = await client.post("/classify", json=GOOD)
        assert response.status_code == 500
        assert response.headers["content-type"] == "application/problem+json"
        assert "secret" not in response.text
        assert "ValueError" not in response.text
        [record] = [record for record in caplog.records if record.exc_info]
        assert record.__dict__["fields"] == {"request_id": response.headers["x-request-id"]}
        monkeypatch.undo()
        assert (await client.post("/classify", json=GOOD)).status_code == 200


class TestRequestId:
    @pytest.mark.parametrize("sane", ["a", "A-b_c.9", "x" * 128])
    async def test_the_callers_own_comes_back(self, client: httpx.AsyncClient, sane: str) -> None:
        for path in ("/health/live", "/nope"):
            assert (await client.get(path, headers={"x-request-id": sane})).headers["x-request-id"] == sane

    @pytest.mark.parametrize("mad", ["", " ", "a b", "x" * 129, "é", "a\tb", '"', "a\n"])
    async def test_a_mad_one_is_replaced(self, client: httpx.AsyncClient, mad: str) -> None:
        response = await client.get("/health/live", headers={b"x-request-id": mad.encode("utf-8")})
        assert re.fullmatch("[0-9a-f]{32}", response.headers["x-request-id"])

    async def test_new_ones_differ(self, client: httpx.AsyncClient) -> None:
        ids = {(await client.get("/health/live")).headers["x-request-id"] for _ in range(20)}
        assert len(ids) == 20


class TestKeys:
    @pytest.fixture
    def guarded(self, settings: Settings) -> Settings:
        return settings.model_copy(update={"api_keys": (SecretStr("first"), SecretStr("zweiter-schlüssel"))})

    async def test_the_api_wants_one(self, guarded: Settings, metrics: Metrics) -> None:
        async with serving(guarded, metrics=metrics) as client:
            requests: list[dict[str, Any]] = [
                {"method": "POST", "url": "/classify", "json": GOOD},
                {"method": "POST", "url": "/qa", "json": {"question": "Who?", "context": "Ada"}},
                {"method": "GET", "url": "/models"},
                {"method": "GET", "url": "/models/qa"},
            ]
            for request in requests:
                for key in ("first", "zweiter-schlüssel"):
                    headers = {b"authorization": f"Bearer {key}".encode()}
                    assert (await client.request(**request, headers=headers)).status_code == 200
                for wrong in (
                    "",
                    "Bearer",
                    "Bearer ",
                    "Bearer firs",
                    "Bearer firstt",
                    "Basic first",
                    "first",
                    "Bearer x",
                ):
                    response = await client.request(**request, headers={"authorization": wrong})
                    assert response.status_code == 401, wrong
                    assert response.headers["www-authenticate"] == "Bearer"
                    assert response.headers["content-type"] == "application/problem+json"
                    assert response.headers["x-request-id"] == response.json()["request_id"]
                assert (await client.request(**request)).status_code == 401
            assert (await client.get("/nope")).status_code == 401
        assert metrics.registry.get_sample_value("bertie_rejected_total", {"reason": "unauthorized"}) == 37

    async def test_health_metrics_and_pages_want_none(self, guarded: Settings) -> None:
        async with serving(guarded) as client:
            for path in ("/health/live", "/health/ready", "/metrics", "/docs", "/openapi.json", *playground.handlers()):
                assert (await client.get(path)).status_code == 200, path
            document = (await client.get("/openapi.json")).json()
        assert document["components"]["securitySchemes"] == {"key": {"type": "http", "scheme": "bearer"}}
        assert document["paths"]["/qa"]["post"]["security"] == [{"key": []}]
        assert "security" not in document["paths"]["/health/live"]["get"]

    async def test_by_default_there_are_none(self, client: httpx.AsyncClient) -> None:
        assert (await client.get("/models")).status_code == 200
        assert "securitySchemes" not in (await client.get("/openapi.json")).json()["components"]


class TestPlayground:
    async def test_the_page_and_what_it_names(self, client: httpx.AsyncClient) -> None:
        page = await client.get("/")
        assert page.status_code == 200
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert "default-src 'none'" in page.headers["content-security-policy"]
        assert page.headers["x-content-type-options"] == "nosniff"
        named = set(re.findall(r'(?:src|href)="([\w./-]+\.(?:css|js|svg|png))"', page.text))
        assert named
        for path in named:
            asset = await client.get("/" + path.lstrip("/"))
            assert asset.status_code == 200, path
            assert asset.headers["content-type"] == playground.MEDIA_TYPES["." + path.rpartition(".")[2]]

    async def test_needs_nothing_that_its_policy_forbids(self) -> None:
        page = (playground.FOLDER / "index.html").read_text(encoding="utf-8")
        assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", page)
        assert not re.search(r"(?:src|href)=\"(?:https?:)?//", page)

    async def test_is_sent_once(self, client: httpx.AsyncClient) -> None:
        page = await client.get("/")
        assert hashlib.sha256(page.content).hexdigest().startswith(page.headers["etag"].strip('"'))
        for tag in (page.headers["etag"], "W/" + page.headers["etag"], '"other", ' + page.headers["etag"]):
            again = await client.get("/", headers={"if-none-match": tag})
            assert (again.status_code, again.content) == (304, b"")
        assert (await client.get("/", headers={"if-none-match": '"other"'})).status_code == 200
        head = await client.head("/")
        assert (head.status_code, head.headers["etag"]) == (200, page.headers["etag"])

    def test_files_of_other_types_are_not_served(self, tmp_path: Path) -> None:
        for name in ("index.html", "a.css", "notes.txt", ".secret", "b.py"):
            (tmp_path / name).write_text("x")
        assert set(playground.handlers(tmp_path)) == {"/", "/a.css"}


class TestLifespan:
    async def test_before_and_after_it_nothing_is_ready(self, settings: Settings) -> None:
        app = create_app(settings)
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://bertie") as client:
            assert (await client.get("/health/ready")).status_code == 503
            assert (await client.post("/classify", json=GOOD)).status_code == 503
            assert (await client.get("/health/live")).status_code == 200
            async with app.router.lifespan_context(app):
                assert (await client.get("/health/ready")).status_code == 200
            assert (await client.get("/health/ready")).status_code == 503
            refused = await client.post("/classify", json=GOOD)
            assert (refused.status_code, refused.json()["type"]) == (503, "urn:bertie:problem:not-ready")

    async def test_what_loading_raises_stops_the_start(self, settings: Settings, tmp_path: Path) -> None:
        app = create_app(settings.model_copy(update={"models_dir": tmp_path}))
        with pytest.raises(BundleError, match="no bundle"):
            async with app.router.lifespan_context(app):
                pass

    async def test_many_callers_at_once_get_their_own_answers(self, client: httpx.AsyncClient) -> None:
        words = ["good", "bad", "great", "awful"] * 25
        responses = await asyncio.gather(*(client.post("/classify", json={"text": word}) for word in words))
        labels = [response.json()["label"] for response in responses]
        assert labels == ["negative" if word in ("bad", "awful") else "positive" for word in words]


class TestDocument:
    def test_documents_every_route_and_error(self, settings: Settings) -> None:
        document = create_app(settings).openapi()
        assert set(document["paths"]) == {
            "/qa", "/classify", "/models", "/models/{name}", "/health/live", "/health/ready", "/metrics",
        }  # fmt: skip
        for path in ("/qa", "/classify"):
            operation = document["paths"][path]["post"]
            content = operation["requestBody"]["content"]["application/json"]
            assert len(content["examples"]) >= 3
            statuses = {"200", "400", "401", "404", "413", "415", "422", "429", "500", "503", "504"}
            assert set(operation["responses"]) == statuses
            assert "Server-Timing" in operation["responses"]["200"]["headers"]
            assert "Retry-After" in operation["responses"]["429"]["headers"]
            for status, response in operation["responses"].items():
                assert "X-Request-Id" in response["headers"]
                assert ("application/problem+json" in response["content"]) == (status != "200")

    def test_every_reference_leads_somewhere(self, settings: Settings) -> None:
        document = create_app(settings).openapi()
        references = set(re.findall(r"#/components/schemas/(\w+)", repr(document)))
        assert references <= set(document["components"]["schemas"])

    async def test_its_examples_are_answered(self, client: httpx.AsyncClient) -> None:
        document = (await client.get("/openapi.json")).json()
        for path in ("/qa", "/classify"):
            for example in document["paths"][path]["post"]["requestBody"]["content"]["application/json"][
                "examples"
            ].values():
                assert (await client.post(path, json=example["value"])).status_code == 200

    async def test_the_docs_page(self, client: httpx.AsyncClient) -> None:
        response = await client.get("/docs")
        assert response.status_code == 200
        assert "/openapi.json" in response.text
