"""The administrators' routes under `/admin`: versions added, tried, promoted, rolled back, removed.

Owns their bodies, their key and the audit log: one line for each change that was asked for, with how it ended. What a
change does is `service.rollout`'s.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeVar

from fastapi import FastAPI
from pydantic import Field, SecretStr
from starlette.requests import Request
from starlette.responses import Response

from service.errors import BertieError, BundleError, NotReady, Unauthorized, Unservable
from service.http import answers, body, requests
from service.http.context import Context
from service.http.gate import Gate, bearer
from service.repository import plan
from service.rollout.rollouts import Rollouts, Step
from service.settings import Settings
from service.tasks.inputs import Shape

logger = logging.getLogger("service.audit")

B = TypeVar("B", bound=Shape)

MAX_BODY = 16 << 10
ANSWER_SHARE = 0.5
"""Of the time that a request may take, what passes before a change that is still under way is answered with 202."""


class AddBody(Shape):
    """A version to add."""

    source: str = Field(min_length=1, max_length=2000, description="A folder on the server, or a reference.")
    version: str | None = Field(None, max_length=64, description="Its name; the next number when not given.")


class PromoteBody(Shape):
    """The version to promote."""

    version: str | None = Field(None, max_length=64, description="By default the canary, else the shadow.")


class CanaryBody(Shape):
    """A version that is to answer a part of the requests."""

    version: str = Field(max_length=64)
    percent: float = Field(ge=0, le=100, allow_inf_nan=False)
    header: str | None = Field(None, description="A header by which requests ask for it: `true` or the version.")
    sticky: str | None = Field(None, description="A header whose value decides instead of chance.")


class ShadowBody(Shape):
    """A version that is to run a part of the requests too."""

    version: str = Field(max_length=64)
    percent: float = Field(ge=0, le=100, allow_inf_nan=False)


class RuleBody(Shape):
    """When a shadow is promoted, else ended, by itself."""

    compared: int = Field(ge=1)
    agreement: float = Field(ge=0, le=1)
    p95_ratio: float = Field(gt=0, allow_inf_nan=False)


class VerifyBody(Shape):
    """The version to try."""

    version: str = Field(max_length=64)


class NoBody(Shape):
    """Nothing."""


class Admin:
    """The handlers."""

    def __init__(self, settings: Settings, key: SecretStr, gate: Gate) -> None:
        self._key = key.get_secret_value().encode("utf-8")
        self._settings = settings
        self._gate = gate

    def add_to(self, app: FastAPI) -> None:
        """Add the routes."""
        base = "/admin/models/{name}"
        for method, path, handler in (
            ("GET", base, self.look),
            ("POST", f"{base}/versions", self.add),
            ("DELETE", f"{base}/versions/{{version}}", self.remove),
            ("POST", f"{base}/verify", self.verify),
            ("POST", f"{base}/promote", self.promote),
            ("POST", f"{base}/rollback", self.rollback),
            ("POST", f"{base}/canary", self.canary),
            ("POST", f"{base}/shadow", self.shadow),
            ("POST", f"{base}/end", self.end),
            ("POST", f"{base}/rule", self.rule),
            ("POST", f"{base}/reload", self.reload),
        ):
            app.add_api_route(
                path, handler, methods=[method], response_model=None, operation_id=f"admin_{handler.__name__}",
                tags=["administration"],
            )  # fmt: skip

    # ---- what each does ----

    async def look(self, request: Request) -> Response:
        """Get a model's versions, their roles and states."""
        return await self._told(request, await self._read(request, NoBody), None)

    async def add(self, request: Request) -> Response:
        """Put a bundle into the folder of models as a version; what serves stays."""
        asked = await self._read(request, AddBody)
        name = request.path_params["name"]
        return await self._told(request, asked, lambda it: it.add(name, asked.source, asked.version))

    async def remove(self, request: Request) -> Response:
        """Remove a version that has no role."""
        name, version = request.path_params["name"], request.path_params["version"]
        return await self._told(request, await self._read(request, NoBody), lambda it: it.remove(name, version))

    async def verify(self, request: Request) -> Response:
        """Load a version as a swap would, try it, and drop it."""
        asked, name = await self._read(request, VerifyBody), request.path_params["name"]
        return await self._told(request, asked, lambda it: it.verify(name, asked.version))

    async def promote(self, request: Request) -> Response:
        """Make a version stable."""
        asked = await self._read(request, PromoteBody)
        return await self._step(request, asked, lambda now: plan.promote(now, asked.version))

    async def rollback(self, request: Request) -> Response:
        """Undo the last step: end the canary, else go back to the version that was stable before."""
        return await self._step(request, await self._read(request, NoBody), plan.rollback)

    async def canary(self, request: Request) -> Response:
        """Let a version answer a part of the requests."""
        asked = await self._read(request, CanaryBody)
        step = partial(plan.canary, **asked.model_dump())
        return await self._step(request, asked, step)

    async def shadow(self, request: Request) -> Response:
        """Run a part of the requests on a version too, and compare the answers."""
        asked = await self._read(request, ShadowBody)
        return await self._step(request, asked, partial(plan.shadow, **asked.model_dump()))

    async def end(self, request: Request) -> Response:
        """End canary and shadow."""
        return await self._step(request, await self._read(request, NoBody), plan.end)

    async def rule(self, request: Request) -> Response:
        """Set when a shadow is promoted, else ended, by itself."""
        asked = await self._read(request, RuleBody)
        return await self._step(request, asked, partial(plan.set_rule, **asked.model_dump()))

    async def reload(self, request: Request) -> Response:
        """Bring the model to what its plan on disk says."""
        name = request.path_params["name"]
        return await self._told(request, await self._read(request, NoBody), lambda it: it.apply(name))

    # ---- how ----

    async def _step(self, request: Request, asked: Shape, step: Step) -> Response:
        name = request.path_params["name"]
        return await self._told(request, asked, lambda it: it.change(name, step))

    async def _read(self, request: Request, kind: type[B]) -> B:
        """Check the key, then read the body, which may be left out where nothing in it is required.

        Raises:
            Unauthorized: it is not the administrators' key.
        """
        token = bearer(request.scope)
        if token is None or not hmac.compare_digest(token, self._key):
            raise Unauthorized("this wants the administrators' key: Authorization: Bearer KEY")
        content = b""
        has_body = request.headers.get("content-length", "0") != "0" or "transfer-encoding" in request.headers
        if request.method == "POST" and has_body:
            body.declared_length(request.headers, MAX_BODY)
            content = await body.read(request, MAX_BODY)
        return requests.check(kind, requests.decode(content, self._settings) if content else {})

    async def _told(
        self, request: Request, asked: Shape, change: Callable[[Rollouts], Awaitable[Any]] | None
    ) -> Response:
        """Make a change, write the audit log, and answer with what has become of the model's versions.

        It goes on when the client leaves, or has its answer: 202 where it takes longer than a client waits.
        """
        rollouts, name = self._gate.rollouts, request.path_params["name"]
        if rollouts is None:
            raise NotReady("the service is starting, or stops")
        status = 200
        if change is not None:
            context = Context.of(request.scope)
            fields = {"action": request.scope["route"].name, "model": name} | request.path_params
            del fields["name"]
            fields |= {name: value for name, value in asked.model_dump().items() if value is not None}
            fields |= {"client": request.client.host if request.client else "", "request_id": context.request_id}
            task = asyncio.ensure_future(_audited(change(rollouts), fields))
            await asyncio.wait({task}, timeout=ANSWER_SHARE * self._settings.timeout_seconds)
            if not task.done():
                status = 202
            elif (error := task.result()) is not None:
                raise error
        found = await asyncio.to_thread(rollouts.describe, name)
        return answers.response({"model": name, "versions": found}, status=status)


async def _audited(change: Awaitable[object], fields: dict[str, Any]) -> BertieError | None:
    """Make a change and log how it ended. Returns what refused it."""
    refused: BertieError | None = None
    try:
        await change
    except BundleError as error:
        refused = Unservable(error.detail)
    except BertieError as error:
        refused = error
    fields["outcome"] = f"refused: {refused.detail}" if refused else "done"
    logger.info("audit", extra={"fields": fields})
    return refused
