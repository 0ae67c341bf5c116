"""A server started, waited for and stopped: any command, or Bertie of this source tree or of another."""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from bench import client, process
from bench.errors import ServerError
from bench.process import Server

ROOT = Path(__file__).parents[1]
"""This source tree."""
START_SECONDS = 120
SETTLE_SECONDS = 2.0
"""Between being ready and being idle."""


def free_port() -> int:
    """Find a port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@contextlib.contextmanager
def running(
    command: Sequence[str], environment: Mapping[str, str], ready: Callable[[], bool],
    *, tree: Path = ROOT, log: Path | None = None, seconds: float = START_SECONDS,
) -> Iterator[Server]:  # fmt: skip
    """Start `command` on the code of a source tree, wait until it is ready, and stop it at the end.

    Args:
        log: file for what it writes; a temporary one if left out.

    Raises:
        ServerError: it ended, or was not ready in time.
    """
    with tempfile.TemporaryDirectory(prefix="bench-log-") as folder:
        path = os.pathsep.join(filter(None, (str(tree), os.environ.get("PYTHONPATH"))))
        environment = {**environment, "PYTHONPATH": path}
        with Server(command, environment=environment, log=log or Path(folder) / "log", cwd=tree) as server:
            if not process.wait_until(lambda: not server.alive or ready(), seconds, 0.02) or not server.alive:
                what = f"it did not answer within {seconds:g} s" if server.alive else "it ended"
                raise ServerError(f"{what}: {server.last_words()}")
            yield server


@contextlib.contextmanager
def bertie(
    models_dir: Path, models: tuple[str, ...] = (), *, tree: Path = ROOT, **settings: str
) -> Iterator[tuple[Server, str]]:
    """Run the service on a free port until the block ends; get its server and its address.

    Args:
        models: bundles to load; all of the folder when empty.
        tree: the source tree whose service is run.
        settings: variables, as in `BERTIE_TIMEOUT_SECONDS="5"`.

    Raises:
        ServerError: it did not start.
    """
    url = f"http://127.0.0.1:{free_port()}"
    environment = bertie_environment(url, models_dir, models) | settings
    ready = f"{url}/health/ready"
    with running(process.python("service"), environment, lambda: client.get(ready).ok, tree=tree) as server:
        yield server, url


def bertie_environment(url: str, models_dir: Path, models: tuple[str, ...] = ()) -> dict[str, str]:
    """Get the variables that tell Bertie where to listen and what to load."""
    port = url.rpartition(":")[2]
    return {"BERTIE_PORT": port, "BERTIE_MODELS_DIR": str(models_dir.resolve()), "BERTIE_MODELS": ",".join(models)}


def start(models_dir: Path, *, tree: Path = ROOT) -> tuple[float, int]:
    """Start the service with all bundles of a folder: seconds until it is ready, and bytes resident when idle.

    Raises:
        ServerError: it did not start.
    """
    with bertie(models_dir, tree=tree) as (server, _):
        seconds = time.perf_counter() - server.started
        time.sleep(SETTLE_SECONDS)
        return seconds, server.usage().rss
