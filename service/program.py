"""The program: settings from the environment, a log, sockets, and the servers around the application.

Owns start, stop and exit status: 0 after a stop by SIGTERM, SIGINT or SIGHUP, 3 when it could not start.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import difflib
import gc
import logging
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import uvloop
from fastapi import FastAPI
from pydantic import ValidationError

from service import __version__, logs, several
from service.app import create_app, create_ops_app
from service.commands import COMMANDS
from service.errors import BertieError, ConfigurationError
from service.metrics import Metrics
from service.predictor import Predictor
from service.processes.supervisor import CANNOT_START
from service.server import STOP_SIGNALS, MainServer, address, bind, in_thread
from service.settings import Settings

if TYPE_CHECKING:  # it imports gRPC
    from service.grpc_server import GrpcServer

logger = logging.getLogger("service")

PREFIX = "BERTIE_"
PLATFORM_VARIABLES = {
    "AIP_HTTP_PORT": "port",
    "AIP_PREDICT_ROUTE": "vertex_predict_route",
    "AIP_HEALTH_ROUTE": "vertex_health_route",
    "SAGEMAKER_BIND_TO_PORT": "port",
}
"""What Vertex AI and Amazon SageMaker say, and the settings that it is."""
SAGEMAKER_MODELS = Path("/opt/ml/model")
"""Where Amazon SageMaker unpacks a model: a folder of bundles."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until a signal. Returns the exit status."""
    on_sagemaker = _parser().parse_args(arguments).serve is not None
    try:
        settings = Settings(**platform_settings(os.environ, on_sagemaker=on_sagemaker))
    except ValidationError as error:
        for detail in error.errors(include_url=False, include_input=False):
            print(f"bertie: {PREFIX}{str(detail['loc'][0]).upper()}: {detail['msg']}", file=sys.stderr)
        return CANNOT_START
    # Texts of one request tokenised on all cores take 1.4 times the processor's time, and beside busy engines more of
    # the clock's as well (docs/lab.md): requests go side by side, not texts.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        places = several.find_places(settings)
    except ConfigurationError as error:
        print(f"bertie: {error.detail}", file=sys.stderr)
        return CANNOT_START
    if len(places) > 1:
        board = several.open_board(settings, places)
        _warn_of_unknown_variables()
        return _run(lambda: several.serve(settings, places, board, create_app, _grpc_server))
    metrics = Metrics()
    writer = logs.configure(settings.log_format, settings.log_level, metrics.log_dropped)
    _warn_of_unknown_variables()
    app = create_app(settings, metrics=metrics)
    status = serve(app, settings)
    # A thread that hangs, in an engine's call or writing the log, would keep the interpreter from ending, or be torn
    # out of foreign code by its end: then the process ends at once.
    if not writer.close_within(1.0) or not app.state.idle:
        os._exit(status)
    return status


def serve(app: FastAPI, settings: Settings) -> int:
    """Run an application with its lifespan until a signal. Returns the exit status."""

    def run() -> int:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(app, settings))
        return 0

    return _run(run)


def _run(run: Callable[[], int]) -> int:
    """Run what serves, so that a signal stops it before it is up too, and log how it ended."""
    # As process 1 of a container, a process gets no signal that it has no handler for.
    for each in STOP_SIGNALS:
        with contextlib.suppress(ValueError):  # signals belong to the main thread
            signal.signal(each, _stop_loading)
    try:
        status = run()
    except BertieError as error:
        logger.error("cannot start: %s", error.detail)
        return CANNOT_START
    except _Stopped:
        status = 0
    if not status:
        logger.info("stopped")
    return status


async def _serve(app: FastAPI, settings: Settings) -> None:
    with contextlib.ExitStack() as stack:
        # Before the models: a port in use is told at once.
        listener = stack.enter_context(bind(settings.host, settings.port))
        grpc = None if settings.grpc_port is None else _grpc_server(app, settings)
        ops = None if settings.ops_port is None else stack.enter_context(bind(settings.host, settings.ops_port))
        async with app.router.lifespan_context(app):
            predictor: Predictor = app.state.gate.predictor
            fields = {"address": address(listener), "models": ",".join(predictor.models), "version": __version__}
            for model in predictor.models.values():
                logger.info("loaded", extra={"fields": model.summary})
            gc.freeze()  # what is here stays: a full collection would look at it all, 50 ms in which nobody is answered
            if ops is not None:
                fields["ops_address"] = address(ops)
                stack.enter_context(in_thread(create_ops_app(app, settings), settings, ops))
            server = MainServer(app, settings, predictor)
            if grpc is not None:
                fields["grpc_address"], server.on_stop = grpc.address, grpc.stop
                await grpc.start()
            server.on_start = lambda: logger.info("serving", extra={"fields": fields})
            await server.serve([listener])


def _grpc_server(app: FastAPI, settings: Settings) -> GrpcServer:
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # its own lines on the standard error are no records of a log
    try:
        from service.grpc_server import GrpcServer
    except ImportError as error:
        raise ConfigurationError("BERTIE_GRPC_PORT wants gRPC: pip install -e '.[grpc]'") from error
    return GrpcServer(app, settings)


class _Stopped(BaseException):
    """A signal came before the service was up."""


def _stop_loading(sig: int, frame: FrameType | None) -> None:
    for each in STOP_SIGNALS:  # one is enough: a second would come into the midst of the end
        signal.signal(each, signal.SIG_IGN)
    raise _Stopped


def platform_settings(environment: Mapping[str, str], *, on_sagemaker: bool) -> dict[str, Any]:
    """Get the settings that a platform gives in variables of its own, where Bertie's are not set."""
    found: dict[str, Any] = {}
    if on_sagemaker:
        found |= {"host": "0.0.0.0", "port": "8080"}
        if SAGEMAKER_MODELS.is_dir() and any(SAGEMAKER_MODELS.iterdir()):
            found["models_dir"] = SAGEMAKER_MODELS
    found |= {ours: environment[theirs] for theirs, ours in PLATFORM_VARIABLES.items() if environment.get(theirs)}
    return {name: value for name, value in found.items() if not environment.get(f"{PREFIX}{name.upper()}")}


def _warn_of_unknown_variables() -> None:
    known = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields}
    for name in sorted(os.environ):
        if name.upper().startswith(PREFIX) and name.upper() not in known:
            nearest = difflib.get_close_matches(name.upper(), known, n=1)
            logger.warning("%s is no setting%s", name, f"; {nearest[0]} is" if nearest else "")


def _parser() -> argparse.ArgumentParser:
    lines = []
    for name, field in Settings.model_fields.items():
        default = field.default
        shown = ",".join(map(str, default)) if isinstance(default, tuple) else default
        lines.append(f"  {PREFIX + name.upper():29} {field.description} [{shown}]")
    listed = [f"  {name:29} {does}" for name, does in COMMANDS.items()]
    parser = argparse.ArgumentParser(
        prog="bertie-serve",
        description="Serve the bundles of a folder over HTTP. Everything is set by environment variables.",
        epilog="\n".join(["settings:", *lines, "", "commands (each has --help):", *listed]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "serve", nargs="?", choices=["serve"], help="as Amazon SageMaker starts a container: on port 8080"
    )
    parser.add_argument("--version", action="version", version=__version__)
    return parser
