"""The model card says what was measured, and how to ask the model."""

import json
import re
import shlex

import pytest

from service import schemas
from service.bundle import Graph, Manifest
from training import card

FIELDS = {
    "format": 1, "name": "mine", "architecture": "bert", "parameters": 22_713_986, "max_length": 384,
    "graphs": (Graph("model.int8.onnx", "int8"),), "files": {}, "base_model": "MiniLM", "licence": "Apache-2.0",
    "created": "2025-01-01", "versions": {"torch": "2.13"}, "data": {"sst2/dev.tsv": "ab12", "hub:x": None},
}  # fmt: skip
SPAN = Manifest(task="span", doc_stride=128, no_answer=True, no_answer_threshold=1.23456, **FIELDS)  # type: ignore[arg-type]
SENTIMENT = Manifest(task="classification", labels=("negative", "positive"), **FIELDS)  # type: ignore[arg-type]
NLI = Manifest(task="classification", labels=("entailment", "neutral", "contradiction"), **FIELDS)  # type: ignore[arg-type]
SCORES = {"fp32": {"dev": {"exact": 78.125, "total": 10570}}, "int8": {"dev": {"exact": 100.0, "total": 8}}}


def test_scores_and_files() -> None:
    text = card.render(SPAN, SCORES, {}, {"model.int8.onnx": 23_456_789, "tokenizer.json": 700_000})
    assert "| dev | fp32 | exact 78.12, total 10570 |" in text
    assert "| dev | int8 | exact 100.00, total 8 |" in text
    assert "| model.int8.onnx | 23.46 |" in text
    assert "A bert encoder of 22.7 M parameters for extractive question answering, fine-tuned from `MiniLM`" in text


def test_facts() -> None:
    recipe = {"epochs": 2.0, "batch_size": 32, "learning_rate": 1e-4, "secret": 1}
    text = card.render(SPAN, SCORES, recipe, {})
    for fact in (
        "longest row: 384 tokens",
        "windows share 128 tokens",
        "by more than 1.2346",
        "epochs 2.0, batch_size 32, learning_rate 0.0001",
        "sst2/dev.tsv, sha256 ab12",
        "hub:x, sha256 not known (hub)",
        "licence: Apache-2.0",
        "made 2025-01-01 with torch 2.13",
    ):
        assert fact in text
    assert "secret" not in text
    text = card.render(SENTIMENT, {"fp32": {}}, {}, {})
    assert "for the labels negative, positive" in text
    assert "exported without a dev file" in text
    assert "windows" not in text
    assert "- recipe" not in text


@pytest.mark.parametrize("manifest", [SPAN, SENTIMENT, NLI], ids=["qa", "sentiment", "nli"])
def test_its_curl_line_is_a_right_request(manifest: Manifest) -> None:
    block = re.search(r"```sh\n(.*?)```", card.render(manifest, SCORES, {}, {}), re.DOTALL)
    assert block is not None
    words = shlex.split(block[1].replace("\\\n", " "))
    body = json.loads(words[words.index("-d") + 1])
    path = words[2].removeprefix("localhost:8000")
    assert (path == "/qa") is (manifest.task == "span")
    parsed = schemas.parse(schemas.QA_BODY if path == "/qa" else schemas.CLASSIFY_BODY, json.dumps(body).encode())
    assert parsed.model_dump(exclude_unset=True) == body
    assert ("premise" in body) is (manifest is NLI)
