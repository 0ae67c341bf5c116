"""`/classify` as Infinity and vLLM have it, beside Bertie's own."""

from typing import Any

import httpx
import pytest

from service.settings import Settings
from tests.serving import serving


async def classify(client: httpx.AsyncClient, **body: Any) -> Any:
    response = await client.post("/classify", json=body)
    assert response.status_code == 200, response.text
    return response.json()


async def test_as_vllm(client: httpx.AsyncClient) -> None:
    found = await classify(client, input=["a wonderful film", "a boring film"], model="sentiment")
    assert (found["object"], found["model"]) == ("list", "sentiment")
    assert found["usage"] == {"prompt_tokens": 10, "total_tokens": 10}
    first, second = found["data"]
    assert (first["index"], first["label"], first["num_classes"]) == (0, "positive", 2)
    assert first["probs"] == pytest.approx([0.018, 0.982], abs=1e-3)  # in the order of the labels, not of the scores
    assert (second["index"], second["label"]) == (1, "negative")


async def test_as_infinity(client: httpx.AsyncClient) -> None:
    found = await classify(client, input=["a wonderful film"], model="default/not-specified", raw_scores=False)
    assert found["object"] == "classify"
    assert [[each["label"] for each in labels] for labels in found["data"]] == [["positive", "negative"]]


async def test_scores_as_they_come(client: httpx.AsyncClient) -> None:
    [labels] = (await classify(client, input="a wonderful film", raw_scores=True))["data"]
    assert [each["score"] for each in labels] == [2, -2]
    [found] = (await classify(client, input="a wonderful film", use_activation=False))["data"]
    assert found["probs"] == [-2, 2]


async def test_one_number_goes_through_a_sigmoid(client: httpx.AsyncClient) -> None:
    [found] = (await classify(client, input="capital", model="rerank"))["data"]
    assert (found["num_classes"], found["label"]) == (1, "LABEL_0")
    assert 0 <= found["probs"][0] <= 1


@pytest.mark.parametrize(
    ("change", "status", "param"),
    [
        ({"input": ""}, 422, "inputs.0.text"), ({"input": []}, 422, "inputs"),
        ({"input": [1, 2]}, 422, "inputs.0.text"), ({"input": ["a"] * 129}, 413, "inputs"),
        ({"model": "nope"}, 404, "model"), ({"truncate": True}, 422, "truncate"),
    ],
)  # fmt: skip
async def test_errors_are_told_as_both_do(
    client: httpx.AsyncClient, change: dict[str, Any], status: int, param: str
) -> None:
    response = await client.post("/classify", json={"input": "a wonderful film"} | change)
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (status, status, param)
    assert error["message"]
    assert error["type"]


async def test_berties_own_is_as_it_was(client: httpx.AsyncClient) -> None:
    found = await classify(client, text="a wonderful film")
    assert (found["model"], found["label"]) == ("sentiment", "positive")
    response = await client.post("/classify", json={"text": ""})
    assert response.headers["content-type"] == "application/problem+json"


async def test_off(settings: Settings) -> None:
    async with serving(settings.model_copy(update={"protocols": ()})) as client:
        response = await client.post("/classify", json={"input": "a wonderful film"})
        assert (response.status_code, response.json()["field"]) == (422, "text")
