"""The application: routes, layers and lifespan put together.

Owns their order. Knows nothing of the server that runs it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from fastapi import APIRouter, FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import Scope

from service import __version__
from service.http import openapi, pages, problems
from service.http.context import Exchange, ExchangeMiddleware
from service.http.express import Express, ExpressMiddleware
from service.http.keys import KeyMiddleware
from service.http.routes import Routes
from service.metrics import Metrics
from service.predictor import Predictor
from service.repository import loading
from service.settings import Settings

DESCRIPTION = (
    "Question answering, natural-language inference and sentiment. Errors are RFC 9457 problem documents. "
    "`X-Request-Id` comes back as it was sent."
)
OPEN_PATHS = ("/health/live", "/health/ready", "/metrics", "/openapi.json")


def create_app(
    settings: Settings,
    *,
    load: Callable[[Settings, Metrics], Predictor] = loading.load,
    metrics: Metrics | None = None,
) -> FastAPI:
    """The service as an ASGI application. Its lifespan loads the models, and drains them at the end.

    Args:
        load: makes the predictor; tests come in here with a fake engine. What it raises stops the start.
        metrics: a registry of the caller's; by default one of the application's own.

    `app.state.routes.predictor` is the predictor while the application runs.
    """
    metrics = metrics or Metrics()
    handlers = Routes(settings, metrics)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        predictor = handlers.predictor = load(settings, metrics)
        app.openapi_schema = None  # its examples are those that the models answer
        try:
            yield
        finally:
            await predictor.drain()

    app = FastAPI(
        title="Bertie",
        version=__version__,
        description=DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,  # that page would load its script from another host; ours is one of `pages`
        redoc_url=None,
        redirect_slashes=False,
        telemetry={"tracing": False, "metrics": False, "logs": False},  # asked after at every request otherwise
    )
    app.state.routes = handlers
    described = APIRouter()
    paths: dict[str, Route] = {}
    for tag, method, path, handler in (
        ("predictions", "POST", "/qa", handlers.qa),
        ("predictions", "POST", "/classify", handlers.classify),
        ("models", "GET", "/models", handlers.models),
        ("models", "GET", "/models/{name}", handlers.one_model),
        ("operations", "GET", "/health/live", handlers.live),
        ("operations", "GET", "/health/ready", handlers.ready),
        ("operations", "GET", "/metrics", handlers.metrics),
    ):
        # Handlers take the request and give the answer: FastAPI describes them, and need not stand in their way.
        described.add_api_route(
            path, handler, methods=[method], response_model=None, operation_id=handler.__name__, tags=[tag]
        )
        paths[path] = _Route(path, handler, methods=[method])
        app.router.routes.append(paths[path])
    for_people = pages.handlers()
    for path, serve in for_people.items():
        app.router.routes.append(_Route(path, serve, methods=["GET"]))

    def document() -> dict[str, object]:
        if app.openapi_schema is None:
            app.openapi_schema = openapi.document(
                app, described.routes, keys=bool(settings.api_keys), can_answer=handlers.can_answer
            )
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]
    app.add_exception_handler(HTTPException, _http_problem)
    express = {
        "/qa": Express(paths["/qa"], handlers.qa, handlers.check_qa),
        "/classify": Express(paths["/classify"], handlers.classify, handlers.check_classify),
    }
    app.add_middleware(ExpressMiddleware, paths=express)
    if settings.api_keys:
        keys = [key.get_secret_value() for key in settings.api_keys]
        app.add_middleware(KeyMiddleware, keys=keys, open_paths=(*OPEN_PATHS, *for_people))
    app.add_middleware(ExchangeMiddleware, metrics=metrics)
    return app


class _Route(Route):
    """A route that a request's scope names, as FastAPI's own do: metrics and the access log tell of it."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        match, found = super().matches(scope)
        return match, {**found, "route": self} if found else found


async def _http_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return problems.of_http(error, Exchange.of(request.scope).request_id)
