"""Hugging Face's inference API. The real clients are in `tests/clients`."""

from typing import Any

import httpx
import pytest

from service.metrics import Metrics

CONTEXT = "Ruth lives in Paris. Ada wrote the code in London."
QUESTION = {"question": "Where does Ruth live?", "context": CONTEXT}
LABELS = {"candidate_labels": ["sports", "game"]}


async def ask(client: httpx.AsyncClient, inputs: Any, path: str = "/", agent: str = "x", **parameters: Any) -> Any:
    body = {"inputs": inputs, "parameters": parameters}
    response = await client.post(path, json=body, headers={"user-agent": agent})
    assert response.status_code == 200, response.text
    return response.json()


class TestClassification:
    async def test_a_texts_labels_are_in_a_list_of_their_own(self, client: httpx.AsyncClient) -> None:
        """The client takes the first element of the answer."""
        [labels] = await ask(client, "a wonderful film")
        assert [each["label"] for each in labels] == ["positive", "negative"]
        assert sum(each["score"] for each in labels) == pytest.approx(1)

    async def test_many_in_order_and_for_several_models(self, client: httpx.AsyncClient) -> None:
        pair = {"text": "A man is outside", "text_pair": "A man is outside"}
        found = await ask(client, ["a boring film", pair, {"text": "a wonderful film"}], top_k=1)
        assert [[each["label"] for each in labels] for labels in found] == [["negative"], ["entailment"], ["positive"]]

    async def test_by_name(self, client: httpx.AsyncClient) -> None:
        pair = {"premise": "A man is outside", "hypothesis": "A man is not outside"}
        [[best, *_]] = await ask(client, pair, "/models/nli")
        assert best["label"] == "contradiction"
        [[score]] = await ask(client, pair, "/models/rerank")
        assert score["label"] == "LABEL_0"

    @pytest.mark.parametrize(
        ("function", "scores"), [("none", [2, -2]), ("sigmoid", [0.8808, 0.1192]), ("softmax", [0.982, 0.018])]
    )
    async def test_scores_by_another_function(
        self, client: httpx.AsyncClient, metrics: Metrics, function: str, scores: list[float]
    ) -> None:
        [labels] = await ask(client, "a wonderful film", function_to_apply=function)
        assert [each["score"] for each in labels] == pytest.approx(scores, abs=1e-4)
        seen = metrics.registry.get_sample_value("bertie_confidence_count", {"model": "sentiment"}) or 0
        assert seen == (0 if function == "none" else 1)  # a logit is no confidence

    async def test_a_long_text_is_cut_unless_it_may_not_be(self, client: httpx.AsyncClient) -> None:
        long = "wonderful " * 100
        await ask(client, long, truncation=True)
        for truncation in (False, "do_not_truncate"):
            body = {"inputs": long, "parameters": {"truncation": truncation}}
            response = await client.post("/", json=body)
            assert response.status_code == 422
            assert "too long" in response.json()["error"]


class TestQuestions:
    async def test_one_answer_is_an_object(self, client: httpx.AsyncClient) -> None:
        found = await ask(client, QUESTION)
        assert set(found) == {"answer", "score", "start", "end"}
        assert CONTEXT[found["start"] : found["end"]] == found["answer"]

    async def test_several_are_a_list_of_distinct_ones(self, client: httpx.AsyncClient) -> None:
        found = await ask(client, QUESTION, top_k=3, max_answer_len=1)
        assert len({each["answer"] for each in found}) == 3
        assert all(CONTEXT[each["start"] : each["end"]] == each["answer"] for each in found)

    async def test_many_questions(self, client: httpx.AsyncClient) -> None:
        found = await ask(client, [QUESTION, QUESTION | {"context": "Nobody knows it."}], handle_impossible_answer=True)
        assert [bool(each["answer"]) for each in found] == [True, False]
        assert (found[1]["start"], found[1]["end"]) == (0, 0)

    async def test_windows_of_the_clients_choice(self, client: httpx.AsyncClient, metrics: Metrics) -> None:
        await ask(client, QUESTION | {"context": CONTEXT * 5}, max_seq_len=32, doc_stride=4)
        few = metrics.registry.get_sample_value("bertie_qa_windows_sum", {"model": "qa"})
        await ask(client, QUESTION | {"context": CONTEXT * 5})
        assert few is not None
        both = metrics.registry.get_sample_value("bertie_qa_windows_sum", {"model": "qa"})
        assert both is not None
        assert few > both - few

    @pytest.mark.parametrize(
        ("change", "parameters", "said"),
        [
            ({}, {"max_seq_len": 9999}, "parameters.max_seq_len"),
            ({}, {"max_seq_len": 65}, "at most 64 tokens"),
            ({}, {"doc_stride": 60}, "parameters.doc_stride: a doc_stride of 60 leaves no room"),
            ({}, {"top_p": 1}, "parameters.top_p is no field"),
            ({}, {"top_k": 0}, "parameters.top_k should be greater"),
            ({"context": ["a", "b"]}, {}, "one question has one context"),
            ({"options": ["a", "b"]}, {}, "'options' is no field of such an input"),
            ({"question": ""}, {}, "question is blank"),
        ],
    )
    async def test_what_is_refused(
        self, client: httpx.AsyncClient, change: dict[str, Any], parameters: dict[str, Any], said: str
    ) -> None:
        response = await client.post("/", json={"inputs": QUESTION | change, "parameters": parameters})
        assert response.status_code == 422
        assert said in response.json()["error"]

    async def test_windows_that_would_fill_memory(self, client: httpx.AsyncClient) -> None:
        body = {
            "inputs": {"question": "who " * 25, "context": "! " * 40_000},
            "parameters": {"max_seq_len": 30, "doc_stride": 1},
        }
        response = await client.post("/", json=body)
        assert response.status_code == 413
        assert "windows" in response.json()["error"]


class TestZeroShot:
    TEXT = "The team won the game"

    @pytest.mark.parametrize(
        "agent", ["unknown/None; hf_hub/2.4.0; python/3.11", "unknown/None; hf_hub/1.1.5", "curl/8"]
    )
    async def test_elements(self, client: httpx.AsyncClient, agent: str) -> None:
        found = await ask(client, self.TEXT, agent=agent, **LABELS)
        assert [each["label"] for each in found] == ["game", "sports"]

    @pytest.mark.parametrize("agent", ["unknown/None; hf_hub/0.34.6; python/3.11", "hf_hub/1.0.1", "hf_hub/1.1.4"])
    async def test_a_sequence_for_older_clients(self, client: httpx.AsyncClient, agent: str) -> None:
        found = await ask(client, self.TEXT, agent=agent, multi_label=True, **LABELS)
        assert (found["sequence"], found["labels"]) == (self.TEXT, ["game", "sports"])
        assert found["scores"] == sorted(found["scores"], reverse=True)

    async def test_many(self, client: httpx.AsyncClient) -> None:
        found = await ask(client, [self.TEXT, "sports"], **LABELS, hypothesis_template="about {}")
        assert [each[0]["label"] for each in found] == ["game", "sports"]

    async def test_what_is_refused(self, client: httpx.AsyncClient) -> None:
        for parameters in ({"candidate_labels": []}, LABELS | {"hypothesis_template": "none"}, LABELS | {"top_k": 1}):
            response = await client.post("/", json={"inputs": self.TEXT, "parameters": parameters})
            assert response.status_code == 422
            assert response.json()["error"].startswith("parameters.")


@pytest.mark.parametrize("body", [[], "a", {"inputs": 5}, {"inputs": []}, {"inputs": [5]}, {"inputs": "a", "x": 1}, {}])
async def test_bad_bodies_are_told_as_the_hub_does(client: httpx.AsyncClient, body: Any) -> None:
    response = await client.post("/", json=body)
    assert response.status_code == 422
    assert list(response.json()) == ["error"]
    assert (await ask(client, "a wonderful film"))[0][0]["label"] == "positive"


async def test_what_is_no_question_or_no_function(client: httpx.AsyncClient) -> None:
    response = await client.post("/", json={"inputs": [QUESTION, "Who?"]})
    assert (response.status_code, "inputs.1" in response.json()["error"]) == (422, True)
    for inputs in ({"query": "a", "texts": ["b"]}, {"text": "a", "candidate_labels": ["b"]}):  # Bertie's own
        response = await client.post("/", json={"inputs": inputs})
        assert (response.status_code, "is no field" in response.json()["error"]) == (422, True)
    body = {"inputs": "a", "parameters": {"function_to_apply": "softmax"}}
    response = await client.post("/models/rerank", json=body)
    assert (response.status_code, "always 1" in response.json()["error"]) == (422, True)


async def test_a_model_that_is_not_there_or_takes_no_such_input(client: httpx.AsyncClient) -> None:
    response = await client.post("/models/nope", json={"inputs": "a"})
    assert (response.status_code, response.json()["error"][:22]) == (404, "there is no model 'nop")
    assert (await client.post("/models/qa", json={"inputs": "a"})).status_code == 422


async def test_its_health_and_information(client: httpx.AsyncClient) -> None:
    assert (await client.get("/health")).status_code == 200
    assert (await client.get("/models/qa/health")).status_code == 200
    assert (await client.get("/models/nope/health")).status_code == 404
    assert (await client.get("/info")).json()["model_id"] == "sentiment"
    assert (await client.get("/models/qa/info")).json()["model_type"] == {"span": {}}


async def test_is_counted_under_its_route(client: httpx.AsyncClient, metrics: Metrics) -> None:
    await ask(client, "a wonderful film", "/models/sentiment")
    labels = {"route": "/models/{name}", "model": "sentiment", "status": "200"}
    assert metrics.registry.get_sample_value("bertie_requests_total", labels) == 1
