"""The model card says what was measured, and how to ask the model."""

import json
import re
import shlex
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from service.http import requests
from service.repository.manifest import Calibration, Graph, Manifest
from service.settings import Settings
from training.evaluate.calibration import Bin, Fit
from training.export import card, own

FIELDS = {
    "format": 1, "name": "mine", "architecture": "bert", "parameters": 22_713_986, "max_length": 384,
    "graphs": (Graph("model.int8.onnx", "int8"),), "files": {}, "base_model": "MiniLM", "licence": "Apache-2.0",
    "created": "2025-01-01", "versions": {"torch": "2.13"}, "data": {"sst2/dev.tsv": "ab12", "hub:x": None},
}  # fmt: skip
SPAN = Manifest(task="span", doc_stride=128, no_answer=True, no_answer_threshold=1.23456, **FIELDS)  # type: ignore[arg-type]
SENTIMENT = Manifest(task="classification", labels=("negative", "positive"), **FIELDS)  # type: ignore[arg-type]
NLI = Manifest(task="classification", labels=("entailment", "neutral", "contradiction"), **FIELDS)  # type: ignore[arg-type]
PAIRS = Manifest(task="classification", labels=("no", "yes"), layout={"text_pair": "b"}, **FIELDS)  # type: ignore[arg-type]
TOPICS = Manifest(task="classification", labels=("sport", "war"), **FIELDS)  # type: ignore[arg-type]
CHOICE = Manifest(task="multiple_choice", **FIELDS)  # type: ignore[arg-type]
SCORES = {"fp32": {"dev": {"exact": 78.125, "total": 10570}}, "int8": {"dev": {"exact": 100.0, "total": 8}}}


def test_scores_and_files() -> None:
    text = card.render(SPAN, SCORES, {}, {"model.int8.onnx": 23_456_789, "tokenizer.json": 700_000})["README.md"]
    assert "| dev | fp32 | exact 78.12, total 10570 |" in text
    assert "| dev | int8 | exact 100.00, total 8 |" in text
    assert "| model.int8.onnx | 23.46 |" in text
    assert "A BERT encoder of 22.7 M parameters for extractive question answering, fine-tuned from `MiniLM`" in text


def test_how_far_half_precision_is_off() -> None:
    text = card.render(SENTIMENT, SCORES, {}, {}, halves={"fp16": 0.00123, "w8a16": None})["README.md"]
    assert "- fp16: logits within 1.2e-03 of the same weights' in fp32" in text
    assert "- w8a16: not compared with fp32, for want of kernels" in text


def test_facts() -> None:
    recipe = {"epochs": 2.0, "batch_size": 32, "learning_rate": 1e-4, "secret": 1}
    text = card.render(SPAN, SCORES, recipe, {})["README.md"]
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
    compared = own.Compared(60, 1.6e-5, {"int8": own.Agreement(98.75, 0.0091, 0.06), "fp16": None})
    text = card.render(SENTIMENT, {}, {}, {}, compared=compared)["README.md"]
    assert "for the labels negative, positive" in text
    assert "- fp32: logits within 1.6e-05 of torch's" in text
    assert "- int8: 98.8 % of the answers are fp32's, their scores 0.0091 apart on average and 0.060 at most" in text
    assert "- fp16: not run, for want of kernels on the CPU" in text
    assert "Not measured: how often answers are right. Not fitted: the temperature of scores." in text
    assert "## Scores" not in text
    assert "windows" not in text
    assert "- recipe" not in text


@pytest.mark.parametrize("manifest", [SPAN, CHOICE, SENTIMENT, NLI, PAIRS, TOPICS])
def test_its_curl_line_is_a_right_request(manifest: Manifest) -> None:
    block = re.search(r"```sh\n(.*?)```", card.render(manifest, SCORES, {}, {})["README.md"], re.DOTALL)
    assert block is not None
    words = shlex.split(block[1].replace("\\\n", " "))
    body = json.loads(words[words.index("-d") + 1])
    path = words[2].removeprefix("localhost:8000")
    assert (path == "/qa") is (manifest.task != "classification")
    call = requests.parse_value(path, body, Settings())
    assert (len(call.examples), call.model) == (1, body.get("model"))
    assert ("premise" in body) is (manifest is NLI)
    assert ("text_pair" in body) is (manifest is PAIRS)
    assert ("options" in body) is (manifest is CHOICE)
    assert body.get("model") == ("mine" if manifest in (PAIRS, TOPICS) else None)


def test_labels_that_may_hold_together() -> None:
    tags = replace(TOPICS, multi_label=True, label_threshold=0.25)
    assert "scored over 0.2500" in card.render(tags, SCORES, {}, {})["README.md"]
    assert "may hold together" not in card.render(TOPICS, SCORES, {}, {})["README.md"]


def test_calibration_and_its_diagram() -> None:
    before = (Bin(0.8, 1.0, 30, 0.97, 0.8), Bin(0.4, 0.6, 10, 0.5, 0.4))
    fit = Fit(1.75, before, (Bin(0.8, 1.0, 40, 0.85, 0.84),))
    manifest = replace(SENTIMENT, temperature=1.75, calibration=Calibration("sst2/dev.tsv", 40, 15.25, 1.0))
    files = card.render(manifest, SCORES, {}, {}, fit)
    assert files.keys() == {"README.md", "reliability.svg"}
    assert "divided by 1.750 (Guo et al. 2017), fitted on 40 answers of sst2/dev.tsv" in files["README.md"]
    assert "15.25 % before, 1.00 % after" in files["README.md"]
    picture = ElementTree.fromstring(files["reliability.svg"])
    titles = [title.text for title in picture.iter("{http://www.w3.org/2000/svg}title")]
    assert "before: 10 answers, score 0.500, right 0.400" in titles
    assert "after: 40 answers, score 0.850, right 0.840" in titles
