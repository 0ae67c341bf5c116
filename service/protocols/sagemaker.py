"""Amazon SageMaker: a container that is started as `serve`, `/ping` and `/invocations`.

`/invocations` takes what Hugging Face's own containers take there, `{"inputs", "parameters"}`, and answers as they do;
and Bertie's own bodies. Which port it is asked at, `service.program` knows.
"""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from service.errors import NotReady
from service.http import requests
from service.http.endpoints import Ask, Document, Endpoint, Work
from service.protocols import own, pipelines
from service.protocols.pipelines import Form


def ping(ask: Ask) -> Response:
    """Tell whether requests are answered."""
    if not ask.predictor.ready:
        raise NotReady("the service is stopping, or its engine fails")
    return Response()


def invocations(ask: Ask) -> Work:
    """Do the task that the inputs are for."""
    data = ask.json()
    if isinstance(data, dict) and "inputs" in data:
        return pipelines.read(ask, Form(_flat, pipelines.sequence))
    return own.work(requests.parse_value(own.path_of(data), data, ask.settings))


def _flat(many: bool, found: list[list[dict[str, Any]]]) -> Any:
    return found if many else found[0]


ENDPOINTS = (
    Endpoint("/ping", ping, Document("sagemaker"), "GET", open=True),
    Endpoint("/invocations", invocations, Document("sagemaker", {}, pipelines.BODIES), is_json=False),
)
