"""Hugging Face's inference API, as `huggingface_hub.InferenceClient(model=URL)` speaks it.

Bodies are the pipelines'. Three things are the hub's own: a text's labels are in one more list, of which the client
takes the first; labels of one's own are a list of elements, but for clients before 1.1.5; and errors are `{"error"}`.
"""

from __future__ import annotations

import re
from typing import Any

from pydantic import BaseModel

from service.errors import BertieError
from service.http import problems
from service.http.endpoints import Ask, Document, Endpoint, Work
from service.http.problems import Refusal
from service.protocols import info, pipelines
from service.protocols.pipelines import Form

_CLIENT = re.compile(r"hf_hub/(\d+)\.(\d+)(?:\.(\d+))?")
ELEMENTS_SINCE = (1, 1, 5)
"""The first client that reads a zero-shot answer as a list of elements."""


class HuggingFaceError(BaseModel):
    """An error as the hub tells it."""

    error: str


def infer(ask: Ask) -> Work:
    """Do the task that the inputs are for: `InferenceClient`'s question answering and classifications."""
    client = _CLIENT.search(ask.headers.get("user-agent", ""))
    version = tuple(int(number or 0) for number in client.groups()) if client else ELEMENTS_SINCE
    return pipelines.read(ask, Form(_nested, _elements if version >= ELEMENTS_SINCE else pipelines.sequence))


def refuse(error: BertieError, request_id: str) -> Refusal:
    """Write an error as the client shows it."""
    return problems.refusal(error, {"error": problems.told(error)})


def _nested(many: bool, found: list[list[dict[str, Any]]]) -> Any:
    return found  # of one text too


def _elements(text: str, found: list[dict[str, Any]]) -> Any:
    return found


_ANSWER = {"type": ["array", "object"]}  # by what was asked
_DOCUMENT = Document("huggingface", _ANSWER, pipelines.BODIES, {"inputs": "What a wonderful film!"}, HuggingFaceError)
ENDPOINTS = (
    Endpoint("/", infer, _DOCUMENT, refuse=refuse),
    Endpoint("/models/{name}", infer, _DOCUMENT, refuse=refuse),
    *info.ENDPOINTS,
)
