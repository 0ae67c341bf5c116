"""The gate: what a request must have before any of its body is read, a key and a permit.

The server asks it as soon as a head is complete (`protocol`), before a task is made for the request: so a refusal costs
little of the event loop's time, and a flood of them keeps nobody waiting.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from prometheus_client import CollectorRegistry
from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from service.errors import BertieError, NotReady, Unauthorized
from service.http.body import declared_length
from service.http.context import BEGAN, KEY, PERMIT, WAIT, Context, Recorder, request_id
from service.http.endpoints import Endpoint, Endpoints
from service.keys.keyring import Key, Keyring
from service.predictor import Predictor
from service.rollout.rollouts import Rollouts
from service.scheduler.permits import Permit
from service.serving import Models
from service.settings import Settings


class Whole(Protocol):
    """What probes and metrics are answered by: this process, or all of several."""

    @property
    def ready(self) -> bool:
        """Whether requests are answered."""

    @property
    def alive(self) -> bool:
        """Whether it can still come to be ready by itself."""

    async def exposition(self, encode: Callable[[CollectorRegistry], bytes]) -> bytes:
        """Get the metrics, as this writes a registry."""


class Gate:
    """Admits requests.

    Attributes:
        endpoints: what it may admit to.
        keys: who may call.
        predictor: set while the application runs; so is
        rollouts: the changes of what it serves.
    """

    def __init__(self, settings: Settings, recorder: Recorder, endpoints: Endpoints) -> None:
        self.endpoints = endpoints
        self.predictor: Predictor | None = None
        self.rollouts: Rollouts | None = None
        self.keys = Keyring(settings)
        self._most_bytes = settings.max_body_bytes
        self._recorder = recorder

    def serving(self) -> Predictor:
        """Get the predictor. Raises NotReady while there is none."""
        if self.predictor is None:
            raise NotReady("the service is starting")
        return self.predictor

    def identify(self, scope: Scope) -> Key | None:
        """Get the key that a request bears as a token, and note it; None where no key is wanted.

        Raises:
            Unauthorized: it bears none, or one that is unknown or has expired.
        """
        if not self.keys.wanted:
            return None
        if (token := bearer(scope)) is None:
            raise Unauthorized("this service wants an API key: Authorization: Bearer KEY")
        key: Key = self.keys.find(token)
        scope[KEY] = key
        return key

    def models(self, scope: Scope) -> Models:
        """Get the models that a request may use: its key's, or all. Raises NotReady."""
        key: Key | None = scope.get(KEY)
        return self.serving().models_for(None if key is None else key.models)

    def admit(self, scope: Scope, endpoint: Endpoint) -> Permit:
        """Get the permit of a request with a body to an endpoint.

        Raises:
            BertieError: it has no key, or one that is used up for now, its head says that its body cannot be taken,
                too much is in flight, or the service does not run.
        """
        if PERMIT not in scope:
            headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
            client = scope.get("client")
            key = self.identify(scope)
            predictor = self.serving()
            predictor.check_open()
            declared = declared_length(headers, self._most_bytes, is_json=endpoint.is_json)
            if key is not None:
                scope[PERMIT] = predictor.permits.acquire(key.name, declared, key.quota)
            else:
                scope[PERMIT] = predictor.permits.acquire(client[0] if client else None, declared)
        permit: Permit = scope[PERMIT]
        return permit

    def refusal(self, scope: Scope, keep_alive: bool) -> bytes | None:
        """Get the whole answer to a request that is refused; None where it is none for the gate, or is admitted.

        A browser's request from another origin is the application's to refuse: the answer wants CORS headers.
        """
        if scope["method"] != "POST" or b"origin" in dict(scope["headers"]):
            return None
        found = self.endpoints.find("POST", scope["path"])
        if found is None:
            return None
        endpoint, _ = found
        try:
            self.admit(scope, endpoint)
        except BertieError as error:
            if KEY in scope:
                scope[WAIT] = scope[KEY].refuse()
            context = Context(request_id(scope), scope.get(BEGAN) or time.perf_counter())
            status, headers, body = endpoint.refuse(error, context.request_id)
            context.status = status
            self._recorder.reject(scope, error)
            self._recorder.note(scope, context, endpoint.path)
            lines = [f"{name}: {value}\r\n".encode("latin-1") for name, value in headers.items()]
            lines += [b"%b: %b\r\n" % header for header in context.headers()]
            lines.append(b"content-length: %d\r\n" % len(body))
            if not keep_alive:
                lines.append(b"connection: close\r\n")
            return b"".join([STATUS_LINE[status], *lines, b"\r\n", body])
        return None


def bearer(scope: Scope) -> bytes | None:
    """Get the bearer token of a request (RFC 6750, section 2.1); None where it has none."""
    header: bytes = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
    scheme, _, token = header.partition(b" ")
    return token.strip(b" ") if scheme.lower() == b"bearer" else None
