"""text-embeddings-inference's `/predict`, `/tokenize`, `/info` and `/health`."""

from typing import Any

import httpx
import pytest

from service.errors import InferenceError
from service.predictor import Predictor
from service.settings import Settings
from tests.engines import FakeEngine, load_with
from tests.serving import serving


async def predict(client: httpx.AsyncClient, inputs: Any, path: str = "/predict", **options: Any) -> Any:
    response = await client.post(path, json={"inputs": inputs, **options})
    assert response.status_code == 200, response.text
    return response.json()


async def refused(client: httpx.AsyncClient, path: str, body: Any) -> tuple[int, str, str]:
    response = await client.post(path, json=body)
    said = response.json()
    assert response.headers["content-type"] == "application/json"
    assert set(said) == {"error", "error_type", "message"}
    return response.status_code, said["error_type"], said["error"]


class TestPredict:
    PAIR = ("A man is outside", "A man is outside")

    async def test_one_text_is_flat(self, client: httpx.AsyncClient) -> None:
        for inputs in ("a wonderful film", ["a wonderful film"]):
            found = await predict(client, inputs)
            assert [each["label"] for each in found] == ["positive", "negative"]

    async def test_two_texts_are_a_pair(self, client: httpx.AsyncClient) -> None:
        assert (await predict(client, self.PAIR))[0]["label"] == "entailment"

    async def test_a_batch_of_texts_and_pairs(self, client: httpx.AsyncClient) -> None:
        found = await predict(client, [["a boring film"], self.PAIR, ["a wonderful film"]])
        assert [each[0]["label"] for each in found] == ["negative", "entailment", "positive"]

    async def test_raw_scores(self, client: httpx.AsyncClient) -> None:
        found = await predict(client, "a wonderful film", raw_scores=True)
        assert [each["score"] for each in found] == [2, -2]

    async def test_one_number_goes_through_a_sigmoid(self, client: httpx.AsyncClient) -> None:
        path = "/models/rerank/predict"
        [raw] = await predict(client, self.PAIR, path, raw_scores=True)
        [found] = await predict(client, self.PAIR, path)
        assert 0 < found["score"] < 1 < raw["score"]

    async def test_a_long_text(self, client: httpx.AsyncClient) -> None:
        long = "wonderful " * 100
        await predict(client, long)
        await predict(client, long, truncate=True)
        await predict(client, "short", truncation_direction="left")
        for options in ({"truncate": False}, {"truncation_direction": "Left"}):
            status, kind, said = await refused(client, "/predict", {"inputs": [["good"], [long]], **options})
            assert (status, kind) == (422, "validation")
            assert "too long" in said

    async def test_what_it_took_is_told(self, client: httpx.AsyncClient) -> None:
        response = await client.post("/predict", json={"inputs": [["a wonderful film"], ["a film"]]})
        headers = response.headers
        assert (headers["x-compute-type"], headers["x-compute-characters"], headers["x-compute-tokens"]) == (
            "cpu",
            "22",
            "9",
        )
        for name in ("compute", "total", "tokenization", "queue", "inference"):
            assert headers[f"x-{name}-time"].isdigit()

    @pytest.mark.parametrize(
        ("inputs", "status", "kind"),
        [
            ("", 400, "empty"), ([], 400, "empty"), ([[]], 400, "empty"), (["a", "b", "c"], 422, "validation"),
            ([["a"], []], 422, "validation"), ([["a", "b", "c"]], 422, "validation"), (5, 422, "validation"),
            (["a", 5], 422, "validation"), ([["a"], [" "]], 422, "validation"), ([["a"]] * 129, 413, "validation"),
        ],
    )  # fmt: skip
    async def test_bad_inputs(self, client: httpx.AsyncClient, inputs: Any, status: int, kind: str) -> None:
        assert (await refused(client, "/predict", {"inputs": inputs}))[:2] == (status, kind)
        assert (await predict(client, "a wonderful film"))[0]["label"] == "positive"

    async def test_an_error_says_which_input_it_is_about(self, client: httpx.AsyncClient) -> None:
        assert (await refused(client, "/predict", {"inputs": [["a"], [""]]}))[2].startswith(
            "inputs.1.text: text is blank"
        )


class TestErrors:
    async def test_each_has_its_kind(self, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
        full = settings.model_copy(update={"max_requests": 1})
        engine = FakeEngine()
        async with serving(full, load=load_with(sentiment=engine)) as client:
            predictor: Predictor = client.app.state.gate.predictor  # type: ignore[attr-defined]
            permit = predictor.permits.acquire(None, 0)
            assert (await refused(client, "/predict", {"inputs": "a"}))[:2] == (429, "overloaded")
            permit.release()
            engine.error = ValueError("broken")
            assert (await refused(client, "/predict", {"inputs": "a"}))[:2] == (424, "backend")

            async def broken(*_: Any) -> None:
                raise KeyError

            monkeypatch.setattr(Predictor, "predict", broken)
            assert (await refused(client, "/predict", {"inputs": "a"}))[:2] == (500, "backend")
            predictor.stop()
            assert (await refused(client, "/predict", {"inputs": "a"}))[:2] == (503, "unhealthy")
            response = await client.get("/health")
            assert (response.status_code, response.json()["error_type"]) == (503, "unhealthy")

    def test_a_failed_inference_is_the_backends(self) -> None:
        from service.protocols.info import refuse

        assert refuse(InferenceError("x"), "1").status == 424

    async def test_another_method(self, client: httpx.AsyncClient) -> None:
        response = await client.get("/predict")
        assert (response.status_code, response.headers["allow"]) == (405, "POST")
        assert response.json()["error_type"] == "validation"

    async def test_malformed(self, client: httpx.AsyncClient) -> None:
        response = await client.post("/predict", content=b"{", headers={"content-type": "application/json"})
        assert (response.status_code, response.json()["error_type"]) == (400, "validation")


class TestTokenize:
    async def test_tokens_with_their_places(self, client: httpx.AsyncClient) -> None:
        response = await client.post("/models/sentiment/tokenize", json={"inputs": "Good 🏙 film"})
        [tokens] = response.json()
        assert [token["text"] for token in tokens] == ["[CLS]", "Good", "🏙", "film", "[SEP]"]
        assert [token["special"] for token in tokens] == [True, False, False, False, True]
        assert [(token["start"], token["stop"]) for token in tokens[1:-1]] == [(0, 4), (5, 6), (7, 11)]
        assert (tokens[0]["start"], tokens[0]["stop"]) == (None, None)

    async def test_several_without_special_ones(self, client: httpx.AsyncClient) -> None:
        body = {"inputs": ["good", "bad film"], "add_special_tokens": False}
        found = (await client.post("/tokenize", json=body)).json()
        assert [[token["text"] for token in tokens] for tokens in found] == [["good"], ["bad", "film"]]

    @pytest.mark.parametrize(
        ("inputs", "status"), [("", 400), ([], 400), (5, 422), ([5], 422), (["a"] * 129, 413)]
    )  # fmt: skip
    async def test_bad_inputs(self, client: httpx.AsyncClient, inputs: Any, status: int) -> None:
        assert (await refused(client, "/tokenize", {"inputs": inputs}))[0] == status


class TestInfo:
    async def test_has_what_clients_look_at(self, client: httpx.AsyncClient) -> None:
        found = (await client.get("/info")).json()
        assert found["model_type"]["classifier"]["id2label"] == {"0": "negative", "1": "positive"}
        assert found["model_type"]["classifier"]["label2id"] == {"negative": 0, "positive": 1}
        assert (found["max_input_length"], found["max_client_batch_size"], found["auto_truncate"]) == (64, 128, True)
        assert "reranker" in (await client.get("/models/rerank/info")).json()["model_type"]

    async def test_where_no_model_takes_bare_texts(self, settings: Settings) -> None:
        async with serving(settings.model_copy(update={"models": ("qa",)})) as client:
            assert (await client.get("/info")).json()["model_id"] == "qa"
            assert (await client.post("/predict", json={"inputs": "a"})).status_code == 404
