"""The application: routes, layers and lifespan put together.

Owns their order. Knows nothing of the server that runs it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from service import __version__, openapi, playground, predict, problems, routes
from service.auth import KeyMiddleware
from service.caller import CallerGone
from service.exchange import Exchange, ExchangeMiddleware
from service.metrics import Metrics
from service.predict import Predictor
from service.routes import Routes
from service.settings import Settings

DESCRIPTION = (
    "Question answering, natural-language inference and sentiment. Errors are RFC 9457 problem documents. "
    "`X-Request-Id` comes back as it was sent."
)
OPEN_PATHS = ("/health/live", "/health/ready", "/metrics", "/docs", "/openapi.json")


def create_app(
    settings: Settings,
    *,
    load: Callable[[Settings, Metrics], Predictor] = predict.load,
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
        try:
            yield
        finally:
            await predictor.drain()

    app = FastAPI(
        title="Bertie",
        version=__version__,
        description=DESCRIPTION,
        lifespan=lifespan,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.routes = handlers
    for method, path, handler in (
        ("POST", "/qa", handlers.qa),
        ("POST", "/classify", handlers.classify),
        ("GET", "/models", handlers.models),
        ("GET", "/models/{name}", handlers.one_model),
        ("GET", "/health/live", handlers.live),
        ("GET", "/health/ready", handlers.ready),
        ("GET", "/metrics", handlers.metrics),
    ):
        app.add_api_route(path, handler, methods=[method], response_model=None, operation_id=handler.__name__)
    page = playground.handlers()
    for path, serve in page.items():
        app.add_api_route(path, serve, methods=["GET", "HEAD"], response_model=None, include_in_schema=False)

    def document() -> dict[str, object]:
        if app.openapi_schema is None:
            app.openapi_schema = openapi.document(app, keys=bool(settings.api_keys))
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]
    app.add_exception_handler(HTTPException, _http_problem)
    app.add_exception_handler(CallerGone, routes.gone)
    if settings.api_keys:
        keys = [key.get_secret_value() for key in settings.api_keys]
        app.add_middleware(KeyMiddleware, keys=keys, open_paths=(*OPEN_PATHS, *page))
    app.add_middleware(ExchangeMiddleware, metrics=metrics)
    return app


async def _http_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return problems.of_http(error, Exchange.of(request.scope).request_id)
