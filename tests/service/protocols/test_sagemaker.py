"""Amazon SageMaker's `/ping` and `/invocations`. How it starts a container is `tests/service/test_main.py`'s."""

from typing import Any

import httpx
import pytest


async def invoke(client: httpx.AsyncClient, body: Any, media_type: str = "application/json") -> httpx.Response:
    return await client.post(
        "/invocations",
        content=httpx.Request("POST", "http://a", json=body).content,
        headers={"content-type": media_type},
    )


async def test_as_hugging_faces_containers(client: httpx.AsyncClient) -> None:
    found = (await invoke(client, {"inputs": "a wonderful film"})).json()
    assert [each["label"] for each in found] == ["positive", "negative"]
    found = (await invoke(client, {"inputs": ["a wonderful film"], "parameters": {"top_k": 1}})).json()
    assert found[0][0]["label"] == "positive"
    labels = {"candidate_labels": ["sports", "game"]}
    found = (await invoke(client, {"inputs": "The team won the game", "parameters": labels})).json()
    assert found["labels"] == ["game", "sports"]


@pytest.mark.parametrize("media_type", ["application/json", "application/octet-stream"])
async def test_as_berties_own(client: httpx.AsyncClient, media_type: str) -> None:
    """boto3 sends no media type of its own for JSON."""
    question = {"question": "Where does Ruth live?", "context": "Ruth lives in Paris."}
    assert (await invoke(client, question, media_type)).json()["model"] == "qa"
    assert (await invoke(client, {"text": "a wonderful film"}, media_type)).json()["label"] == "positive"


async def test_ping(client: httpx.AsyncClient) -> None:
    response = await client.get("/ping")
    assert (response.status_code, response.content) == (200, b"")
    client.app.state.gate.predictor.stop()  # type: ignore[attr-defined]
    assert (await client.get("/ping")).status_code == 503


async def test_errors(client: httpx.AsyncClient) -> None:
    for body in ([], {"text": ""}, {"inputs": ""}, {"question": "Who?"}):
        assert (await invoke(client, body)).status_code == 422
