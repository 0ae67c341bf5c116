"""The issue's rows of bad input, over HTTP: each its status and its field, none a 500, and the next request works."""

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from service.settings import Settings
from tests.engines import FakeEngine, load_with
from tests.serving import serving

JSON = {"content-type": "application/json"}


async def stream(size: int) -> AsyncIterator[bytes]:
    for _ in range(size // 100_000):
        yield b" " * 100_000


def dump(body: Any) -> bytes:
    return json.dumps(body).encode()


ROWS = {
    "empty text": ("/classify", dump({"text": ""}), JSON, 422, "text"),
    "white space": ("/classify", dump({"text": " \n\t\u2003"}), JSON, 422, "text"),
    "question without context": ("/qa", dump({"question": "Who?"}), JSON, 422, "context"),
    "context of no words": ("/qa", dump({"question": "Who?", "context": "\u0301"}), JSON, 422, "context"),
    "10 MB body": ("/classify", dump({"text": "a" * 10_000_000}), JSON, 413, None),
    "10 MB body of unknown length": ("/classify", "stream", JSON, 413, None),
    "deep JSON": ("/classify", b'{"text":' * 50_000, JSON, 400, None),
    "a million values": ("/classify", b'{"text":' + b"[" * 1_000_000, JSON, 413, None),
    "deep JSON that is whole": ("/classify", b'{"text":' + b"[" * 9000 + b"]" * 9000 + b"}", JSON, 400, None),
    "wrong types": ("/qa", dump({"question": 1, "context": "Ada"}), JSON, 422, "question"),
    "an array": ("/classify", dump([{"text": "a"}]), JSON, 422, "body"),
    "NaN": ("/qa", b'{"question": "Who?", "context": NaN}', JSON, 422, "context"),
    "NaN for a number": ("/qa", b'{"question": "Who?", "context": "Ada", "top_k": NaN}', JSON, 422, "top_k"),
    "lone surrogate": ("/classify", rb'{"text": "\ud800"}', JSON, 422, "text"),
    "lone surrogate in UTF-8": ("/classify", b'{"text": "\xed\xa0\x80"}', JSON, 422, "text"),
    "NUL": ("/classify", dump({"text": "a\0"}), JSON, 422, "text"),
    "invalid UTF-8": ("/classify", b'{"text": "\xff"}', JSON, 400, None),
    "not JSON": ("/classify", b"text=good", JSON, 400, None),
    "nothing": ("/classify", b"", JSON, 400, None),
    "10,000 inputs": ("/classify", dump({"inputs": [{"text": "a"}] * 10_000}), JSON, 413, "inputs"),
    "10,000 questions": ("/qa", dump({"inputs": [{"question": "a", "context": "b"}] * 10_000}), JSON, 413, "inputs"),
    "1,000 documents": ("/qa", dump({"question": "Who?", "context": ["a"] * 1000}), JSON, 413, "context"),
    "1,000 documents of many": (
        "/qa", dump({"inputs": [{"question": "Who?", "context": ["a"] * 1000}]}), JSON, 413, "inputs.0.context",
    ),
    "1,000 labels": (
        "/classify", dump({"text": "a", "candidate_labels": [str(i) for i in range(1000)]}), JSON, 413,
        "candidate_labels",
    ),
    "unknown model": ("/classify", dump({"text": "a", "model": "nope"}), JSON, 404, "model"),
    "form": ("/classify", b"text=a", {"content-type": "application/x-www-form-urlencoded"}, 415, None),
    "no content type": ("/classify", dump({"text": "a"}), {}, 415, None),
    "Latin-1": ("/classify", dump({"text": "a"}), {"content-type": "application/json; charset=latin-1"}, 415, None),
    "gzip": ("/classify", dump({"text": "a"}), JSON | {"content-encoding": "gzip"}, 415, None),
}  # fmt: skip


@pytest.mark.parametrize("row", ROWS)
async def test_each_gets_its_status_and_its_field_and_the_next_request_works(
    client: httpx.AsyncClient, row: str
) -> None:
    path, content, headers, status, field = ROWS[row]
    response = await client.post(path, content=stream(10_000_000) if content == "stream" else content, headers=headers)
    problem = response.json()
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    assert problem.get("field") == field
    assert problem["status"] == status
    assert problem["request_id"] == response.headers["x-request-id"]
    assert len(response.content) < 5000
    assert (await client.post("/classify", json={"text": "good"})).json()["label"] == "positive"


async def test_media_types_that_are_json(client: httpx.AsyncClient) -> None:
    for media_type in ("application/json; charset=UTF-8", "Application/JSON", "application/vnd.api+json"):
        response = await client.post("/classify", content=dump({"text": "good"}), headers={"content-type": media_type})
        assert response.status_code == 200, media_type


async def test_a_body_that_is_too_large_is_not_read(settings: Settings) -> None:
    read = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal read
        while True:
            read += 100_000
            yield b" " * 100_000

    async with serving(settings) as client:
        for headers, least in (({"content-length": "999999999"}, 0), ({}, settings.max_body_bytes)):
            read = 0
            response = await client.post("/classify", content=body(), headers=JSON | headers)
            assert response.status_code == 413
            assert least <= read <= least + 200_000


async def test_limits_are_the_settings(settings: Settings) -> None:
    limits = {"max_inputs": 2, "max_documents": 2, "max_candidate_labels": 2, "max_body_bytes": 1024}
    async with serving(settings.model_copy(update=limits)) as client:
        for most, over in (
            ({"inputs": [{"text": "a"}] * 2}, {"inputs": [{"text": "a"}] * 3}),
            ({"text": "a", "candidate_labels": ["a", "b"]}, {"text": "a", "candidate_labels": ["a", "b", "c"]}),
            ({"text": "a" * 1012}, {"text": "a" * 1013}),
        ):
            assert (await client.post("/classify", content=dump(most), headers=JSON)).status_code == 200
            assert (await client.post("/classify", content=dump(over), headers=JSON)).status_code == 413
        for documents, status in ((2, 200), (3, 413)):
            response = await client.post("/qa", json={"question": "Who?", "context": ["Ada"] * documents})
            assert response.status_code == status


async def test_too_many_rows(settings: Settings) -> None:
    engine = FakeEngine(None, None)
    few = settings.model_copy(update={"max_request_rows": 8})
    async with serving(few, load=load_with(qa=engine)) as client:
        response = await client.post("/qa", json={"question": "Who?", "context": "Ada " * 1000})
        assert response.status_code == 413
        assert engine.batches == []


async def test_a_context_of_200_000_words(settings: Settings) -> None:
    words = ["city"] * 200_000
    words[150_000] = "Everest"
    context = " ".join(words)
    roomy = settings.model_copy(update={"max_request_rows": 50_000})
    async with serving(roomy) as client:
        body = (await client.post("/qa", json={"question": "Which mountain?", "context": context})).json()
        assert body["answer"]["text"].split()[0] == "Everest"
        assert context[body["answer"]["start"] : body["answer"]["end"]] == body["answer"]["text"]


@pytest.mark.parametrize(
    "context",
    [
        "מי גר כאן? Ada גרה כאן, בעיר הגדולה.",
        "谁住在这里?Ada 住在这里。",
        "👩🏽‍🚀🏙️ e\u0301a\u0308 Ada\u0301 👍🏿 lives",
        "\u202eRTL override\u202c Ada \ufeffhere",
    ],
)
async def test_offsets_are_code_points_in_every_script(client: httpx.AsyncClient, context: str) -> None:
    body = (await client.post("/qa", json={"question": "Who lives here?", "context": context, "top_k": 5})).json()
    assert body["answer"]["text"].startswith("Ada")
    for answer in body["answers"]:
        assert context[answer["start"] : answer["end"]] == answer["text"]
