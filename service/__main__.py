"""The program: settings from the environment, a log, a socket, and the server around the application.

Owns start, stop and exit status: 0 after a stop by signal, 3 when it could not start.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import difflib
import gc
import logging
import math
import os
import signal
import socket
import sys
from collections.abc import Sequence
from types import FrameType

import uvicorn
from fastapi import FastAPI
from pydantic import ValidationError

from service import __version__, logs
from service.app import create_app
from service.errors import BertieError, ConfigurationError
from service.predictor import Predictor
from service.settings import Settings

logger = logging.getLogger("service")

CANNOT_START = 3
PREFIX = "BERTIE_"


class Server(uvicorn.Server):
    """uvicorn's server, that tells the predictor of the end at once and not after the last request."""

    def __init__(self, config: uvicorn.Config, predictor: Predictor, drain_seconds: float) -> None:
        super().__init__(config)
        self._predictor = predictor
        self._drain_seconds = drain_seconds

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listens, and says so."""
        await super().startup(sockets)
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        fields = {
            "address": f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}",
            "models": ",".join(self._predictor.models),
            "version": __version__,
        }
        logger.info("serving", extra={"fields": fields})

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """On SIGTERM or SIGINT: not ready from this moment; what was admitted goes on."""
        self._predictor.stop()
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Closes the listening socket and idle connections, and waits for what was admitted: past the time for it, what
        still waits for the engine gets a 503."""
        giving_up = asyncio.create_task(self._give_up())
        await super().shutdown(sockets)
        giving_up.cancel()

    async def _give_up(self) -> None:
        await asyncio.sleep(self._drain_seconds)
        logger.warning("drain time is over", extra={"fields": {"seconds": self._drain_seconds}})
        await self._predictor.drain(0)


def main(arguments: Sequence[str] | None = None) -> int:
    """Serves until a signal. Returns the exit status."""
    _parser().parse_args(arguments)
    try:
        settings = Settings()
    except ValidationError as error:
        for detail in error.errors(include_url=False, include_input=False):
            print(f"bertie: {PREFIX}{str(detail['loc'][0]).upper()}: {detail['msg']}", file=sys.stderr)
        return CANNOT_START
    logs.configure(settings.log_format, settings.log_level)
    # Texts of one request tokenised on all cores take 1.4 times the processor's time, and beside busy engines more of
    # the clock's as well (docs/lab.md): requests go side by side, not texts.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    _warn_of_unknown_variables()
    config = uvicorn.Config(
        create_app(settings),
        lifespan="off",  # run here, so that what it raises is told in one line
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # nothing here asks where a request came from
        timeout_graceful_shutdown=math.ceil(settings.drain_seconds) + 2,
    )
    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        try:
            runner.run(_serve(config, settings))
        except BertieError as error:
            logger.error("cannot start: %s", error.detail)
            return CANNOT_START
        except KeyboardInterrupt:
            pass
    return 0


async def _serve(config: uvicorn.Config, settings: Settings) -> None:
    app = config.app
    assert isinstance(app, FastAPI)
    with _bind(settings.host, settings.port) as listener:  # before the models: a port in use is told at once
        async with app.router.lifespan_context(app):
            predictor: Predictor = app.state.routes.predictor
            for model in predictor.models.values():
                fields = {"model": model.name, "provider": model.provider, "precision": model.precision}
                fields |= {"version": model.bundle.version, "batch_tokens": str(model.schedule.batch_tokens)}
                if model.schedule.lone:
                    fields["lone_tokens"] = str(model.schedule.lone_tokens)
                logger.info("loaded", extra={"fields": fields})
            gc.freeze()  # what is here stays: a full collection would look at it all, 50 ms in which nobody is answered
            server = Server(config, predictor, settings.drain_seconds)
            with contextlib.suppress(ValueError):  # signals belong to the main thread
                # uvicorn raises the signal again when it has stopped; having stopped as asked is success.
                signal.signal(signal.SIGTERM, lambda *_: None)
            await server.serve(sockets=[listener])
    logger.info("stopped")


def _bind(host: str, port: int) -> socket.socket:
    """A socket that is bound and does not listen yet: who connects before the models are loaded is refused."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        raise ConfigurationError(f"cannot listen on {host} port {port}: {error.strerror}") from error
    return listener


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
    parser = argparse.ArgumentParser(
        prog="bertie-serve",
        description="Serves the bundles of a folder over HTTP. Everything is set by environment variables.",
        epilog="settings:\n" + "\n".join(lines),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=__version__)
    return parser


if __name__ == "__main__":
    sys.exit(main())
