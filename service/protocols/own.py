"""Bertie's own protocol, `/qa` and `/classify`, and what every other one makes of it: requests of its JSON.

The shapes of inputs are the tasks' (`service.tasks`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import TypeAdapter
from starlette.responses import Response

from service.errors import InvalidInput
from service.http import answers, requests
from service.http.answers import JSON
from service.http.endpoints import Ask, Document, Done, Endpoint, Work
from service.http.requests import Call
from service.settings import Settings
from service.tasks.inputs import Text

TEXT = TypeAdapter(Text).json_schema()
"""The JSON schema of a text."""


def qa(ask: Ask) -> Work:
    """Answer a question from a text or several, or by one of the options given with it."""
    return work(requests.parse_value("/qa", ask.json(), ask.settings))


def classify(ask: Ask) -> Work:
    """Classify a text, a pair of texts, or a text by labels of your own."""
    return work(requests.parse_value("/classify", ask.json(), ask.settings))


def work(call: Call) -> Work:
    """Get the work that a call is, answered in Bertie's own form."""

    def write(done: Done) -> Response:
        return Response(answers.write(done.models[0].name, done.predictions, many=call.many), media_type=JSON)

    return Work(call.examples, write, call.model, noun="inputs" if call.many else "")


def path_of(value: Any) -> str:
    """Get the path that an input is for, by its fields."""
    return "/qa" if isinstance(value, dict) and "question" in value else "/classify"


def calls(inputs: Sequence[Any], settings: Settings, *, noun: str) -> list[Call]:
    """Parse each input by itself, whatever the others are: its fields tell what is asked.

    Raises:
        TooLarge: there are more than the settings allow.
        BertieError: of an input, which it names as one of the `noun`.
    """
    if not inputs:
        raise InvalidInput(f"{noun} must not be empty", field=noun)
    requests.limit(noun, len(inputs), settings.max_inputs, noun)
    found = []
    for place, value in enumerate(inputs):
        try:
            found.append(requests.parse_value(path_of(value), value, settings))
        except InvalidInput as error:
            raise InvalidInput(error.detail, field=f"{noun}.{place}.{error.field}") from None
    return found


_DOCUMENT = Document("predictions")
ENDPOINTS = (
    Endpoint("/classify", classify, _DOCUMENT),
    Endpoint("/qa", qa, _DOCUMENT),
)
