"""`/rerank`: text-embeddings-inference's bodies, and those of Cohere, Jina, Infinity and vLLM."""

from typing import Any

import httpx
import pytest

from service.settings import Settings
from tests.serving import serving

QUERY = "capital of france"
TEXTS = ["dogs", "paris is the capital of france", "the capital"]


class TestTexts:
    async def test_are_put_in_order(self, client: httpx.AsyncClient) -> None:
        response = await client.post("/rerank", json={"query": QUERY, "texts": TEXTS})
        found = response.json()
        assert [each["index"] for each in found] == [1, 2, 0]
        assert all(0 < each["score"] < 1 for each in found)
        assert set(found[0]) == {"index", "score"}
        assert response.headers["x-compute-characters"] == str(3 * len(QUERY) + sum(map(len, TEXTS)))

    async def test_with_their_texts_and_raw_scores(self, client: httpx.AsyncClient) -> None:
        body = {"query": QUERY, "texts": TEXTS, "raw_scores": True, "return_text": True}
        found = (await client.post("/models/rerank/rerank", json=body)).json()
        assert [each["text"] for each in found] == [TEXTS[1], TEXTS[2], TEXTS[0]]
        assert found[0]["score"] > 1

    async def test_long_ones(self, client: httpx.AsyncClient) -> None:
        body = {"query": QUERY, "texts": ["dogs " * 100], "truncate": False}
        assert (await client.post("/rerank", json=body)).status_code == 422
        assert (await client.post("/rerank", json=body | {"truncate": True})).status_code == 200

    @pytest.mark.parametrize(
        ("change", "status", "kind"),
        [
            ({"texts": []}, 400, "empty"), ({"texts": "a"}, 422, "validation"), ({"query": ""}, 422, "validation"),
            ({"texts": ["a"] * 129}, 413, "validation"), ({"top_n": 1}, 422, "validation"),
        ],
    )  # fmt: skip
    async def test_what_is_refused(
        self, client: httpx.AsyncClient, change: dict[str, Any], status: int, kind: str
    ) -> None:
        response = await client.post("/rerank", json={"query": QUERY, "texts": TEXTS} | change)
        assert (response.status_code, response.json()["error_type"]) == (status, kind)

    async def test_without_a_model_for_it(self, settings: Settings) -> None:
        async with serving(settings.model_copy(update={"models": ("nli", "sentiment")})) as client:
            response = await client.post("/rerank", json={"query": QUERY, "texts": TEXTS})
            assert (response.status_code, response.json()["error_type"]) == (424, "backend")


class TestDocuments:
    @pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v2/rerank"])
    async def test_are_put_in_order(self, client: httpx.AsyncClient, path: str) -> None:
        documents = [TEXTS[0], {"text": TEXTS[1]}, TEXTS[2]]
        body = {"model": "rerank", "query": QUERY, "documents": documents, "top_n": 2, "return_documents": True}
        found = (await client.post(path, json=body)).json()
        assert [each["index"] for each in found["results"]] == [1, 2]
        assert found["results"][0]["document"] == {"text": TEXTS[1]}
        assert 0 < found["results"][0]["relevance_score"] < 1
        assert found["model"] == "rerank"
        assert found["usage"]["total_tokens"] > 0

    async def test_without_their_texts(self, client: httpx.AsyncClient) -> None:
        body = {"query": QUERY, "documents": TEXTS, "raw_scores": True}
        found = (await client.post("/rerank", json=body)).json()["results"]
        assert set(found[0]) == {"index", "relevance_score"}
        assert found[0]["relevance_score"] > 1

    @pytest.mark.parametrize(
        ("change", "status"),
        [({"documents": []}, 422), ({"documents": [5]}, 422), ({"documents": [{"a": 1}]}, 422), ({"top_n": 0}, 422),
         ({"model": "nope"}, 404)],
    )  # fmt: skip
    async def test_what_is_refused(self, client: httpx.AsyncClient, change: dict[str, Any], status: int) -> None:
        response = await client.post("/rerank", json={"query": QUERY, "documents": TEXTS} | change)
        assert response.status_code == status
        assert response.json()["message"] == response.json()["error"]
