import asyncio
import hashlib
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, ClassVar

import httpx
import pytest
from pydantic import SecretStr

from service.app import create_app, create_ops_app
from service.errors import BundleError
from service.http import pages
from service.metrics import Metrics
from service.predictor import Predictor
from service.settings import Settings
from tests.serving import serving

GOOD = {"text": "a wonderful film"}


def examples_of(document: dict[str, Any]) -> dict[tuple[str, str], Any]:
    """The bodies that the OpenAPI document shows, by path and name."""
    bodies = {path: document["paths"][path]["post"]["requestBody"]["content"] for path in ("/qa", "/classify")}
    return {
        (path, name): example["value"]
        for path, content in bodies.items()
        for name, example in content["application/json"]["examples"].items()
    }


class TestProblems:
    @pytest.mark.parametrize(
        ("method", "path", "status", "slug"),
        [
            ("GET", "/nope", 404, "not-found"),
            ("GET", "/health/ready/", 404, "not-found"),
            ("POST", "/models/../etc/passwd", 404, "not-found"),
            ("GET", "/qa", 405, "method-not-allowed"),
            ("DELETE", "/models", 405, "method-not-allowed"),
            ("POST", "/docs", 405, "method-not-allowed"),
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

    async def test_an_unexpected_error_says_nothing_of_the_inside(
        self, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def broken(self: Predictor, *_: Any, **__: Any) -> None:
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
    async def test_the_clients_own_comes_back(self, client: httpx.AsyncClient, sane: str) -> None:
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
            assert (await client.get("/nope")).status_code == 404  # there is nothing to guard
        assert metrics.registry.get_sample_value("bertie_rejected_total", {"reason": "unauthorized"}) == 36

    async def test_health_metrics_and_pages_want_none(self, guarded: Settings) -> None:
        async with serving(guarded) as client:
            for path in ("/health/live", "/health/ready", "/metrics", "/openapi.json", *pages.handlers()):
                assert (await client.get(path)).status_code == 200, path
            document = (await client.get("/openapi.json")).json()
        assert document["components"]["securitySchemes"] == {"key": {"type": "http", "scheme": "bearer"}}
        assert document["paths"]["/qa"]["post"]["security"] == [{"key": []}]
        assert "security" not in document["paths"]["/health/live"]["get"]

    async def test_by_default_there_are_none(self, client: httpx.AsyncClient) -> None:
        assert (await client.get("/models")).status_code == 200
        assert "securitySchemes" not in (await client.get("/openapi.json")).json()["components"]


@pytest.mark.parametrize("path", ["/", "/docs"])
class TestPages:
    async def test_a_page_and_what_it_names(self, client: httpx.AsyncClient, path: str) -> None:
        page = await client.get(path)
        assert page.status_code == 200
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert page.headers["x-content-type-options"] == "nosniff"
        named = set(re.findall(r'(?:src|href)="([\w./-]+\.(?:css|js|svg|png))"', page.text))
        assert {Path(name).suffix for name in named} == {".css", ".js", ".svg"}
        for name in named:
            asset = await client.get("/" + name)
            assert asset.status_code == 200, name
            assert asset.headers["content-type"] == pages.MEDIA_TYPES[Path(name).suffix]

    async def test_no_other_host_is_asked_for_anything(self, client: httpx.AsyncClient, path: str) -> None:
        page = await client.get(path)
        assert not re.search(r"""//[\w.-]+\.\w""", page.text)
        # Whatever a script asks for later, the browser refuses it.
        policy = dict(part.split(" ", 1) for part in page.headers["content-security-policy"].split("; "))
        assert policy.pop("default-src") == "'none'"
        assert {source for sources in policy.values() for source in sources.split()} == {"'self'", "'none'", "data:"}

    async def test_it_needs_nothing_that_its_policy_forbids(self, client: httpx.AsyncClient, path: str) -> None:
        assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", (await client.get(path)).text)

    async def test_it_is_sent_once(self, client: httpx.AsyncClient, path: str) -> None:
        page = await client.get(path)
        assert hashlib.sha256(page.content).hexdigest().startswith(page.headers["etag"].strip('"'))
        for tag in (page.headers["etag"], "W/" + page.headers["etag"], '"other", ' + page.headers["etag"]):
            again = await client.get(path, headers={"if-none-match": tag})
            assert (again.status_code, again.content) == (304, b"")
        assert (await client.get(path, headers={"if-none-match": '"other"'})).status_code == 200
        head = await client.head(path)
        assert (head.status_code, head.headers["etag"]) == (200, page.headers["etag"])


def test_files_of_other_types_are_not_served(tmp_path: Path) -> None:
    for name in ("index.html", "a.css", "notes.txt", ".secret", "b.py", "more.html"):
        (tmp_path / name).write_text("x")
    assert set(pages.handlers(tmp_path.iterdir())) == {"/", "/a.css", "/more"}


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

    async def test_many_clients_at_once_get_their_own_answers(self, client: httpx.AsyncClient) -> None:
        words = ["good", "bad", "great", "awful"] * 25
        responses = await asyncio.gather(*(client.post("/classify", json={"text": word}) for word in words))
        labels = [response.json()["label"] for response in responses]
        assert labels == ["negative" if word in ("bad", "awful") else "positive" for word in words]


class TestOps:
    """The application of the operations' own port."""

    @pytest.fixture
    async def ops(self, settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
        app = create_app(settings.model_copy(update={"api_keys": (SecretStr("key"),)}))
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(
                transport=httpx.ASGITransport(create_ops_app(app, settings)), base_url="http://bertie"
            ) as ops,
        ):
            ops.app = app  # type: ignore[attr-defined]
            yield ops

    async def test_has_these_three_paths_and_no_other(self, ops: httpx.AsyncClient) -> None:
        for path in ("/health/live", "/health/ready", "/metrics"):
            assert (await ops.get(path)).status_code == 200, path
        for path in ("/", "/docs", "/openapi.json", "/models", "/qa", "/classify", "/playground.js"):
            response = await ops.get(path)
            assert (response.status_code, response.headers["content-type"]) == (404, "application/problem+json"), path

    async def test_shows_the_main_applications_state(self, ops: httpx.AsyncClient) -> None:
        app = ops.app  # type: ignore[attr-defined]
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://bertie") as client:
            await client.post("/classify", json=GOOD, headers={"authorization": "Bearer key"})
        assert (
            'bertie_requests_total{model="sentiment",route="/classify",status="200"} 1.0'
            in (await ops.get("/metrics")).text
        )
        app.state.gate.predictor.stop()
        assert (await ops.get("/health/ready")).status_code == 503
        assert (await ops.get("/health/live")).status_code == 200


class TestOtherOrigins:
    ORIGIN = "https://app.example"
    PREFLIGHT: ClassVar = {
        "origin": ORIGIN,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization, content-type, x-request-id",
    }

    async def test_are_refused_by_default(self, client: httpx.AsyncClient) -> None:
        assert (await client.options("/classify", headers=self.PREFLIGHT)).status_code == 405
        answer = await client.post("/classify", json=GOOD, headers={"origin": self.ORIGIN})
        assert answer.status_code == 200
        assert not [name for name in answer.headers if name.startswith("access-control")]

    @pytest.mark.parametrize("origins", [(ORIGIN,), ("https://other.example", ORIGIN), ("*",)])
    async def test_may_be_named(self, settings: Settings, origins: tuple[str, ...]) -> None:
        keys = (SecretStr("key"),)
        async with serving(settings.model_copy(update={"cors_origins": origins, "api_keys": keys})) as client:
            preflight = await client.options("/classify", headers=self.PREFLIGHT)
            assert preflight.status_code == 200  # without a key: a browser sends none
            assert preflight.headers["access-control-allow-origin"] in (self.ORIGIN, "*")
            headers = {"origin": self.ORIGIN, "authorization": "Bearer key"}
            for body, status in ((GOOD, 200), ({}, 422)):
                answer = await client.post("/classify", json=body, headers=headers)
                assert answer.status_code == status
                assert answer.headers["access-control-allow-origin"] in (self.ORIGIN, "*")
                exposed = answer.headers["access-control-expose-headers"]
                assert set(exposed.split(", ")) == {"X-Request-Id", "X-Model-Version", "Server-Timing", "Retry-After"}
            assert (await client.post("/classify", json=GOOD, headers={"origin": self.ORIGIN})).status_code == 401

    async def test_those_that_are_not_named_are_refused(self, settings: Settings) -> None:
        async with serving(settings.model_copy(update={"cors_origins": (self.ORIGIN,)})) as client:
            headers = self.PREFLIGHT | {"origin": "https://evil.example"}
            assert (await client.options("/classify", headers=headers)).status_code == 400
            answer = await client.post("/classify", json=GOOD, headers={"origin": "https://evil.example"})
            assert "access-control-allow-origin" not in answer.headers


class TestDocument:
    def test_documents_every_route_and_error(self, settings: Settings) -> None:
        document = create_app(settings.model_copy(update={"protocols": ()})).openapi()
        assert set(document["paths"]) == {
            "/qa", "/classify", "/models", "/models/{name}", "/models/{name}/compare", "/feedback", "/health/live",
            "/health/ready", "/metrics",
        }  # fmt: skip
        for path in ("/qa", "/classify"):
            operation = document["paths"][path]["post"]
            assert operation["summary"].endswith(".")
            content = operation["requestBody"]["content"]["application/json"]
            assert len(content["examples"]) >= 3
            statuses = {"200", "400", "401", "403", "404", "413", "415", "422", "429", "500", "503", "504"}
            assert set(operation["responses"]) == statuses
            assert "Server-Timing" in operation["responses"]["200"]["headers"]
            assert "Retry-After" in operation["responses"]["429"]["headers"]
            for status, response in operation["responses"].items():
                assert "X-Request-Id" in response["headers"]
                assert ("application/problem+json" in response["content"]) == (status != "200")

    def test_priorities_are_deprecated_in_it(self, settings: Settings) -> None:
        schemas = create_app(settings).openapi()["components"]["schemas"]
        holding = [
            schema["properties"]["priority"] for schema in schemas.values() if "priority" in schema["properties"]
        ]
        assert len(holding) >= 8
        assert all(field["deprecated"] for field in holding)

    def test_its_lists_are_as_long_as_the_settings_allow(self, settings: Settings) -> None:
        limits = {"protocols": (), "max_inputs": 11, "max_options": 12, "max_candidate_labels": 13, "max_documents": 14}
        schemas = create_app(settings.model_copy(update=limits)).openapi()["components"]["schemas"]
        bounds = {
            (field, part["maxItems"])
            for name, model in schemas.items()
            if name.endswith(("Request", "Input"))
            for field, schema in model["properties"].items()
            for part in (schema, *schema.get("oneOf", ()), *schema.get("anyOf", ()))
            if part.get("type") == "array"
        }
        assert bounds == {("inputs", 11), ("texts", 11), ("options", 12), ("candidate_labels", 13), ("context", 14)}

    def test_every_reference_leads_somewhere(self, settings: Settings) -> None:
        document = create_app(settings).openapi()
        references = set(re.findall(r"#/components/schemas/(\w+)", repr(document)))
        assert references <= set(document["components"]["schemas"])

    @pytest.mark.parametrize(
        "kinds", [("choice", "nli", "qa", "rerank", "sentiment"), ("nli", "sentiment"), ("choice",)]
    )
    async def test_its_examples_are_those_that_are_answered(
        self, settings: Settings, bundle_factory: Callable[..., Path], kinds: tuple[str, ...]
    ) -> None:
        folders = [bundle_factory(kind) for kind in kinds]
        app = create_app(settings.model_copy(update={"models_dir": folders[0].parent}))
        everything = examples_of(app.openapi())
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://bertie") as client,
        ):
            shown = examples_of((await client.get("/openapi.json")).json())
            status = {key: (await client.post(key[0], json=body)).status_code for key, body in everything.items()}
        assert shown.keys() == {key for key in everything if status[key] == 200}
        assert set(status.values()) <= {200, 404}
        assert (("/qa", "options") in shown) == ("choice" in kinds)

    async def test_the_docs_page_shows_it(self, client: httpx.AsyncClient) -> None:
        assert "swagger-ui-bundle.js" in (await client.get("/docs")).text
        (url,) = re.findall(r'url: "(.*)"', (await client.get("/docs.js")).text)
        assert (await client.get(f"/{url}")).json()["openapi"].startswith("3.1")
