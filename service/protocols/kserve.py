"""KServe's first protocol: `/v1/models/NAME:predict`. Its second is the Open Inference Protocol (`oip`)."""

from __future__ import annotations

from starlette.responses import Response

from service.http.endpoints import Ask, Document, Endpoint, Work
from service.protocols import info, instances


def ready(ask: Ask) -> Response:
    """Tell whether a model answers."""
    return info.ready(ask, info.model(ask))


def predict(ask: Ask) -> Work:
    """Answer instances, each by itself."""
    return instances.read(ask)


_MODELS = Document("kserve", {"type": "object", "required": ["models"]}, error=instances.InstancesError)
_READY = Document("kserve", {"type": "object", "required": ["name", "ready"]}, error=instances.InstancesError)
ENDPOINTS = (
    Endpoint("/v1/models/{name}:predict", predict, instances.document("kserve"), refuse=info.refuse_plainly),
    Endpoint("/v1/models", info.models, _MODELS, "GET", info.refuse_plainly),
    Endpoint("/v1/models/{name}", ready, _READY, "GET", info.refuse_plainly, open=True),
)
