"""`/classify` as Infinity and vLLM have it, `{"input", "model"}`, beside Bertie's own bodies at the same path.

Their bodies are the same but for what makes scores: `raw_scores` is Infinity's, `use_activation` is vLLM's; a body with
neither gets vLLM's answer. (Infinity's own client sends `raw_scores` always.)
"""

from __future__ import annotations

import time
import uuid
from typing import Annotated, Any

from pydantic import BaseModel, Field, WithJsonSchema
from starlette.responses import Response

from service.errors import BertieError
from service.http import answers, problems, requests
from service.http.endpoints import Ask, Document, Done, Endpoint, Work
from service.http.problems import Refusal
from service.protocols import own, scores
from service.tasks.inputs import Shape

UNNAMED = "default/not-specified"
"""What Infinity's client sends where no model is named."""


class InputBody(Shape):
    """A text, or several, as Infinity and vLLM take it."""

    input: Annotated[Any, WithJsonSchema({"anyOf": [own.TEXT, {"type": "array", "items": own.TEXT, "minItems": 1}]})]
    model: str | None = Field(None, description="Name of the model.")
    raw_scores: bool | None = Field(None, description="Infinity's: whether scores are logits.")
    use_activation: bool | None = Field(None, description="vLLM's: whether they are not.")
    user: str | None = Field(None, description="Ignored.")


class InputError(BaseModel):
    """An error as both tell it, after OpenAI."""

    error: dict[str, Any]


def classify(ask: Ask) -> Work:
    """Classify a text, a pair of texts, or a text by labels of your own."""
    data = ask.json()
    if not (isinstance(data, dict) and "input" in data):
        return own.work(requests.parse_value("/classify", data, ask.settings))
    ask.refuse(refuse)
    body = requests.check(InputBody, data)
    texts = body.input if isinstance(body.input, list) else [body.input]
    call = requests.parse_value("/classify", {"inputs": [{"text": text} for text in texts]}, ask.settings)
    infinity = body.raw_scores is not None
    raw = body.raw_scores or body.use_activation is False

    def write(done: Done) -> Response:
        pairs = zip(done.predictions, done.models, strict=True)
        found = [_infinity(*pair) if infinity else _vllm(place, *pair) for place, pair in enumerate(pairs)]
        said = {
            "id": f"classify-{uuid.uuid4().hex}",
            "object": "classify" if infinity else "list",
            "created": int(time.time()),
            "model": done.models[0].name,
            "data": found,
            "usage": {"prompt_tokens": done.tokens, "total_tokens": done.tokens},
        }
        return answers.response(said)

    model = None if body.model == UNNAMED else body.model
    return Work(call.examples, write, model, noun="inputs", fit=scores.by("identity" if raw else None, one="sigmoid"))


def refuse(error: BertieError, request_id: str) -> Refusal:
    """Write an error as both do, after OpenAI."""
    said = {"message": problems.told(error), "type": error.slug, "param": error.field, "code": error.status}
    return problems.refusal(error, {"error": said})


def _infinity(prediction: Any, model: Any) -> list[dict[str, Any]]:
    return scores.elements(prediction, model)


def _vllm(place: int, prediction: Any, model: Any) -> dict[str, Any]:
    found = dict(scores.ranked(prediction, model))
    order = model.bundle.manifest.labels or tuple(found)
    return {
        "index": place,
        "label": next(iter(found)),
        "probs": [found[label] for label in order],
        "num_classes": len(found),
    }


_ANSWER = {"type": "object", "required": ["data", "model", "object", "usage"]}
_DOCUMENT = Document("predictions", _ANSWER, (InputBody,), other_error=InputError)
ENDPOINTS = (Endpoint("/classify", classify, _DOCUMENT),)
