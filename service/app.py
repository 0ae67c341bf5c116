"""The application: routes, layers and lifespan put together.

Owns their order. Knows nothing of the server that runs it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match
from starlette.types import Receive, Scope, Send

from service import __version__, protocols
from service.errors import ConfigurationError
from service.http import compare, openapi, pages, problems
from service.http.admin import Admin
from service.http.context import REFUSE, Context, ContextMiddleware, InFlight, Recorder
from service.http.endpoints import Endpoint, Endpoints
from service.http.gate import Gate, Whole
from service.http.routes import Routes
from service.metrics import Metrics
from service.predictor import Predictor
from service.repository import loading
from service.rollout.rollouts import Open, Rollouts
from service.settings import Settings

if TYPE_CHECKING:  # it imports OpenTelemetry
    from service.traces import Traces

DESCRIPTION = (
    "Question answering, natural-language inference and sentiment. Errors are RFC 9457 problem documents. "
    "`X-Request-Id` comes back as it was sent."
)


def create_app(
    settings: Settings,
    *,
    load: Callable[[Settings, Metrics], Predictor] = loading.load,
    open_bundle: Open = loading.open_tried,
    metrics: Metrics | None = None,
    whole: Whole | None = None,
) -> FastAPI:
    """Make the service as an ASGI application. Its lifespan loads the models, and drains them at the end.

    Args:
        load: makes the predictor; tests come in here with a fake engine. What it raises stops the start.
        open_bundle: opens a version that is loaded later; likewise.
        metrics: a registry of your own; by default one of the application's.
        whole: the service, where this process is one of several.

    While the application runs, `app.state.gate.predictor` is the predictor; `app.state.in_flight` holds the requests in
    flight.
    """
    metrics = metrics or Metrics()
    recorder = Recorder(metrics)
    endpoints = Endpoints()
    endpoints.add(protocols.endpoints(settings))
    gate = Gate(settings, recorder, endpoints)
    endpoints.add(compare.endpoints(gate))
    routes = Routes(settings, metrics, gate, whole)
    in_flight = InFlight()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        if settings.traces:
            recorder.traces = _traces()
        gate.keys.load()
        predictor = gate.predictor = load(settings, metrics)
        watch = asyncio.create_task(gate.keys.watch())
        rollouts = gate.rollouts = Rollouts(predictor, settings, metrics, open_bundle)
        await rollouts.start()
        app.openapi_schema = None  # its examples are those that the models answer
        try:
            yield
        finally:
            watch.cancel()
            idle = rollouts.close()
            app.state.idle = await predictor.drain(settings.drain_seconds) and idle
            if recorder.traces is not None:
                recorder.traces.close()

    app = _application(lifespan)
    app.state.routes, app.state.gate, app.state.recorder = routes, gate, recorder
    app.state.in_flight, app.state.idle = in_flight, True
    app.router.routes.append(_EndpointRoute(endpoints, routes))  # the busiest first
    app.get("/models", response_model=None, operation_id="models", tags=["models"])(routes.models)
    app.get("/models/{name}", response_model=None, operation_id="one_model", tags=["models"])(routes.one_model)
    add_operations(app, routes)
    if settings.admin_key is not None:
        Admin(settings, settings.admin_key, gate).add_to(app)
    for path, serve in pages.handlers().items():
        app.add_api_route(path, serve, methods=["GET", "HEAD"], response_model=None, include_in_schema=False)

    def document() -> dict[str, object]:
        if app.openapi_schema is None:
            app.openapi_schema = openapi.document(app, endpoints, settings, can_answer=routes.can_answer)
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]
    app.add_middleware(ContextMiddleware, recorder=recorder, seconds=settings.timeout_seconds, in_flight=in_flight)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type", "X-Request-Id"],
            expose_headers=["X-Request-Id", "X-Model-Version", "Server-Timing", "Retry-After"],
        )
    return app


def create_ops_app(app: FastAPI, settings: Settings) -> FastAPI:
    """Make the application of the operations' own port: health and metrics of `app`, nothing else."""
    ops, recorder = _application(openapi_url=None), app.state.recorder
    add_operations(ops, app.state.routes)
    ops.add_middleware(ContextMiddleware, recorder=recorder, seconds=settings.timeout_seconds, in_flight=InFlight())
    return ops


def add_operations(app: FastAPI, routes: Routes) -> None:
    """Add the routes that machines ask for: probes and metrics."""
    for path, handler in (
        ("/health/live", routes.live),
        ("/health/ready", routes.ready),
        ("/metrics", routes.metrics),
    ):
        app.get(path, response_model=None, operation_id=handler.__name__, tags=["operations"])(handler)


class _EndpointRoute(BaseRoute):
    """The route of all endpoints.

    What FastAPI puts around a handler by default (dependencies, exit stacks, a query parsed) does nothing for one that
    reads its own body, and takes a seventh of what a request costs the event loop (docs/lab.md).
    """

    def __init__(self, endpoints: Endpoints, routes: Routes) -> None:
        self._endpoints = endpoints
        self._routes = routes

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        for match, method in ((Match.FULL, scope["method"]), (Match.PARTIAL, "POST"), (Match.PARTIAL, "GET")):
            if found := self._endpoints.find(method, scope["path"]):
                endpoint, parts = found
                return match, {"route": endpoint, "path_params": parts}  # metrics and the access log name the route
        return Match.NONE, {}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        endpoint: Endpoint = scope["route"]
        if scope["method"] != endpoint.method:
            scope[REFUSE] = endpoint.refuse
            others = (route for route in scope["router"].routes if route is not self)
            known = {method for route in others if route.matches(scope)[0] != Match.NONE for method in route.methods}
            raise problems.MethodNotAllowed(", ".join(sorted({endpoint.method, *known})))
        response = await self._routes.answer(Request(scope, receive, send), endpoint)
        await response(scope, receive, send)


def _traces() -> Traces:
    try:
        from service.traces import Traces
    except ImportError as error:
        raise ConfigurationError("BERTIE_TRACES wants OpenTelemetry: pip install -e '.[otel]'") from error
    return Traces()


def _application(
    lifespan: Callable[[FastAPI], object] | None = None, openapi_url: str | None = "/openapi.json"
) -> FastAPI:
    app = FastAPI(
        title="Bertie",
        version=__version__,
        description=DESCRIPTION,
        lifespan=lifespan,  # type: ignore[arg-type]
        openapi_url=openapi_url,
        docs_url=None,  # that page would load its script from another host; ours is one of `pages`
        redoc_url=None,
        redirect_slashes=False,
        telemetry={"tracing": False, "metrics": False, "logs": False},  # asked after at every request otherwise
    )
    app.add_exception_handler(HTTPException, _http_problem)
    return app


async def _http_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return problems.of_http(error, Context.of(request.scope).request_id)
