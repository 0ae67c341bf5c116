"""The program as it is run: a process, its exit status, its log, and what SIGTERM does to requests on their way."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from service import __version__
from service.__main__ import CANNOT_START, main
from service.settings import Settings
from tests.serving import running

ROOT = Path(__file__).parents[2]

SLOW = (
    "-c",
    """
import functools, sys
import service.__main__ as program
from service.app import create_app
from tests.engines import FakeEngine, load_with

program.create_app = functools.partial(create_app, load=load_with(sentiment=FakeEngine(seconds=SECONDS)))
sys.exit(program.main([]))
""",
)


def slow(seconds: float) -> tuple[str, ...]:
    """A service whose sentiment engine takes so long for a batch."""
    return SLOW[0], SLOW[1].replace("SECONDS", str(seconds))


def start(models_dir: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a service that is not expected to start."""
    return subprocess.run(
        [sys.executable, "-m", "service"],
        env=os.environ | {"BERTIE_MODELS_DIR": str(models_dir), "BERTIE_PORT": "0"} | environment,
        cwd=ROOT,
        text=True,
        capture_output=True,
        timeout=60,
    )


def test_serves_says_so_and_stops_on_sigterm(models_dir: Path) -> None:
    with running(models_dir, BERTIE_PROT="1") as service:
        answer = httpx.post(f"{service.url}/classify", json={"text": "a wonderful film"})
        assert answer.json()["label"] == "positive"
        assert "server" not in answer.headers
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(20) == 0
    messages = [record["message"] for record in service.log]
    assert messages == ["BERTIE_PROT is no setting; BERTIE_PORT is", *["loaded"] * 3, "serving", "request", "stopped"]
    serving = service.log[4]
    assert (serving["models"], serving["version"]) == ("nli,qa,sentiment", __version__)


def test_sigterm_finishes_what_was_admitted_and_refuses_the_rest(models_dir: Path) -> None:
    with running(models_dir, command=slow(4)) as service:
        address = urlsplit(service.url).netloc
        idle = http.client.HTTPConnection(address, timeout=10)
        idle.request("GET", "/health/ready")
        assert idle.getresponse().read() == b'{"status":"ready"}'
        answers: list[int] = []
        began = time.monotonic()

        def post() -> None:
            answers.append(httpx.post(f"{service.url}/classify", json={"text": "good"}, timeout=30).status_code)

        callers = [threading.Thread(target=post) for _ in range(3)]
        for caller in callers:
            caller.start()
        while not waiting(page := httpx.get(f"{service.url}/metrics").text):
            assert time.monotonic() - began < 3.5, page
        service.process.send_signal(signal.SIGTERM)
        # A connection that is kept alive is told, or closed.
        try:
            idle.request("GET", "/health/ready")
            assert idle.getresponse().status == 503
        except (http.client.RemoteDisconnected, ConnectionError):
            pass
        for caller in callers:
            caller.join()
        assert answers == [200, 200, 200]
        assert service.process.wait(20) == 0
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{service.url}/health/live")


def waiting(page: str) -> bool:
    """Whether a row waits behind a batch that is being run."""
    return 'bertie_queue_rows{model="sentiment"} 2.0' in page


def test_what_outlasts_the_drain_time_is_answered_503(models_dir: Path) -> None:
    with running(models_dir, command=slow(1.5), BERTIE_DRAIN_SECONDS="0.2") as service:
        answers: list[Any] = []

        def post(name: str) -> None:
            answer = httpx.post(f"{service.url}/classify", json={"text": name}, timeout=30)
            answers.append((answer.status_code, answer.json().get("type")))

        callers = [threading.Thread(target=post, args=[name]) for name in "ab"]
        callers[0].start()
        time.sleep(0.4)  # the first is with the engine
        callers[1].start()
        time.sleep(0.4)
        service.process.send_signal(signal.SIGTERM)
        for caller in callers:
            caller.join()
        assert service.process.wait(20) == 0
    assert (503, "urn:bertie:problem:not-ready") in answers
    assert (200, None) in answers


def test_a_wrong_setting_is_one_line(models_dir: Path) -> None:
    result = start(models_dir, BERTIE_DEVICE="tpu", BERTIE_API_KEYS=" , ")
    assert result.returncode == CANNOT_START
    device, keys = result.stderr.splitlines()
    assert device.startswith("bertie: BERTIE_DEVICE: ")
    assert keys.startswith("bertie: BERTIE_API_KEYS: ")


def test_a_broken_bundle_is_one_line_that_names_it(bundle_factory: Callable[..., Path]) -> None:
    folder = bundle_factory("sentiment", name="mine")
    (folder / "tokenizer.json").write_text("{}")
    result = start(folder.parent)
    assert result.returncode == CANNOT_START
    [line] = result.stderr.splitlines()
    assert "cannot start: bundle 'mine': tokenizer.json" in line


def test_no_bundles_at_all(tmp_path: Path) -> None:
    result = start(tmp_path / "nowhere")
    assert (result.returncode, len(result.stderr.splitlines())) == (CANNOT_START, 1)
    assert "BERTIE_MODELS_DIR" in result.stderr


def test_a_port_in_use_is_told_before_models_are_loaded(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = start(tmp_path, BERTIE_PORT=str(port))
    assert result.returncode == CANNOT_START
    [line] = result.stderr.splitlines()
    assert f"cannot listen on 127.0.0.1 port {port}: Address already in use" in line


def test_a_budget_below_the_longest_row(models_dir: Path) -> None:
    result = start(models_dir, BERTIE_MAX_BATCH_TOKENS="32", BERTIE_LOG_FORMAT="json")
    assert result.returncode == CANNOT_START
    [line] = result.stderr.splitlines()
    assert "BERTIE_MAX_BATCH_TOKENS=32" in json.loads(line)["message"]


def test_help_names_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    page = capsys.readouterr().out
    for name in Settings.model_fields:
        assert f"BERTIE_{name.upper()} " in page


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out.strip() == __version__
