"""The endpoints: what is posted to a path or asked for there, how it is read, answered and refused, and their look-up.

Bertie's own are `service.http.routes`', those of other servers' clients `service.protocols`'. Knows none of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from pydantic import BaseModel
from starlette.responses import Response

from service.http import problems, requests
from service.http.problems import Refuse
from service.predictor import Predictor
from service.serving import Model, Models
from service.settings import Settings
from service.tasks import AnyTask

_PARTS = re.compile(r"(?<=/models/)(?P<name>[^/]+?)(?=:predict\Z|/|\Z)|(?<=/versions/)(?P<version>[^/]+)")
"""The parts of a path that name something: no path begins with another's name."""


@dataclass(frozen=True, slots=True)
class Ask:
    """What was asked.

    Attributes:
        body: as it came; empty where there is none.
        headers: by name in small letters.
        parts: `name` and `version`, where the path has them.
        models: that may be used.
        refuse: writes the errors of what comes after; set it where a body says what form they have.
    """

    body: bytes
    headers: Mapping[str, str]
    parts: Mapping[str, str]
    models: Models
    predictor: Predictor
    settings: Settings
    refuse: Callable[[Refuse], None] = lambda refuse: None

    @property
    def name(self) -> str | None:
        """The model that the path names."""
        return self.parts.get("name")

    def json(self) -> Any:
        """Decode the body, as `requests.decode` does."""
        return requests.decode(self.body, self.settings)


@dataclass(frozen=True, slots=True)
class Done:
    """The answers to a request.

    Attributes:
        models: that answered each example.
        predictions: of the examples, in order.
        seconds: by phase.
        tokens: of all rows.
    """

    models: Sequence[Model]
    predictions: Sequence[Any]
    seconds: Mapping[str, float]
    tokens: int


@dataclass(frozen=True, slots=True)
class Work:
    """A request in Bertie's own terms.

    Attributes:
        examples: one or more.
        write: makes the answer.
        model: name of the model that is to answer, if one is named.
        version: likewise.
        noun: what the body calls the examples, where an error is to say which one it is about.
        mixed: whether examples may be for several models; else the first one chooses.
        fit: makes the task that is to be done of the model's own.
    """

    examples: Sequence[Any]
    write: Callable[[Done], Response]
    model: str | None = None
    version: str | None = None
    noun: str = ""
    mixed: bool = False
    fit: Callable[[AnyTask], AnyTask] | None = None


Read: TypeAlias = Callable[[Ask], Work | Response]
"""Reads what was asked, or answers it at once. Its docstring is what the OpenAPI document says of it."""


@dataclass(frozen=True, slots=True)
class Document:
    """What the OpenAPI document says of an endpoint.

    Attributes:
        answer: JSON schema, or the shape that has it; None where there is no body.
        bodies: shapes of a request's.
        example: a request's body.
        error: of an error's body.
        other_error: of an error's body as well, where bodies of two kinds are read.
        predicts: whether a model runs for it, and the answer tells its times.
    """

    tag: str
    answer: Mapping[str, Any] | type[BaseModel] | None = None
    bodies: tuple[type[BaseModel], ...] = ()
    example: Any = None
    error: type[BaseModel] = problems.Problem
    other_error: type[BaseModel] | None = None
    predicts: bool = True


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What is served at a path.

    Attributes:
        path: its template.
        method: POST, which is admitted by the gate and has a body; or GET.
        refuse: writes its errors.
        is_json: whether a body must be declared as JSON.
        open: whether it wants no API key: a probe.
    """

    path: str
    read: Read
    document: Document
    method: str = "POST"
    refuse: Refuse = problems.write
    is_json: bool = True
    open: bool = False


@dataclass(frozen=True, slots=True)
class Endpoints:
    """All endpoints, to be looked up by path."""

    _by_path: dict[tuple[str, str], Endpoint] = field(default_factory=dict)

    def add(self, endpoints: Iterable[Endpoint]) -> None:
        """Add endpoints; each takes the place of an earlier one at its path."""
        for endpoint in endpoints:
            self._by_path[endpoint.method, endpoint.path] = endpoint

    def __iter__(self) -> Iterator[Endpoint]:
        return iter(self._by_path.values())

    def find(self, method: str, path: str) -> tuple[Endpoint, dict[str, str]] | None:
        """Get the endpoint of a path, and the parts of the path that name something."""
        if "{" not in path and (found := self._by_path.get((method, path))):
            return found, {}
        parts: dict[str, str] = {}

        def name(part: re.Match[str]) -> str:
            kind = str(part.lastgroup)
            parts[kind] = part.group()
            return f"{{{kind}}}"

        templated = self._by_path.get((method, _PARTS.sub(name, path)))
        return (templated, parts) if templated else None
