"""Subjects small enough for tests, and measurements without processes of their own."""

import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from bench import child
from bench.compare import serving, steps, subjects, weights
from bench.compare.subjects import Subject
from bench.graphs import eager

Calls = list[tuple[str, dict[str, Any]]]
"""Which measurement, and with what request."""

TINY = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "vocab_size": 97,
    "max_position_embeddings": 64,
}


def tiny() -> dict[str, Subject]:
    """A BERT and an ALBERT of one shape, and an ALBERT twice as wide, under the published names."""
    return {
        "bert-base": Subject("bert-base", subjects.bert(**TINY), 1000),
        "albert-base": Subject("albert-base", subjects.albert(**TINY, embedding_size=16), 500, "bert-base"),
        "albert-xlarge": Subject(
            "albert-xlarge", subjects.albert(**TINY | {"hidden_size": 64}, embedding_size=16), 900, "bert-large"
        ),
    }


@pytest.fixture
def tiny_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The published models are the tiny ones."""
    monkeypatch.setattr(subjects, "published", tiny)


def run_here(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """Makes measurements run in this process, torch being loaded here already; lists what is asked for."""
    asked: Calls = []
    functions: dict[str, Callable[[dict[str, Any]], Mapping[str, Any]]] = {
        "bench.compare.weights": weights.write,
        "bench.compare.serving": serving.measure,
        "bench.compare.steps": steps.measure,
        "bench.graphs.eager": eager.measure,
    }

    def call(module: str, request: dict[str, Any]) -> dict[str, Any]:
        asked.append((module.rpartition(".")[2], request))
        answer: dict[str, Any] = json.loads(json.dumps(functions[module](request)))
        return answer

    monkeypatch.setattr(child, "call", call)
    return asked


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """What is asked of the measurements, which run in this process."""
    return run_here(monkeypatch)
