"""Bodies of known fields that fit or don't: no 500, every error in its protocol's form, and the next request works."""

from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

PATHS = {
    "/": {"error"},
    "/models/rerank": {"error"},
    "/predict": {"error", "error_type", "message"},
    "/models/nli/predict": {"error", "error_type", "message"},
    "/tokenize": {"error", "error_type", "message"},
    "/rerank": {"error", "error_type", "message"},
    "/v2/models/rerank/infer": {"error"},
    "/v2/models/qa/infer": {"error"},
    "/v1/models/sentiment:predict": {"error"},
    "/vertex": {"error"},
    "/invocations": {"type", "title", "status", "detail", "request_id"},
    "/classify": set(),  # two forms: Bertie's own, and that of bodies with `input`
}
"""What the error of each path has for fields."""
FIELDS = (
    "inputs", "parameters", "text", "text_pair", "premise", "hypothesis", "question", "context", "options", "query",
    "texts", "documents", "instances", "input", "model", "candidate_labels", "hypothesis_template", "top_k", "top_n",
    "raw_scores", "truncate", "function_to_apply", "max_seq_len", "doc_stride", "outputs", "name", "shape", "datatype",
    "data", "no_answer", "multi_label",
)  # fmt: skip
SCALARS = st.sampled_from(
    ("good film", "Ada lives in Paris.", "Where does Ada live?", "", " ", "{}", "BYTES", "qa", "nli", "text", "none",
     "softmax", "left", 0, 1, 2, -1, 1.0, 2**70, True, False, None)
)  # fmt: skip
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=4),
    max_leaves=12,
)
BODIES = st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=5)
INNER = (
    {"text": "good film"},
    {"text": "a man", "text_pair": "a man"},
    {"text": "the game", "candidate_labels": ["game", "sports"]},
    {"query": "capital", "texts": ["the capital", "dogs"]},
    {"question": "Who?", "context": "Ada lives in Paris."},
    {"question": "Who?", "context": "Ada lives in Paris.", "options": ["Ada", "Ruth"]},
    {"name": "text", "shape": [1], "datatype": "BYTES", "data": ["good"]},
)
"""Inputs that some protocol takes."""
FEW = st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=1)
CHANGED = st.builds(lambda inner, few: inner | few, st.sampled_from(INNER), FEW)
PUT = {
    "alone": lambda inner: inner,
    "as inputs": lambda inner: {"inputs": inner},
    "in inputs": lambda inner: {"inputs": [inner]},
    "in instances": lambda inner: {"instances": [inner]},
    "beside labels": lambda inner: {"inputs": inner, "parameters": {"candidate_labels": ["game"]}},
    "by another function": lambda inner: {"inputs": inner, "parameters": {"function_to_apply": "sigmoid"}},
}
"""Where a body holds an input."""
PLACED = st.builds(lambda put, inner, few: put(inner) | few, st.sampled_from([*PUT.values()]), CHANGED, FEW)


@pytest.mark.parametrize("path", PATHS)
@given(body=st.one_of(BODIES, PLACED, st.builds(lambda body, inputs: body | {"inputs": inputs}, BODIES, VALUES)))
@settings(max_examples=50, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
async def test_no_body_breaks_anything(client: httpx.AsyncClient, path: str, body: Any) -> None:
    await check(client, path, body)
    assert (await client.post("/classify", json={"text": "good"})).json()["label"] == "positive"


@pytest.mark.parametrize("path", PATHS)
async def test_nor_does_what_another_protocol_takes(client: httpx.AsyncClient, path: str) -> None:
    for put in PUT.values():
        for inner in INNER:
            await check(client, path, put(inner))


async def check(client: httpx.AsyncClient, path: str, body: Any) -> None:
    response = await client.post(path, json=body)
    assert response.status_code in (200, 400, 404, 413, 422, 424), (body, response.text)
    if response.status_code != 200:
        assert PATHS[path] <= set(response.json()), (body, response.text)
