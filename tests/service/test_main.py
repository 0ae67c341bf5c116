"""The program as it is run: a process, its exit status, its log, and what SIGTERM does to requests on their way."""

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from service import __version__, program
from service.program import CANNOT_START, main, platform_settings
from service.settings import Settings
from tests.serving import Running, running

ROOT = Path(__file__).parents[2]

SLOW = (
    "-c",
    """
import functools, logging, sys
import service.program as program
from service.app import create_app
from tests.engines import FakeEngine, load_with

class Loud(FakeEngine):
    def run(self, batch):
        logging.getLogger("engine").info("entered")
        return super().run(batch)

program.create_app = functools.partial(create_app, load=load_with(sentiment=Loud(seconds=SECONDS)))
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


def post(service: Running) -> tuple[int, dict[str, Any]]:
    """A request for sentiment. (httpx would spend much of a second on certificates.)"""
    connection = http.client.HTTPConnection(urlsplit(service.url).netloc, timeout=30)
    connection.request("POST", "/classify", '{"text": "good"}', {"Content-Type": "application/json"})
    response = connection.getresponse()
    return response.status, json.loads(response.read())


def get(connection: http.client.HTTPConnection, path: str) -> str:
    connection.request("GET", path)
    return connection.getresponse().read().decode()


def until(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.01)


def entered(service: Running) -> bool:
    """Whether the engine has begun a batch."""
    return any(record["message"] == "entered" for record in service.log)


def one_running_and_one_waiting(
    service: Running, pool: ThreadPoolExecutor, connection: http.client.HTTPConnection
) -> list[Future[tuple[int, dict[str, Any]]]]:
    first = pool.submit(post, service)
    until(lambda: entered(service))
    second = pool.submit(post, service)
    until(lambda: 'bertie_queue_rows{model="sentiment"} 1.0' in get(connection, "/metrics"))
    return [first, second]


def test_sigterm_finishes_what_was_admitted_and_refuses_the_rest(models_dir: Path) -> None:
    with running(models_dir, command=slow(2)) as service, ThreadPoolExecutor() as pool:
        idle = http.client.HTTPConnection(urlsplit(service.url).netloc, timeout=10)
        assert get(idle, "/health/ready") == '{"status":"ready"}'
        answers = one_running_and_one_waiting(service, pool, idle)
        service.process.send_signal(signal.SIGTERM)
        # A connection that was kept alive is told, or closed.
        with contextlib.suppress(http.client.RemoteDisconnected, ConnectionError):
            assert json.loads(get(idle, "/health/ready"))["status"] == 503
        assert [answer.result()[0] for answer in answers] == [200, 200]
        assert service.process.wait(20) == 0
    with pytest.raises(ConnectionRefusedError):
        post(service)


def test_what_outlasts_the_drain_time_is_answered_503(models_dir: Path) -> None:
    with running(models_dir, command=slow(2), BERTIE_DRAIN_SECONDS="0.2") as service, ThreadPoolExecutor() as pool:
        connection = http.client.HTTPConnection(urlsplit(service.url).netloc, timeout=10)
        answers = one_running_and_one_waiting(service, pool, connection)
        service.process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        for status, problem in [answer.result() for answer in answers]:
            assert (status, problem["type"]) == (503, "urn:bertie:problem:not-ready")
        assert service.process.wait(20) == 0
        assert time.monotonic() - began < 1.5  # not after the engine's two seconds


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


def test_a_client_that_leaves_is_noted_as_gone(models_dir: Path) -> None:
    with running(models_dir, command=slow(2)) as service:
        address = urlsplit(service.url)
        body = b'{"text": "good"}'
        head = f"POST /classify HTTP/1.1\r\nHost: b\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
        with socket.create_connection((address.hostname, address.port)) as connection:
            connection.sendall(head.encode() + b"\r\n\r\n" + body)
            until(lambda: entered(service))
        until(lambda: service.log[-1].get("status") == 499)
        gone = service.log[-1]
        assert post(service)[0] == 200
    assert gone["duration_ms"] < 1900  # not after the engine's two seconds
    assert [record for record in service.log if record["level"] == "error"] == []


@pytest.mark.parametrize("name", ["SIGINT", "SIGHUP"])
def test_other_signals_stop_it_as_well(models_dir: Path, name: str) -> None:
    with running(models_dir) as service:
        service.process.send_signal(getattr(signal, name))
        assert service.process.wait(20) == 0
    assert service.log[-1]["message"] == "stopped"


def test_a_second_sigint_ends_what_was_admitted(models_dir: Path) -> None:
    with running(models_dir, command=slow(3)) as service, ThreadPoolExecutor() as pool:
        answer = pool.submit(post, service)
        until(lambda: entered(service))
        began = time.monotonic()
        service.process.send_signal(signal.SIGINT)
        service.process.send_signal(signal.SIGTERM)  # two of a kind may be merged into one
        assert answer.result()[0] == 503
        assert service.process.wait(20) == 0
        assert time.monotonic() - began < 2.5


def test_probes_and_metrics_have_a_port_of_their_own(models_dir: Path) -> None:
    with running(models_dir, BERTIE_OPS_PORT="0") as service:
        ops = service.log[-1]["ops_address"]
        for url in (ops, service.url):
            assert httpx.get(f"{url}/health/ready").status_code == 200
        httpx.post(f"{service.url}/classify", json={"text": "good"})
        scraped = httpx.get(f"{ops}/metrics").text
        assert 'bertie_requests_total{model="sentiment",route="/classify",status="200"} 1.0' in scraped
        assert httpx.post(f"{ops}/classify", json={"text": "good"}).status_code == 404
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(20) == 0


def test_the_ops_port_in_use_is_told(models_dir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = start(models_dir, BERTIE_OPS_PORT=str(port))
    assert result.returncode == CANNOT_START
    assert f"cannot listen on 127.0.0.1 port {port}" in result.stderr


class TestPlatforms:
    def test_vertex_says_where_it_asks(self) -> None:
        said = {"AIP_HTTP_PORT": "8080", "AIP_PREDICT_ROUTE": "/p", "AIP_HEALTH_ROUTE": "/h"}
        found = {"port": "8080", "vertex_predict_route": "/p", "vertex_health_route": "/h"}
        assert platform_settings(said, on_sagemaker=False) == found
        assert "port" not in platform_settings(said | {"BERTIE_PORT": "1"}, on_sagemaker=False)

    def test_sagemaker_asks_at_port_8080_or_at_the_one_that_it_says(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setattr(program, "SAGEMAKER_MODELS", tmp_path)
        anywhere = {"host": "0.0.0.0", "port": "8080"}
        assert platform_settings({}, on_sagemaker=True) == anywhere
        assert platform_settings({"SAGEMAKER_BIND_TO_PORT": "9"}, on_sagemaker=True) == anywhere | {"port": "9"}
        assert platform_settings({"BERTIE_PORT": "1"}, on_sagemaker=True) == {"host": "0.0.0.0"}
        (tmp_path / "qa").mkdir()
        assert platform_settings({}, on_sagemaker=True)["models_dir"] == tmp_path

    def test_is_started_as_serve(self, models_dir: Path) -> None:
        with running(models_dir, command=("-m", "service", "serve"), BERTIE_HOST="127.0.0.1") as service:
            assert httpx.get(f"{service.url}/ping").status_code == 200
            assert httpx.post(f"{service.url}/invocations", json={"inputs": "good"}).json()[0]["label"] == "positive"

    def test_another_argument_is_none(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit):
            main(["train"])
        assert "invalid choice" in capsys.readouterr().err
