"""The service to talk to: in this process (`serving`), one bare ASGI request (`call`), or a process of its own
(`running`)."""

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI

from service.app import create_app
from service.metrics import Metrics
from service.predictor import Predictor
from service.repository import loading
from service.settings import Settings


@asynccontextmanager
async def serving(
    settings: Settings,
    *,
    load: Callable[[Settings, Metrics], Predictor] = loading.load,
    open_bundle: Any = loading.open_tried,
    metrics: Metrics | None = None,
    traces: Any = None,
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an application in its lifespan. `client.app` is the application.

    Args:
        traces: makes its traces; None for none.
    """
    app = create_app(settings, load=load, open_bundle=open_bundle, metrics=metrics)
    app.state.recorder.traces = traces
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://bertie", timeout=30) as client:
            client.app = app  # type: ignore[attr-defined]
            yield client


async def call(app: FastAPI, path: str, body: Any, *, hang_up: asyncio.Event, more_body: bool = False) -> list[Any]:
    """Posts JSON and hangs up when the event is set. Returns the messages that the application sent.

    Args:
        more_body: whether the body is to go on, and never does.
    """
    sent: list[Any] = []
    messages = [{"type": "http.request", "body": json.dumps(body).encode(), "more_body": more_body}]

    async def receive() -> Any:
        if messages:
            return messages.pop()
        await hang_up.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(b"content-type", b"application/json")],
        "http_version": "1.1",
        "scheme": "http",
    }
    await app(scope, receive, send)  # type: ignore[arg-type]
    return sent


@dataclass
class Running:
    """A service in a process of its own.

    Attributes:
        url: where it listens.
        log: every record so far, oldest first.
    """

    process: subprocess.Popen[str]
    url: str = ""
    log: list[dict[str, Any]] = field(default_factory=list)


@contextmanager
def running(models_dir: Path, *, command: tuple[str, ...] = ("-m", "service"), **environment: str) -> Iterator[Running]:
    """Starts the service on a free port and waits until it serves.

    Args:
        command: what Python runs.
        environment: settings, as in `BERTIE_WORKERS="1"`.
    """
    settings = {"BERTIE_MODELS_DIR": str(models_dir), "BERTIE_PORT": "0", "BERTIE_LOG_FORMAT": "json"}
    process = subprocess.Popen(
        [sys.executable, *command],
        env=os.environ | settings | environment,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent.parent,
    )
    service = Running(process)
    serving_line = threading.Event()

    def read() -> None:
        assert process.stderr is not None
        for line in process.stderr:
            record = json.loads(line)
            service.log.append(record)
            if record["message"] == "serving":
                service.url = record["address"]
                serving_line.set()
        serving_line.set()

    reader = threading.Thread(target=read)
    reader.start()
    try:
        assert serving_line.wait(60), service.log
        assert service.url, service.log
        yield service
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(30)
        process.kill()
        process.wait()
        reader.join()
        assert process.stderr is not None
        process.stderr.close()
