"""Bertie in a process of its own, for the programs that measure it alone."""

from __future__ import annotations

import contextlib
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from bench import client, process
from bench.errors import ServerError
from bench.process import Server

START_SECONDS = 120


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@contextlib.contextmanager
def bertie(models_dir: Path, models: tuple[str, ...] = (), **settings: str) -> Iterator[tuple[Server, str]]:
    """The service on a free port, ready; its server and its address.

    Args:
        models: bundles to load; all of the folder when empty.
        settings: variables, as in `BERTIE_TIMEOUT_SECONDS="5"`.

    Raises:
        ServerError: it did not start.
    """
    port = free_port()
    environment = {"BERTIE_PORT": str(port), "BERTIE_MODELS_DIR": str(models_dir), "BERTIE_MODELS": ",".join(models)}
    with tempfile.TemporaryDirectory(prefix="bench-log-") as folder:
        log = Path(folder) / "bertie.log"
        with Server(process.python("service"), environment=environment | settings, log=log) as server:
            url = f"http://127.0.0.1:{port}"
            await_ready(server, lambda: client.get(f"{url}/health/ready").ok)
            yield server, url


def await_ready(server: Server, ready: Callable[[], bool], seconds: float = START_SECONDS, step: float = 0.02) -> None:
    """Waits until `ready`.

    Raises:
        ServerError: the server ended, or the time is over.
    """
    ended = False

    def done() -> bool:
        nonlocal ended
        ended = not server.alive
        return ended or ready()

    if not process.wait_until(done, seconds, step) or ended:
        what = "it ended" if ended else f"it did not answer within {seconds:g} s"
        raise ServerError(f"{what}: {server.last_words()}")
