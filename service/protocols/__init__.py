"""Other servers' contracts: a foreign body in, a foreign answer out, and Bertie's own way between them.

One file a protocol. Each makes Bertie's own requests of bodies, and foreign answers of Bertie's predictions; errors too.
No protocol knows another; what several share has a file of its own. None knows the queue, or the inside of a task.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from service.http.endpoints import Endpoint
from service.protocols import classify, huggingface, kserve, oip, own, sagemaker, tei, vertex

PROTOCOLS: Mapping[str, Sequence[Endpoint]] = {
    "huggingface": huggingface.ENDPOINTS,
    "tei": tei.ENDPOINTS,
    "classify": classify.ENDPOINTS,
    "oip": oip.ENDPOINTS,
    "kserve": kserve.ENDPOINTS,
    "sagemaker": sagemaker.ENDPOINTS,
    "vertex": vertex.ENDPOINTS,
}
"""By the names that the setting `protocols` has for them."""


def endpoints(names: Iterable[str]) -> Iterator[Endpoint]:
    """Get Bertie's own endpoints and those of the protocols of these names, the busiest first."""
    for name in names:  # before Bertie's own: `classify` takes more bodies at the same path
        if name == "classify":
            yield from PROTOCOLS[name]
    yield from own.ENDPOINTS
    for name in names:
        yield from PROTOCOLS[name]
