"""Bertie's own protocol: `/qa` and `/classify`. Their shapes are the tasks' (`service.tasks`)."""

from __future__ import annotations

from service.http import answers, requests
from service.http.endpoints import Ask, Document, Done, Endpoint, Work
from service.http.requests import Call
from service.protocols.answer import json_answer


def qa(ask: Ask) -> Work:
    """Answer a question from a text or several, or by one of the options given with it."""
    return work(requests.parse_value("/qa", ask.json(), ask.settings))


def classify(ask: Ask) -> Work:
    """Classify a text, a pair of texts, or a text by labels of your own."""
    return work(requests.parse_value("/classify", ask.json(), ask.settings))


def work(call: Call) -> Work:
    """Get the work that a call is, answered in Bertie's own form."""
    return Work(call.examples, lambda done: _written(done, call.many), call.model, call.many)


def _written(done: Done, many: bool) -> Response:
    return Response(answers.write(done.models[0].name, done.predictions, many=many), media_type=JSON)
