"""Google's Vertex AI, which says in the environment at which paths it asks: AIP_PREDICT_ROUTE, AIP_HEALTH_ROUTE."""

from __future__ import annotations

from service.http.endpoints import Ask, Document, Endpoint, Work
from service.protocols import info, instances


def vertex(ask: Ask) -> Work:
    """Answer instances, each by itself."""
    return instances.read(ask)


def endpoints(predict: str, health: str) -> tuple[Endpoint, ...]:
    """Get the endpoints at these paths."""
    unwell = Document("vertex", error=instances.InstancesError)
    return (
        Endpoint(predict, vertex, instances.document("vertex"), refuse=info.refuse_plainly),
        Endpoint(health, info.health, unwell, "GET", info.refuse_plainly, open=True),
    )
