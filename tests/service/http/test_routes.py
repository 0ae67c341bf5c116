"""What each path answers: its contract, its timings, its counts."""

import math
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, ClassVar

import httpx
import pytest

from service.http.answers import ModelInfo
from service.metrics import Metrics
from service.repository.manifest import Calibration
from service.settings import Settings
from tests.engines import FakeEngine, load_with
from tests.serving import serving

GOOD = {"text": "a wonderful film"}


def count(metrics: Metrics, name: str, **labels: str) -> float:
    return metrics.registry.get_sample_value(name, labels) or 0.0


class TestQa:
    async def test_answers_from_a_text(self, client: httpx.AsyncClient) -> None:
        context = "Ruth lives in Paris. Ada, the woman of the code, lives in London."
        response = await client.post("/qa", json={"question": "Where does Ruth live, in what?", "context": context})
        body = response.json()
        assert response.status_code == 200
        assert list(body) == ["model", "answer", "answers", "no_answer_score", "windows"]
        assert body["model"] == "qa"
        assert list(body["answer"]) == ["text", "score", "start", "end", "document", "window"]
        assert body["answer"]["window"] == {"start": 0, "end": len(context)}
        assert body["answers"] == [body["answer"]]
        assert body["windows"] == 1

    async def test_tells_what_was_read_with_the_answer(self, client: httpx.AsyncClient) -> None:
        context = "🏙️ dog " * 60 + "The capital of France is Paris." + " dog" * 60
        body = (
            await client.post("/qa", json={"question": "What is the capital of France?", "context": context})
        ).json()
        answer, window = body["answer"], body["answer"]["window"]
        assert (answer["text"], body["windows"] > 2) == ("Paris", True)
        assert 0 < window["start"] < answer["start"] < answer["end"] < window["end"] < len(context)
        assert "The capital of France is Paris." in context[window["start"] : window["end"]]

    async def test_finds_the_document_that_holds_the_answer(self, client: httpx.AsyncClient) -> None:
        documents = ["The capital of Germany is Berlin.", "🏙️ The capital of France is Paris.", "Everest is a mountain."]
        question = "What is the capital of France?"
        body = (await client.post("/qa", json={"question": question, "context": documents, "top_k": 3})).json()
        best = body["answer"]
        assert (best["text"], best["document"]) == ("Paris", 1)
        assert len(body["answers"]) == 3
        for answer in body["answers"]:
            assert documents[answer["document"]][answer["start"] : answer["end"]] == answer["text"]
        scores = [answer["score"] for answer in body["answers"]]
        assert scores == sorted(scores, reverse=True)

    @pytest.mark.parametrize(("context", "found"), [("Nobody knows it.", None), ("The capital is Paris.", "Paris")])
    async def test_no_answer_only_where_it_may_be(
        self, client: httpx.AsyncClient, context: str, found: str | None
    ) -> None:
        question = {"question": "What is the capital of France?", "context": context}
        body = (await client.post("/qa", json=question | {"no_answer": True})).json()
        assert (body["answer"] and body["answer"]["text"]) == found
        assert (await client.post("/qa", json=question | {"no_answer": False})).json()["answer"] is not None

    async def test_answers_many_in_order_with_shared_options(self, client: httpx.AsyncClient) -> None:
        inputs = [
            {"question": "What is the capital of France?", "context": "The capital of France is Paris, not Berlin."},
            {"question": "Who wrote code?", "context": "Grace Hopper wrote code.", "top_k": 2},
        ]
        body = (await client.post("/qa", json={"inputs": inputs, "top_k": 3})).json()
        assert list(body) == ["model", "results"]
        assert [result["answer"]["text"] for result in body["results"]] == ["Paris", "Grace Hopper"]
        assert [len(result["answers"]) for result in body["results"]] == [3, 2]

    async def test_an_input_that_the_model_cannot_read_is_named(self, client: httpx.AsyncClient) -> None:
        fine = {"question": "Who?", "context": "Ada."}
        long = {"question": "who " * 100, "context": "Ada."}
        response = await client.post("/qa", json={"inputs": [fine, fine, long]})
        assert (response.status_code, response.json()["field"]) == (422, "inputs.2.question")
        response = await client.post("/qa", json=long)
        assert (response.status_code, response.json()["field"]) == (422, "question")


class TestScores:
    QUERY = "What is the capital of France?"
    TEXTS: ClassVar = ["The highest mountain is Everest.", "The capital of France is Paris.", "France is a country."]

    @pytest.fixture
    async def client(
        self, bundle_factory: Callable[..., Path], settings: Settings, metrics: Metrics
    ) -> AsyncIterator[httpx.AsyncClient]:
        folder = bundle_factory("rerank")
        bundle_factory("rerank", name="raw", activation="identity", labels=("similarity",))
        async with serving(settings.model_copy(update={"models_dir": folder.parent}), metrics=metrics) as client:
            yield client

    async def test_a_pair_has_one_score(self, client: httpx.AsyncClient) -> None:
        pair = {"text": self.QUERY, "text_pair": self.TEXTS[1], "model": "rerank"}
        body = (await client.post("/classify", json=pair)).json()
        assert body == {"model": "rerank", "score": pytest.approx(1 / (1 + math.exp(-4))), "truncated": False}
        raw = (await client.post("/classify", json=pair | {"model": "raw"})).json()
        assert raw == {"model": "raw", "score": pytest.approx(4.0), "truncated": False}
        unnamed = (await client.post("/classify", json={"text": self.QUERY, "text_pair": self.TEXTS[1]})).json()
        assert unnamed["model"] in ("raw", "rerank")

    async def test_texts_are_put_in_order(self, client: httpx.AsyncClient, metrics: Metrics) -> None:
        body = (
            await client.post("/classify", json={"query": self.QUERY, "texts": self.TEXTS, "model": "rerank"})
        ).json()
        assert list(body) == ["model", "ranking", "truncated"]
        assert [each["index"] for each in body["ranking"]] == [1, 2, 0]
        assert [list(each) for each in body["ranking"]] == [["index", "score"]] * 3
        pairs = [{"text": self.QUERY, "text_pair": text} for text in self.TEXTS]
        scores = (await client.post("/classify", json={"inputs": pairs, "model": "rerank"})).json()["results"]
        assert [each["score"] for each in body["ranking"]] == pytest.approx([scores[i]["score"] for i in (1, 2, 0)])
        assert count(metrics, "bertie_predictions_total", model="rerank", label="rerank") == 1
        assert count(metrics, "bertie_predictions_total", model="rerank", label="score") == 3
        assert count(metrics, "bertie_batch_rows_sum", model="rerank") == 6

    async def test_many_rankings_and_the_best_of_each(self, client: httpx.AsyncClient) -> None:
        one = {"query": self.QUERY, "texts": self.TEXTS, "top_k": 1}
        body = (await client.post("/classify", json={"inputs": [one, one | {"top_k": None}]})).json()
        assert [[each["index"] for each in result["ranking"]] for result in body["results"]] == [[1], [1, 2, 0]]

    @pytest.mark.parametrize(
        ("body", "status", "field"),
        [
            ({"query": "q", "texts": []}, 422, "texts"),
            ({"query": "q"}, 422, "texts"),
            ({"query": "q", "texts": ["a", " "]}, 422, "texts.1"),
            ({"query": "q", "texts": ["a"], "top_k": 0}, 422, "top_k"),
            ({"query": "q", "texts": ["a"] * 129}, 413, "texts"),
            ({"text": "a", "text_pair": "b", "top_k": 1, "model": "rerank"}, 422, "model"),
        ],
    )
    async def test_what_is_wrong_is_named(
        self, client: httpx.AsyncClient, body: dict[str, Any], status: int, field: str
    ) -> None:
        response = await client.post("/classify", json=body)
        assert (response.status_code, response.json()["field"]) == (status, field)

    async def test_a_model_says_what_its_score_goes_through(self, client: httpx.AsyncClient) -> None:
        for name, activation, labels in (("rerank", "sigmoid", []), ("raw", "identity", ["similarity"])):
            info = (await client.get(f"/models/{name}")).json()
            assert (info["task"], info["activation"], info["labels"]) == ("score", activation, labels)
            assert (info["rerank"], info["zero_shot"]) == (True, False)

    async def test_models_with_labels_are_asked_first(
        self, bundle_factory: Callable[..., Path], settings: Settings
    ) -> None:
        folders = [bundle_factory(kind) for kind in ("rerank", "sentiment", "nli")]
        async with serving(settings.model_copy(update={"models_dir": folders[0].parent})) as client:
            for body, model in (
                (GOOD, "sentiment"),
                ({"text": "a dog", "text_pair": "a dog"}, "nli"),
                ({"query": "a dog", "texts": ["a dog"]}, "rerank"),
            ):
                assert (await client.post("/classify", json=body)).json()["model"] == model


class TestThousandsOfLabels:
    LABELS = tuple(f"subject {i}" for i in range(2000))
    LOGITS = tuple(float(i % 100) / 10 - 8 for i in range(2000))  # those of 81 to 99 in a hundred hold

    @pytest.mark.parametrize("multi_label", [False, True])
    async def test_as_many_are_given_as_are_asked_for(
        self, bundle_factory: Callable[..., Path], settings: Settings, metrics: Metrics, multi_label: bool
    ) -> None:
        folder = bundle_factory("sentiment", name="subjects", labels=self.LABELS, multi_label=multi_label)
        settings = settings.model_copy(update={"models_dir": folder.parent})
        engine = FakeEngine(self.LOGITS)
        async with serving(settings, metrics=metrics, load=load_with(subjects=engine)) as client:
            every = (await client.post("/classify", json=GOOD)).json()
            assert list(every["scores"]) == list(self.LABELS)
            some = (await client.post("/classify", json={"inputs": [GOOD, GOOD | {"top_k": 1}], "top_k": 3})).json()
            assert [list(each["scores"]) for each in some["results"]] == [
                ["subject 99", "subject 199", "subject 299"],
                ["subject 99"],
            ]
            assert some["results"][0]["label"] == every["label"] == "subject 99"
            assert len(every.get("labels", ())) == (380 if multi_label else 0)
            assert len((await client.get("/models/subjects")).json()["labels"]) == 2000
        series = [s for metric in metrics.predictions.collect() for s in metric.samples if s.name.endswith("_total")]
        assert [sample.labels["label"] for sample in series] == ["other"]


class TestOptions:
    PASSAGE = "Ruth lives in Paris. Ada wrote the code."
    BODY: ClassVar = {"question": "Who wrote the code?", "context": PASSAGE, "options": ["Nobody", "Ada wrote", "dogs"]}

    @pytest.fixture
    async def client(
        self, bundle_factory: Callable[..., Path], settings: Settings, metrics: Metrics
    ) -> AsyncIterator[httpx.AsyncClient]:
        folder = bundle_factory("choice")
        bundle_factory("qa")
        async with serving(settings.model_copy(update={"models_dir": folder.parent}), metrics=metrics) as client:
            yield client

    async def test_picks_an_option(self, client: httpx.AsyncClient) -> None:
        response = await client.post("/qa", json=self.BODY)
        assert response.status_code == 200
        body = response.json()
        assert list(body) == ["model", "answer", "answers", "truncated"]
        assert (body["model"], body["truncated"]) == ("choice", False)
        assert (body["answer"]["option"], body["answer"]["text"]) == (1, "Ada wrote")
        assert body["answer"] == body["answers"][0]
        assert sorted(answer["option"] for answer in body["answers"]) == [0, 1, 2]
        assert sum(answer["score"] for answer in body["answers"]) == pytest.approx(1)
        assert "inference;dur=" in response.headers["server-timing"]

    async def test_answers_many_in_order(self, client: httpx.AsyncClient) -> None:
        other = {"question": "Who lives in _?", "context": self.PASSAGE, "options": ["Berlin", "Paris"]}
        body = (await client.post("/qa", json={"inputs": [self.BODY, other, self.BODY], "model": "choice"})).json()
        assert [result["answer"]["option"] for result in body["results"]] == [1, 1, 1]
        assert [len(result["answers"]) for result in body["results"]] == [3, 2, 3]
        assert list(body) == ["model", "results"]

    async def test_says_when_the_passage_was_cut(self, client: httpx.AsyncClient) -> None:
        body = (await client.post("/qa", json=self.BODY | {"context": self.PASSAGE * 20})).json()
        assert body["truncated"]
        assert body["answer"]["option"] == 1

    async def test_an_input_that_the_model_cannot_read_is_named(self, client: httpx.AsyncClient) -> None:
        long = self.BODY | {"options": ["Ada", "dogs " * 70]}
        response = await client.post("/qa", json=long)
        assert (response.status_code, response.json()["field"]) == (422, "options.1")
        response = await client.post("/qa", json={"inputs": [self.BODY, long]})
        assert (response.status_code, response.json()["field"]) == (422, "inputs.1.options.1")

    @pytest.mark.parametrize(
        ("change", "status", "field", "reason"),
        [
            ({"options": ["one"]}, 422, "options", "2 or more"),
            ({"options": ["a"] * 65}, 413, "options", "the limit is 64"),
            ({"model": "qa"}, 422, "model", "it takes a question and a context"),
            ({"model": "nope"}, 404, "model", "no model"),
        ],
    )
    async def test_what_is_refused(
        self, client: httpx.AsyncClient, change: dict[str, Any], status: int, field: str, reason: str
    ) -> None:
        response = await client.post("/qa", json=self.BODY | change)
        assert (response.status_code, response.json()["field"]) == (status, field)
        assert reason in response.json()["detail"]

    async def test_a_question_without_options_is_not_for_that_model(self, client: httpx.AsyncClient) -> None:
        body = {"question": "Who?", "context": "Ada.", "model": "choice"}
        response = await client.post("/qa", json=body)
        assert (response.status_code, response.json()["field"]) == (422, "model")
        assert "a question, one context and options" in response.json()["detail"]
        assert (await client.post("/qa", json=body | {"model": "qa"})).status_code == 200

    async def test_without_a_fitting_model(self, settings: Settings) -> None:
        async with serving(settings) as client:
            assert (await client.post("/qa", json=self.BODY)).status_code == 404

    async def test_is_counted_and_described(self, client: httpx.AsyncClient, metrics: Metrics) -> None:
        await client.post("/qa", json={"inputs": [self.BODY, self.BODY]})
        assert count(metrics, "bertie_predictions_total", model="choice", label="option") == 2
        assert count(metrics, "bertie_confidence_count", model="choice") == 2
        assert count(metrics, "bertie_requests_total", route="/qa", model="choice", status="200") == 1
        assert count(metrics, "bertie_batch_rows_sum", model="choice") == 6
        assert (await client.get("/models/choice")).json()["task"] == "multiple_choice"


class TestMultiLabel:
    @pytest.fixture
    async def client(
        self, bundle_factory: Callable[..., Path], settings: Settings, metrics: Metrics
    ) -> AsyncIterator[httpx.AsyncClient]:
        tags = bundle_factory("sentiment", name="a-tags", labels=("sad", "fun"), multi_label=True, label_threshold=0.4)
        bundle_factory("sentiment")
        async with serving(settings.model_copy(update={"models_dir": tags.parent}), metrics=metrics) as client:
            yield client

    @pytest.mark.parametrize(
        ("text", "label", "labels"), [("good", "fun", ["fun"]), ("bad", "sad", ["sad"]), ("dog", "sad", ["sad", "fun"])]
    )
    async def test_labels_that_hold_are_listed(
        self, client: httpx.AsyncClient, metrics: Metrics, text: str, label: str, labels: list[str]
    ) -> None:
        body = (await client.post("/classify", json={"text": text, "model": "a-tags"})).json()
        assert list(body) == ["model", "label", "score", "scores", "truncated", "labels"]
        assert (body["label"], body["labels"], body["score"]) == (label, labels, body["scores"][label])
        for each in ("sad", "fun"):
            assert count(metrics, "bertie_predictions_total", model="a-tags", label=each) == (each in labels)

    async def test_a_text_alone_is_still_for_the_sentiment_model(self, client: httpx.AsyncClient) -> None:
        body = (await client.post("/classify", json=GOOD)).json()
        assert body["model"] == "sentiment"
        assert "labels" not in body

    async def test_says_so_of_itself(self, client: httpx.AsyncClient) -> None:
        tags, sentiment = (await client.get("/models")).json()["models"]
        assert (tags["multi_label"], tags["label_threshold"]) == (True, 0.4)
        assert not sentiment["multi_label"]


class TestClassify:
    @pytest.mark.parametrize(
        ("body", "model", "label"),
        [
            ({"text": "a wonderful film"}, "sentiment", "positive"),
            ({"text": "I hated it"}, "sentiment", "negative"),
            ({"premise": "a man is outside", "hypothesis": "a man is outside"}, "nli", "entailment"),
            ({"premise": "a man is outside", "hypothesis": "a man is not outside"}, "nli", "contradiction"),
            ({"text": "a man is outside", "text_pair": "a cat won"}, "nli", "neutral"),
            ({"text": "the team won", "candidate_labels": ["politics", "team"]}, "nli", "team"),
            ({"text": "a wonderful film", "model": "sentiment"}, "sentiment", "positive"),
            # asked for by name, a model with labels of its own may compare two texts
            ({"text": "a wonderful film", "text_pair": "fun", "model": "sentiment"}, "sentiment", "positive"),
        ],
    )
    async def test_the_fields_choose_the_model(
        self, client: httpx.AsyncClient, body: dict[str, Any], model: str, label: str
    ) -> None:
        answer = (await client.post("/classify", json=body)).json()
        assert (answer["model"], answer["label"]) == (model, label)
        assert answer["scores"][label] == answer["score"] == max(answer["scores"].values())
        assert list(answer) == ["model", "label", "score", "scores", "truncated"]

    async def test_labels_of_a_zero_shot_answer_are_the_clients(self, client: httpx.AsyncClient) -> None:
        body = {"text": "the team won the election", "candidate_labels": ["team", "election", "cat"]}
        answer = (await client.post("/classify", json=body)).json()
        assert list(answer["scores"]) == ["team", "election", "cat"]
        assert sum(answer["scores"].values()) == pytest.approx(1)
        answer = (await client.post("/classify", json=body | {"multi_label": True})).json()
        assert answer["scores"]["team"] > 0.9
        assert answer["scores"]["election"] > 0.9
        assert answer["scores"]["cat"] < 0.6

    async def test_answers_many_in_order(self, client: httpx.AsyncClient) -> None:
        words = ["good", "bad", "great", "awful", "fun"] * 5
        body = (await client.post("/classify", json={"inputs": [{"text": f"a {word} film"} for word in words]})).json()
        expected = ["negative" if word in ("bad", "awful") else "positive" for word in words]
        assert [result["label"] for result in body["results"]] == expected
        assert list(body) == ["model", "results"]
        assert "model" not in body["results"][0]

    async def test_says_when_a_text_was_cut(self, client: httpx.AsyncClient) -> None:
        short, long = [
            (await client.post("/classify", json={"text": "good " * words})).json()["truncated"] for words in (62, 63)
        ]
        assert (short, long) == (False, True)

    @pytest.mark.parametrize(
        ("body", "status"),
        [
            ({"text": "x", "model": "nope"}, 404),
            ({"text": "x", "model": "qa"}, 422),
            ({"text": "x", "candidate_labels": ["a"], "model": "sentiment"}, 422),
        ],
    )
    async def test_a_model_that_cannot_is_refused(
        self, client: httpx.AsyncClient, body: dict[str, Any], status: int
    ) -> None:
        response = await client.post("/classify", json=body)
        assert (response.status_code, response.json()["field"]) == (status, "model")

    async def test_a_text_alone_is_nothing_for_a_model_that_compares(self, client: httpx.AsyncClient) -> None:
        response = await client.post("/classify", json=GOOD | {"model": "nli"})
        assert (response.status_code, response.json()["field"]) == (422, "model")
        takes = "it takes a premise and a hypothesis, or a text and candidate_labels"
        assert response.json()["detail"] == f"model 'nli' cannot answer these fields: {takes}"

    async def test_without_a_fitting_model(self, settings: Settings) -> None:
        async with serving(settings.model_copy(update={"models": ("qa",)})) as client:
            assert (await client.post("/classify", json=GOOD)).status_code == 404
            assert (await client.post("/qa", json={"question": "Who?", "context": "Ada"})).status_code == 200


class TestTimingsAndMetrics:
    async def test_predictions_have_their_phases(self, client: httpx.AsyncClient) -> None:
        response = await client.post("/classify", json=GOOD)
        phases = dict(part.split(";dur=") for part in response.headers["server-timing"].split(", "))
        assert list(phases) == ["tokenize", "queue", "inference", "decode"]
        assert all(0 <= float(milliseconds) < 10_000 for milliseconds in phases.values())

    @pytest.mark.parametrize(("path", "body"), [("/qa", {"question": "Who?"}), ("/classify", GOOD | {"model": "nope"})])
    async def test_errors_have_the_whole_time(self, client: httpx.AsyncClient, path: str, body: dict[str, Any]) -> None:
        response = await client.post(path, json=body)
        assert response.status_code in (404, 422)
        name, milliseconds = response.headers["server-timing"].split(";dur=")
        assert name == "total"
        assert 0 < float(milliseconds) < 10_000

    async def test_the_engines_time_is_in_milliseconds(self, settings: Settings) -> None:
        async with serving(settings, load=load_with(sentiment=FakeEngine(seconds=0.1))) as client:
            timing = (await client.post("/classify", json=GOOD)).headers["server-timing"]
        assert 100 <= float(timing.split("inference;dur=")[1].split(",")[0]) < 1000

    async def test_counts(self, client: httpx.AsyncClient, metrics: Metrics) -> None:
        await client.post("/classify", json={"inputs": [{"text": "good"}, {"text": "bad"}, {"text": "fun"}]})
        await client.post("/classify", json={"text": "team", "candidate_labels": ["team"]})
        await client.post("/qa", json={"question": "Who wrote code?", "context": "Ada wrote code. " * 30})
        await client.post("/qa", json={"question": "Who wrote code?", "context": "no", "no_answer": True})
        await client.post("/qa", json={"question": "Who?"})
        await client.get("/models/qa")
        await client.get("/models/nope")

        def predictions(model: str, label: str) -> float:
            return count(metrics, "bertie_predictions_total", model=model, label=label)

        assert (predictions("sentiment", "positive"), predictions("sentiment", "negative")) == (2, 1)
        assert predictions("nli", "zero_shot") == 1
        assert (predictions("qa", "answer"), predictions("qa", "no_answer")) == (1, 1)
        assert count(metrics, "bertie_no_answer_total", model="qa") == 1
        assert count(metrics, "bertie_confidence_count", model="sentiment") == 3
        assert count(metrics, "bertie_qa_windows_count", model="qa") == 2
        assert count(metrics, "bertie_qa_windows_sum", model="qa") == 4
        requests = "bertie_requests_total"
        assert count(metrics, requests, route="/classify", model="sentiment", status="200") == 1
        assert count(metrics, requests, route="/qa", model="qa", status="200") == 2
        assert count(metrics, requests, route="/qa", model="", status="422") == 1
        assert count(metrics, requests, route="/models/{name}", model="", status="200") == 1
        assert count(metrics, requests, route="/models/{name}", model="", status="404") == 1
        assert count(metrics, "bertie_request_duration_seconds_count", route="/qa", model="qa") == 2
        assert count(metrics, "bertie_rejected_total", reason="invalid") == 2

    async def test_the_metrics_page_speaks_both_dialects(self, client: httpx.AsyncClient) -> None:
        await client.post("/classify", json=GOOD)
        plain = await client.get("/metrics")
        assert plain.headers["content-type"].startswith("text/plain; version=")
        assert 'bertie_model_info{architecture="bert",model="qa",precision="fp32",provider="cpu"' in plain.text
        assert "process_resident_memory_bytes" in plain.text
        accept = {"accept": "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"}
        openmetrics = await client.get("/metrics", headers=accept)
        assert openmetrics.headers["content-type"].startswith("application/openmetrics-text")
        assert openmetrics.text.endswith("# EOF\n")


class TestModels:
    async def test_describe_themselves(self, client: httpx.AsyncClient) -> None:
        models = (await client.get("/models")).json()["models"]
        assert [model["name"] for model in models] == ["nli", "qa", "sentiment"]
        for model in models:
            assert (await client.get(f"/models/{model['name']}")).json() == model
        nli, qa, sentiment = models
        assert nli["labels"] == ["entailment", "neutral", "contradiction"]
        assert (nli["zero_shot"], qa["zero_shot"], sentiment["zero_shot"]) == (True, False, False)
        assert (qa["task"], qa["max_length"], qa["doc_stride"]) == ("span", 64, 16)
        assert (qa["precision"], qa["provider"], qa["scores"]) == ("fp32", "cpu", {"dev": {"f1": 99.0}})
        assert set(qa["files"]) == {"model.fp32.onnx", "tokenizer.json"}

    @pytest.mark.parametrize(("provider", "packed"), [("cpu", False), ("cuda", True)])
    async def test_whether_the_graph_is_packed(self, settings: Settings, provider: str, packed: bool) -> None:
        model = load_with(qa=FakeEngine(None, None))(settings, Metrics()).models["qa"]
        twin = replace(model.graph, file="model.fp32.packed.onnx", scores={"dev": {"f1": 98.0}}, packed=True)
        info = ModelInfo.of(replace(model, provider=provider, graph=twin if packed else model.graph), [])
        assert (info.packed, info.scores["dev"]["f1"]) == (packed, 98.0 if packed else 99.0)
        assert model.scheduler.stop()

    async def test_how_far_scores_can_be_trusted(self, bundle_factory: Callable[..., Path], settings: Settings) -> None:
        calibration = Calibration("dev.tsv", rows=872, ece_before=6.2, ece_after=2.7)
        folder = bundle_factory("sentiment", temperature=1.7, calibration=calibration)
        bundle_factory("qa")
        async with serving(settings.model_copy(update={"models_dir": folder.parent})) as client:
            model = (await client.get("/models/sentiment")).json()
            assert (model["temperature"], model["calibration"]) == (1.7, asdict(calibration))
            other = (await client.get("/models/qa")).json()
            assert (other["temperature"], other["calibration"]) == (1.0, None)

    @pytest.mark.parametrize("priority", ["high", "normal", "low"])
    async def test_a_priority_is_accepted(self, client: httpx.AsyncClient, priority: str) -> None:
        for body in (GOOD | {"priority": priority}, {"inputs": [GOOD], "priority": priority}):
            assert (await client.post("/classify", json=body)).status_code == 200
        question = {"question": "Who?", "context": "Ada.", "priority": priority}
        assert (await client.post("/qa", json=question)).status_code == 200

    async def test_an_unknown_one(self, client: httpx.AsyncClient) -> None:
        response = await client.get("/models/nope")
        assert (response.status_code, response.json()["field"]) == (404, "name")
