"""`/health` and `/info`, which text-embeddings-inference and Hugging Face's inference endpoints have alike, and the
errors of the first, which both read."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from starlette.responses import Response

from service import __version__
from service.errors import BertieError, InferenceError, InvalidInput, NotReady, QueueFull, UnknownModel
from service.http import answers, problems, requests
from service.http.endpoints import Ask, Document, Endpoint
from service.http.problems import Refusal
from service.serving import Model


class EndpointError(BaseModel):
    """An error as text-embeddings-inference tells it; `message` is where other rerankers' clients look for it."""

    error: str
    error_type: str
    message: str


class Empty(InvalidInput):
    """There is no input."""

    status = 400


class Unfit(UnknownModel):
    """No loaded model does it."""

    status = 424


def health(ask: Ask) -> Response:
    """Tell whether requests are answered."""
    if not ask.predictor.ready:
        raise NotReady("unhealthy")
    if ask.name is not None:
        model(ask)
    return Response()


def info(ask: Ask) -> Response:
    """Get what a model is and its limits: of the one for bare texts, where the path names none."""
    chosen, settings = model(ask), ask.settings
    manifest = chosen.bundle.manifest
    return answers.response(
        {
            "model_id": chosen.name,
            "model_sha": chosen.version,
            "model_dtype": chosen.graph.precision,
            "served_model_name": chosen.name,
            "model_type": _type(manifest.task, manifest.labels),
            "max_concurrent_requests": settings.max_requests,
            "max_input_length": manifest.max_length,
            "max_batch_tokens": chosen.runner.batch_tokens,
            "max_batch_requests": None,
            "max_client_batch_size": settings.max_inputs,
            "auto_truncate": True,
            "tokenization_workers": 1,
            "version": __version__,
            "sha": None,
            "docker_label": None,
        }
    )


def model(ask: Ask) -> Model:
    """Get the model that the path names; where it names none, the one that a text by itself is for, or the first.

    Raises:
        UnknownModel: there is none of that name.
        Forbidden: the request's key may not use it.
    """
    if ask.name is None:
        bare = requests.parse_value("/classify", {"text": "a"}, ask.settings).examples[0]
        try:
            return ask.models.choose(None, bare)[0]
        except UnknownModel:
            if not (stable := ask.models.stable):
                raise
            return stable[0]
    if ask.name not in ask.models.every:
        raise UnknownModel(f"there is no model {ask.name!r:.200}", field="model")  # names are for those with a key
    return ask.models.named(ask.name).stable


def models(ask: Ask) -> Response:
    """List the loaded models by name."""
    return answers.response({"models": list(ask.models.serving)})


def ready(ask: Ask, chosen: Model) -> Response:
    """Tell whether a model answers."""
    if not ask.predictor.ready:
        raise NotReady(f"model {chosen.name!r} does not answer")
    return answers.response({"name": chosen.name, "ready": True})


def refuse(error: BertieError, request_id: str) -> Refusal:
    """Write an error as text-embeddings-inference does, under its own status."""
    kind, status = "validation", error.status
    if isinstance(error, Empty):
        kind = "empty"
    elif isinstance(error, QueueFull):
        kind = "overloaded"
    elif isinstance(error, NotReady):
        kind = "unhealthy"
    elif isinstance(error, InferenceError):
        kind, status = "backend", 424
    elif status >= 500 or isinstance(error, Unfit):
        kind = "backend"
    said = problems.told(error)
    return problems.refusal(error, {"error": said, "error_type": kind, "message": said}, status)


def refuse_plainly(error: BertieError, request_id: str) -> Refusal:
    """Write an error as KServe, Triton and Vertex AI show it; what is wrong with the input is a bad request."""
    return problems.refusal(error, {"error": problems.told(error)}, 400 if error.status == 422 else None)


def _type(task: str, labels: tuple[str, ...]) -> dict[str, Any]:
    named = {
        "id2label": {str(i): label for i, label in enumerate(labels)},
        "label2id": {label: i for i, label in enumerate(labels)},
    }
    return {"reranker" if task == "score" else "classifier" if labels else task: named if labels else {}}


_INFO = Document("endpoint", {"type": "object", "required": ["model_id", "model_type"]}, error=EndpointError)
_HEALTH = Document("endpoint", error=EndpointError)
ENDPOINTS = tuple(
    endpoint
    for base in ("", "/models/{name}")
    for endpoint in (
        Endpoint(f"{base}/health", health, _HEALTH, "GET", refuse, open=True),
        Endpoint(f"{base}/info", info, _INFO, "GET", refuse),
    )
)
