"""`/rerank`: text-embeddings-inference's, and that of Cohere, Jina, Infinity and vLLM, told apart by their fields.

Scores are sigmoids of the model's number, as these servers give them, unless raw ones are asked for.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from typing import Annotated, Any

from pydantic import Field, WithJsonSchema
from starlette.responses import Response

from service.http import answers, requests
from service.http.endpoints import Ask, Document, Done, Endpoint, Work
from service.protocols import info, scores, tei
from service.protocols.own import TEXT
from service.settings import MAX_ITEMS
from service.tasks import Ranking
from service.tasks.inputs import Count, Shape, Text


class RerankBody(tei.Truncation):
    """A query, and the texts to put in order."""

    query: Text
    texts: list[Text] = Field(min_length=1, max_length=MAX_ITEMS)
    return_text: bool = Field(False, description="Whether the answer holds the texts.")


_DOCUMENT_TEXT = {"type": "object", "properties": {"text": TEXT}, "required": ["text"]}
_DOCUMENTS = {"type": "array", "items": {"anyOf": [TEXT, _DOCUMENT_TEXT]}, "minItems": 1}


class DocumentsBody(Shape):
    """The same as Cohere, Jina, Infinity and vLLM take it."""

    model: str | None = Field(None, description="Name of the model.")
    query: Text
    documents: Annotated[list[Any], WithJsonSchema(_DOCUMENTS)] = Field(min_length=1, max_length=MAX_ITEMS)
    top_n: Count | None = Field(None, description="How many to give; all when not given.")
    return_documents: bool = Field(False, description="Whether the answer holds the documents.")
    raw_scores: bool = Field(False, description="Whether scores are the model's numbers as they come.")


def rerank(ask: Ask) -> Work:
    """Put texts in order by how well they fit a query."""
    data = ask.json()
    if isinstance(data, dict) and "documents" in data:
        return _documents(ask, requests.check(DocumentsBody, data))
    if isinstance(data, dict) and data.get("texts") == []:
        raise info.Empty("`texts` cannot be empty", field="texts")
    body = requests.check(RerankBody, data)

    def write(ranking: Ranking, done: Done) -> Response:
        body.check(done)
        found: list[dict[str, Any]] = [{"index": each.index, "score": each.score} for each in ranking.ranking]
        if body.return_text:
            found = [each | {"text": body.texts[each["index"]]} for each in found]
        return answers.response(found, tei.headers(done, work.examples))

    work = _work(ask, body.query, body.texts, None, body.raw_scores, write)
    return work


def _documents(ask: Ask, body: DocumentsBody) -> Work:
    texts = [each.get("text") if isinstance(each, dict) else each for each in body.documents]

    def write(ranking: Ranking, done: Done) -> Response:
        found: list[dict[str, Any]] = [{"index": each.index, "relevance_score": each.score} for each in ranking.ranking]
        if body.return_documents:
            found = [each | {"document": {"text": texts[each["index"]]}} for each in found]
        usage = {"prompt_tokens": done.tokens, "total_tokens": done.tokens}
        named = {"id": f"rerank-{uuid.uuid4().hex}", "object": "rerank", "model": done.models[0].name}
        return answers.response(named | {"results": found, "usage": usage})

    return _work(ask, body.query, texts, body.top_n, body.raw_scores, write, body.model)


def _work(
    ask: Ask, query: str, texts: Sequence[Any], top_k: int | None, raw: bool,
    write: Callable[[Ranking, Done], Response], model: str | None = None,
) -> Work:  # fmt: skip
    call = requests.parse_value("/classify", {"query": query, "texts": texts, "top_k": top_k}, ask.settings)
    if (name := ask.name or model) is not None:
        ask.models.named(name)
    if not any(task.suits(call.examples[0], named=False) for each in ask.models.stable for task in each.tasks):
        raise info.Unfit("no loaded model is a re-ranker", field="model")
    fit = scores.by("identity" if raw else "sigmoid")
    return Work(call.examples, lambda done: write(done.predictions[0], done), name, fit=fit)


_RANKS = {"type": "array", "items": {"type": "object", "required": ["index", "score"]}}
_RESULTS = {"type": "object", "required": ["results", "model", "usage"]}
_EXAMPLE = {"query": "What is the capital of France?", "texts": ["Everest is high.", "The capital of France is Paris."]}
_DOCUMENT = Document("tei", {"anyOf": [_RANKS, _RESULTS]}, (RerankBody, DocumentsBody), _EXAMPLE, info.EndpointError)
ENDPOINTS = tuple(
    Endpoint(path, rerank, _DOCUMENT, refuse=info.refuse)
    for path in ("/rerank", "/v1/rerank", "/v2/rerank", "/models/{name}/rerank")
)
