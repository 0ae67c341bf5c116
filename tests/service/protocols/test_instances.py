"""`{"instances"}` to `{"predictions"}`: KServe's first protocol and Vertex AI."""

from typing import Any

import httpx
import pytest

from service.settings import Settings
from tests.serving import serving

QUESTION = {"question": "Where does Ruth live?", "context": "Ruth lives in Paris."}


async def predict(client: httpx.AsyncClient, path: str, *instances: Any, **more: Any) -> list[Any]:
    response = await client.post(path, json={"instances": list(instances), **more})
    assert response.status_code == 200, response.text
    found: list[Any] = response.json()["predictions"]
    return found


async def test_kserve(client: httpx.AsyncClient) -> None:
    found = await predict(client, "/v1/models/sentiment:predict", "a wonderful film", {"text": "a boring film"})
    assert [each["label"] for each in found] == ["positive", "negative"]
    assert (await client.get("/v1/models/sentiment")).json() == {"name": "sentiment", "ready": True}
    assert "sentiment" in (await client.get("/v1/models")).json()["models"]
    client.app.state.gate.predictor.stop()  # type: ignore[attr-defined]
    assert (await client.get("/v1/models/sentiment")).status_code == 503


async def test_vertex_takes_instances_for_several_models(client: httpx.AsyncClient) -> None:
    pair = {"premise": "A man is outside", "hypothesis": "A man is not outside"}
    found = await predict(client, "/vertex", "a wonderful film", QUESTION, pair, "a boring film")
    assert [each.get("label") for each in found] == ["positive", None, "contradiction", "negative"]
    assert found[1]["answer"]["text"]
    assert (await client.get("/vertex/health")).status_code == 200


async def test_parameters_are_shared(client: httpx.AsyncClient) -> None:
    more = {"parameters": {"top_k": 2, "model": "qa"}, "signature_name": "x"}
    found = await predict(client, "/vertex", QUESTION, QUESTION | {"top_k": 1}, **more)
    assert [len(each["answers"]) for each in found] == [2, 1]


async def test_paths_are_vertexs_own(settings: Settings) -> None:
    routes = {"vertex_predict_route": "/v1/endpoints/1:predict", "vertex_health_route": "/v1/endpoints/1"}
    async with serving(settings.model_copy(update=routes)) as client:
        assert (await predict(client, routes["vertex_predict_route"], "good"))[0]["label"] == "positive"
        assert (await client.get(routes["vertex_health_route"])).status_code == 200
        assert (await client.post("/vertex", json={})).status_code == 404


@pytest.mark.parametrize("path", ["/vertex", "/v1/models/sentiment:predict"])
@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({"instances": []}, 400, "must not be empty"),
        ({"instances": "a"}, 400, "should be an array"),
        ({"instances": ["good", ""]}, 400, "instances.1.text: text is blank"),
        ({"instances": [5]}, 400, "instances.0"),
        ({"instances": [{"inputs": [{"text": "a"}]}]}, 400, "leave out `inputs`"),
        ({"instances": [{"text": "a", "model": "nli"}, {"text": "a", "model": "qa"}]}, 400, "one `model`"),
        ({"instances": ["a"] * 129}, 413, "129 instances"),
        ({"instances": ["a"], "x": 1}, 400, "x is no field"),
        ([], 400, "should be an object"),
    ],
)
async def test_errors(client: httpx.AsyncClient, path: str, body: Any, status: int, said: str) -> None:
    response = await client.post(path, json=body)
    assert (response.status_code, list(response.json())) == (status, ["error"])
    assert said in response.json()["error"]


async def test_an_error_of_the_model_says_which_instance(client: httpx.AsyncClient) -> None:
    long = QUESTION | {"question": "who " * 100}
    response = await client.post("/vertex", json={"instances": ["good", QUESTION, long]})
    assert response.status_code == 400
    assert response.json()["error"].startswith("instances.2.question: the question is 100 tokens long")
