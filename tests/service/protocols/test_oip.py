"""The Open Inference Protocol, version 2. The real clients are in `tests/clients`."""

import json
import struct
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.settings import Settings
from tests.serving import serving

HEADER = "inference-header-content-length"


def tensor(name: str, *texts: Any, **changes: Any) -> dict[str, Any]:
    return {"name": name, "shape": [len(texts)], "datatype": "BYTES", "data": list(texts)} | changes


def packed(*texts: str) -> bytes:
    return b"".join(struct.pack("<I", len(text.encode())) + text.encode() for text in texts)


async def infer(client: httpx.AsyncClient, model: str, *inputs: dict[str, Any], **more: Any) -> dict[str, Any]:
    """What each output holds."""
    response = await client.post(f"/v2/models/{model}/infer", json={"inputs": list(inputs), **more})
    assert response.status_code == 200, response.text
    return {output["name"]: output["data"] for output in response.json()["outputs"]}


async def send(
    client: httpx.AsyncClient, model: str, head: Any, binary: bytes, length: int | str | None = None
) -> httpx.Response:
    """Post a request with binary tensors; `length` is what its header says of the JSON's."""
    text = head if isinstance(head, bytes) else json.dumps(head).encode()
    headers = {HEADER: str(len(text) if length is None else length), "content-type": "application/octet-stream"}
    return await client.post(f"/v2/models/{model}/infer", content=text + binary, headers=headers)


def binary(name: str, *texts: str, **changes: Any) -> dict[str, Any]:
    parameters = {"binary_data_size": len(packed(*texts))}
    return {"name": name, "shape": [len(texts)], "datatype": "BYTES", "parameters": parameters} | changes


class TestMetadata:
    async def test_of_the_server(self, client: httpx.AsyncClient) -> None:
        assert (await client.get("/v2")).json()["name"] == "bertie"
        assert (await client.get("/v2/health/live")).json() == {"live": True}
        assert (await client.get("/v2/health/ready")).json() == {"ready": True}
        names = ["choice", "nli", "qa", "rerank", "sentiment"]
        assert (await client.get("/v2/models")).json() == {"models": names}
        assert [each["name"] for each in (await client.post("/v2/repository/index")).json()] == names

    @pytest.mark.parametrize(
        ("model", "inputs", "outputs"),
        [
            ("sentiment", {"text": [-1]}, {"label": [-1], "score": [-1], "scores": [-1, 2]}),
            ("nli", {"text": [-1], "text_pair": [-1]}, {"label": [-1], "score": [-1], "scores": [-1, 3]}),
            ("rerank", {"text": [-1]}, {"score": [-1]}),
            ("qa", {"question": [-1], "context": [-1]}, {"answer": [-1], "score": [-1], "start": [-1], "end": [-1]}),
            (
                "choice",
                {"question": [-1], "context": [-1], "options": [-1, -1]},
                {"answer": [-1], "score": [-1], "option": [-1]},
            ),
        ],
    )
    async def test_of_a_model_is_what_it_answers(
        self, client: httpx.AsyncClient, model: str, inputs: dict[str, Any], outputs: dict[str, Any]
    ) -> None:
        found = (await client.get(f"/v2/models/{model}")).json()
        assert {each["name"]: each["shape"] for each in found["inputs"]} == inputs
        assert {each["name"]: each["shape"] for each in found["outputs"]} == outputs
        filled = [
            tensor(name, "Ada") if len(shape) == 1 else tensor(name, shape=[1, 2], data=["Ada", "Ruth"])
            for name, shape in inputs.items()
        ]
        response = await client.post(f"/v2/models/{model}/infer", json={"inputs": filled})
        kinds = {each["name"]: each["datatype"] for each in found["outputs"]}
        assert {each["name"]: each["datatype"] for each in response.json()["outputs"]} == kinds

    async def test_versions(self, client: httpx.AsyncClient) -> None:
        [version] = (await client.get("/v2/models/qa")).json()["versions"]
        for path in ("", "/ready"):
            assert (await client.get(f"/v2/models/qa/versions/{version}{path}")).status_code == 200
            response = await client.get(f"/v2/models/qa/versions/2{path}")
            assert (response.status_code, list(response.json())) == (404, ["error"])
        body = {"inputs": [tensor("text", "good")]}
        assert (await client.post("/v2/models/sentiment/versions/2/infer", json=body)).status_code == 404

    async def test_of_what_is_not_there(self, client: httpx.AsyncClient) -> None:
        for path in ("/v2/models/nope", "/v2/models/nope/ready", "/v2/models/{name}"):
            response = await client.get(path)
            assert (response.status_code, list(response.json())) == (404, ["error"])
            assert "qa" not in response.text  # who has no key is told no names

    async def test_a_long_name_is_not_said_again(self, client: httpx.AsyncClient) -> None:
        for path in ("/infer", "", "/ready"):
            method = "POST" if path == "/infer" else "GET"
            response = await client.request(method, f"/v2/models/{'a' * 20_000}{path}", content=b"{}")
            assert len(response.content) < 1000

    async def test_when_it_stops(self, client: httpx.AsyncClient) -> None:
        predictor = client.app.state.gate.predictor  # type: ignore[attr-defined]
        predictor.stop()
        for path in ("/v2/health/ready", "/v2/models/qa/ready"):
            response = await client.get(path)
            assert (response.status_code, list(response.json())) == (503, ["error"])
        assert (await client.get("/v2/health/live")).status_code == 200
        for scheduler in predictor.schedulers.values():
            scheduler.stop()

    async def test_live_says_so_when_the_workers_are_lost(
        self, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from service.predictor import Predictor

        monkeypatch.setattr(Predictor, "alive", False)
        assert (await client.get("/v2/health/live")).status_code == 503


class TestInfer:
    async def test_texts(self, client: httpx.AsyncClient) -> None:
        found = await infer(client, "sentiment", tensor("text", "a wonderful film", "a boring film"))
        assert found["label"] == ["positive", "negative"]
        assert found["scores"] == pytest.approx([0.018, 0.982, 0.982, 0.018], abs=1e-3)

    async def test_pairs(self, client: httpx.AsyncClient) -> None:
        pair = (tensor("text", "A man is outside"), tensor("text_pair", "A man is not outside"))
        assert (await infer(client, "nli", *pair))["label"] == ["contradiction"]

    async def test_questions(self, client: httpx.AsyncClient) -> None:
        context = "Ruth lives in Paris."
        asked = (tensor("question", "Where does Ruth live?", "Who?"), tensor("context", context, "Nobody knows it."))
        found = await infer(client, "qa", *asked, parameters={"no_answer": True, "max_answer_tokens": 1})
        answer, start, end = found["answer"][0], found["start"][0], found["end"][0]
        assert context[start:end] == answer != ""
        assert (found["answer"][1], found["start"][1], found["end"][1]) == ("", 0, 0)

    async def test_lists_have_a_second_dimension(self, client: httpx.AsyncClient) -> None:
        labels = tensor("candidate_labels", shape=[1, 2], data=[["sports", "game"]])
        found = await infer(client, "nli", tensor("text", "The team won the game"), labels)
        assert (found["label"], len(found["scores"])) == (["game"], 2)
        one = tensor("candidate_labels", shape=[1, 1], data=["game"])
        assert (await infer(client, "nli", tensor("text", "The team won the game"), one))["label"] == ["game"]
        documents = tensor("context", shape=[1, 2], data=["Everest is high.", "The capital of France is Paris."])
        assert (await infer(client, "qa", tensor("question", "capital of France?"), documents))["answer"][0]

    async def test_texts_are_put_in_order(self, client: httpx.AsyncClient) -> None:
        texts = tensor("texts", shape=[1, 3], data=["dogs", "paris is the capital of france", "the capital"])
        found = await infer(client, "rerank", tensor("query", "capital of france"), texts, parameters={"top_k": 2})
        assert found["index"] == [1, 2]
        assert found["score"] == sorted(found["score"], reverse=True)

    async def test_a_last_dimension_of_one_is_none(self, client: httpx.AsyncClient) -> None:
        found = await infer(client, "sentiment", tensor("text", shape=[2, 1], data=[["good"], ["bad"]]))
        assert found["label"] == ["positive", "negative"]

    async def test_the_outputs_that_are_asked_for(self, client: httpx.AsyncClient) -> None:
        body = {"id": "7", "inputs": [tensor("text", "good")], "outputs": [{"name": "score"}]}
        found = (await client.post("/v2/models/sentiment/infer", json=body)).json()
        assert (found["id"], [each["name"] for each in found["outputs"]]) == ("7", ["score"])
        body["outputs"] = [{"name": "nope"}]
        assert (await client.post("/v2/models/sentiment/infer", json=body)).status_code == 400

    async def test_binary_in_and_out(self, client: httpx.AsyncClient) -> None:
        head = {"inputs": [binary("text", "good", "bad \u00e9")], "parameters": {"binary_data_output": True}}
        response = await send(client, "sentiment", head, packed("good", "bad \u00e9"))
        length = int(response.headers[HEADER])
        said = json.loads(response.content[:length])
        sizes = {each["name"]: each["parameters"]["binary_data_size"] for each in said["outputs"]}
        assert response.content[length : length + sizes["label"]] == packed("positive", "negative")
        scores = struct.unpack("<4f", response.content[-sizes["scores"] :])
        assert scores[1] > 0.5 > scores[0]

    async def test_some_outputs_binary(self, client: httpx.AsyncClient) -> None:
        outputs = [{"name": "start", "parameters": {"binary_data": True}}, {"name": "answer"}]
        asked = [tensor("question", "Where does Ruth live?"), tensor("context", "Ruth lives in Paris.")]
        response = await client.post("/v2/models/qa/infer", json={"inputs": asked, "outputs": outputs})
        length = int(response.headers[HEADER])
        start, answer = json.loads(response.content[:length])["outputs"]
        assert len(response.content) - length == start["parameters"]["binary_data_size"] == 8
        assert "Ruth lives in Paris."[struct.unpack("<q", response.content[length:])[0] :].startswith(answer["data"][0])

    @pytest.mark.parametrize(
        "inputs",
        [
            [], [tensor("text", "")], [tensor("text", 5)], [tensor("text", "a", shape=[2])],
            [tensor("text", "a", shape=[0])], [tensor("text", "a", shape=[-1])], [tensor("text", "a", shape=[1, 1, 1])],
            [tensor("text", "a", datatype="FP32")], [tensor("text", "a"), tensor("text", "b")], [tensor("nope", "a")],
            [tensor("text", "a"), tensor("text_pair", "a", "b")], [{"name": "text", "shape": [1], "datatype": "BYTES"}],
            [tensor("text", "a", shape=[True])], [5], [tensor("text", "a", shape=[1.5])],
            [tensor("text", "a", parameters={"binary_data_size": -1})],
            [tensor("text", "a", parameters={"binary_data_size": True})],
            [tensor("text", "a", parameters={"binary_data_size": 1})],
        ],
    )  # fmt: skip
    async def test_what_is_wrong_is_a_bad_request(self, client: httpx.AsyncClient, inputs: Any) -> None:
        response = await client.post("/v2/models/sentiment/infer", json={"inputs": inputs})
        assert (response.status_code, list(response.json())) == (400, ["error"])

    async def test_limits(self, client: httpx.AsyncClient) -> None:
        for changes in ({"shape": [129]}, {"shape": [1, 5000]}):
            response = await client.post(
                "/v2/models/sentiment/infer", json={"inputs": [tensor("text", "a", **changes)]}
            )
            assert response.status_code == 413

    @pytest.mark.parametrize("length", ["-1", "x", "1e3", "99999", "9" * 400, "\u00b2"])
    async def test_a_length_that_is_none(self, client: httpx.AsyncClient, length: str) -> None:
        head = json.dumps({"inputs": [binary("text", "good")]}).encode()
        headers = {HEADER: length.encode("latin-1")}
        response = await client.post("/v2/models/sentiment/infer", content=head + packed("good"), headers=headers)
        assert (response.status_code, list(response.json())) == (400, ["error"])

    async def test_bytes_that_are_no_text_or_too_many(self, client: httpx.AsyncClient) -> None:
        content = struct.pack("<I", 1) + b"\xff"
        head = {"inputs": [binary("text", "a", parameters={"binary_data_size": 5})]}
        assert "UTF-8" in (await send(client, "sentiment", head, content)).json()["error"]
        response = await send(client, "sentiment", {"inputs": [binary("text", "a")]}, packed("a") + b"more")
        assert "of no input" in response.json()["error"]
        response = await send(client, "sentiment", {"inputs": [binary("text", "a", shape=[2])]}, packed("a"))
        assert "disagree" in response.json()["error"]

    async def test_counts_and_keys_are_as_for_berties_own(self, settings: Settings) -> None:
        from pydantic import SecretStr

        async with serving(settings.model_copy(update={"api_keys": (SecretStr("key"),)})) as client:
            for path in ("/v2", "/v2/models", "/v2/models/qa"):
                response = await client.get(path)
                assert (response.status_code, list(response.json())) == (401, ["error"])
            for path in ("/v2/health/ready", "/v2/models/qa/ready"):
                assert (await client.get(path)).status_code == 200
            body = {"inputs": [tensor("text", "good")]}
            assert (await client.post("/v2/models/sentiment/infer", json=body)).status_code == 401
            headers = {"authorization": "Bearer key"}
            response = await client.post("/v2/models/sentiment/infer", json=body, headers=headers)
            assert response.status_code == 200


lengths = st.one_of(st.integers(0, 40), st.sampled_from([2**31, 2**32 - 1, 2**63]))
pieces = st.lists(st.one_of(st.binary(max_size=12), st.builds(packed, st.text(max_size=8))), max_size=4)
shapes = st.lists(st.integers(-1, 5), max_size=3)


@given(
    content=pieces, size=lengths, shape=shapes, cut=st.integers(0, 60), said=st.one_of(st.none(), st.integers(0, 300))
)
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
async def test_truncated_and_lying_binaries(
    client: httpx.AsyncClient, content: list[bytes], size: int, shape: list[int], cut: int, said: int | None
) -> None:
    """Whatever the lengths say, the answer is right or a bad request in this protocol's form; the next is answered."""
    one = binary("text", shape=shape, parameters={"binary_data_size": size})
    head = json.dumps({"inputs": [one]}).encode()
    whole = head + b"".join(content)
    response = await send(client, "sentiment", whole[: len(whole) - cut], b"", len(head) if said is None else said)
    assert response.status_code in (200, 400, 413), response.text
    if response.status_code != 200:
        assert list(response.json()) == ["error"]
    assert (await infer(client, "sentiment", tensor("text", "good")))["label"] == ["positive"]
