"""Other servers' contracts: a foreign body in, a foreign answer out, and Bertie's own way between them.

One file a protocol. Each makes Bertie's own requests of bodies, and foreign answers of Bertie's predictions; errors
too. No protocol knows another; what several share has a file of its own. None knows the queue, or the inside of a task.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from service.http.endpoints import Endpoint
from service.protocols import classify, huggingface, kserve, oip, own, rerank, sagemaker, tei, vertex
from service.settings import Settings


def endpoints(settings: Settings) -> Iterator[Endpoint]:
    """Get Bertie's own endpoints, and those of the protocols of the settings."""
    protocols: dict[str, Sequence[Endpoint]] = {
        "huggingface": huggingface.ENDPOINTS,
        "tei": (*tei.ENDPOINTS, *rerank.ENDPOINTS),
        "classify": classify.ENDPOINTS,
        "oip": oip.ENDPOINTS,
        "kserve": kserve.ENDPOINTS,
        "sagemaker": sagemaker.ENDPOINTS,
        "vertex": vertex.endpoints(settings.vertex_predict_route, settings.vertex_health_route),
    }
    yield from own.ENDPOINTS
    for name in settings.protocols:
        yield from protocols[name]
