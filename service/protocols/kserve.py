"""KServe's first protocol: `/v1/models/NAME:predict`. Its second is the Open Inference Protocol (`oip`)."""

from __future__ import annotations

from starlette.responses import Response

from service.errors import NotReady
from service.http import answers
from service.http.endpoints import Ask, Document, Endpoint, Work
from service.protocols import info, instances


def models(ask: Ask) -> Response:
    """List the loaded models by name."""
    return answers.response({"models": list(ask.predictor.models)})


def ready(ask: Ask) -> Response:
    """Tell whether a model answers."""
    model = info.model(ask)
    if not ask.predictor.ready:
        raise NotReady(f"model {model.name!r} does not answer")
    return answers.response({"name": model.name, "ready": True})


def predict(ask: Ask) -> Work:
    """Answer instances, each by itself."""
    return instances.read(ask)


_MODELS = Document("kserve", {"type": "object", "required": ["models"]}, error=instances.InstancesError)
_READY = Document("kserve", {"type": "object", "required": ["name", "ready"]}, error=instances.InstancesError)
ENDPOINTS = (
    Endpoint("/v1/models/{name}:predict", predict, instances.document("kserve"), refuse=instances.refuse),
    Endpoint("/v1/models", models, _MODELS, "GET", instances.refuse),
    Endpoint("/v1/models/{name}", ready, _READY, "GET", instances.refuse, open=True),
)
