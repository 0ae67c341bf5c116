"""How versions compare, and the right answers that clients send: `GET /models/NAME/compare` and `POST /feedback`.

Owns their bodies and answers. What is counted is `service.rollout`'s.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field, StringConstraints
from starlette.responses import Response

from service.errors import NotReady
from service.http import requests
from service.http.answers import JSON
from service.http.endpoints import Ask, Document, Endpoint
from service.http.gate import Gate
from service.rollout.comparison import Snapshot
from service.rollout.observer import Observer
from service.settings import MAX_ITEMS
from service.tasks import Truth


class Feedback(Truth):
    """The right answer to an input that was answered: one of `label`, `answer` and `score`, as the model's task has
    it."""

    request_id: Annotated[str, StringConstraints(min_length=1, max_length=128)] = Field(
        description="`X-Request-Id` of the answer."
    )
    index: int = Field(default=0, ge=0, lt=MAX_ITEMS, description="Which of the request's inputs it is about.")


class Judged(BaseModel):
    """What the right answer said of those that were given."""

    model: str
    right: dict[str, bool] = Field(description="By version that answered: whether it was right.")


def endpoints(gate: Gate) -> tuple[Endpoint, ...]:
    """Get the endpoints.

    Args:
        gate: holds what is served while the application runs.
    """

    def observer() -> Observer:
        if gate.rollouts is None:
            raise NotReady("the service is starting")
        return gate.rollouts.observer

    def compare(ask: Ask) -> Response:
        """Get how the answers of a model's shadow compare with those of its stable version."""
        name = ask.name or ""
        ask.models.named(name, "name")
        snapshot = observer().snapshot(name)
        return Response(snapshot.model_dump_json(by_alias=True), media_type=JSON)

    def feedback(ask: Ask) -> Response:
        """Send the right answer to an input that a model with a canary or a shadow answered."""
        body = requests.check(Feedback, ask.json())
        model, right = observer().feedback(body.request_id, body.index, body, ask.models.serving)
        return Response(Judged(model=model, right=dict(right)).model_dump_json(), media_type=JSON)

    example = {"request_id": "3f6c0d2f9d1e4c7b8a5e6f7081920a1b", "label": "positive"}
    return (
        Endpoint("/models/{name}/compare", compare, Document("models", Snapshot), method="GET"),
        Endpoint(
            "/feedback", feedback, Document("models", Judged, bodies=(Feedback,), example=example, predicts=False)
        ),
    )
