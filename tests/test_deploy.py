"""What runs Bertie elsewhere: the images, the compose file, the alert rules, the dashboard."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from prometheus_client import Counter, Histogram

from service.metrics import Metrics
from tests.serving import running

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
DASHBOARD = json.loads((DEPLOY / "grafana/dashboards/bertie.json").read_text())
ALERTS = yaml.safe_load((DEPLOY / "alerts.yml").read_text())
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
DOCKERFILE = (ROOT / "Dockerfile").read_text()


def queries() -> dict[str, str]:
    """Every PromQL expression that is deployed, by who asks it."""
    found = {
        f"panel {panel['title']} {target['refId']}": target["expr"]
        for panel in DASHBOARD["panels"]
        for target in panel.get("targets", [])
    }
    for variable in DASHBOARD["templating"]["list"]:
        found[f"variable {variable['name']}"] = variable["definition"]
    for group in ALERTS["groups"]:
        found |= {f"alert {rule['alert']}": rule["expr"] for rule in group["rules"]}
    return found


# ---- the image ------------------------------------------------------------------------------------------------------


def test_both_images_start_from_the_same_plain_base() -> None:
    stages = dict(reversed(m) for m in re.findall(r"^FROM (\S+) AS (\S+)$", DOCKERFILE, re.MULTILINE))
    assert len(stages) == DOCKERFILE.count("\nFROM ")
    for target in ("cpu", "gpu"):
        base = stages[target]
        while base in stages:
            base = stages[base]
        assert base == "python:3.11-slim-bookworm"


def test_final_stages_run_nothing_as_root() -> None:
    final = DOCKERFILE[DOCKERFILE.index(" AS runtime") :]
    assert not re.search(r"^RUN ", final, re.MULTILINE)  # so no compiler, no package manager's leftovers
    assert re.findall(r"^USER (.*)", final, re.MULTILINE) == ["10001:10001"]


def test_entrypoint_gets_signals_itself() -> None:
    (command,) = re.findall(r"^ENTRYPOINT (.*)", DOCKERFILE, re.MULTILINE)
    assert json.loads(command) == ["python", "-m", "service"]  # exec form: a shell would keep SIGTERM to itself


@pytest.fixture
def ready() -> Iterator[HTTPServer]:
    """A server whose /health/ready answers with its `status`."""

    class Ready(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(self.server.status if self.path == "/health/ready" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Ready)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1)])
@pytest.mark.parametrize(
    ("main", "ops"), [("{0}", None), ("{0}", ""), ("1", "{0}")], ids=["main", "main, no ops port", "ops"]
)
def test_health_check_follows_readiness_on_the_port_in_use(
    ready: HTTPServer, main: str, ops: str | None, status: int, code: int
) -> None:
    (command,) = re.findall(r"^HEALTHCHECK .*? CMD (\[.*?\])$", DOCKERFILE, re.MULTILINE | re.DOTALL)
    program = json.loads(command.replace("\\\n", ""))  # the Dockerfile's line continuations
    ready.status = status
    ports = {"BERTIE_PORT": main} | ({} if ops is None else {"BERTIE_OPS_PORT": ops})
    environment = os.environ | {name: port.format(ready.server_port) for name, port in ports.items()}
    assert subprocess.run([sys.executable, *program[1:]], env=environment, timeout=20).returncode == code


# ---- the compose file -----------------------------------------------------------------------------------------------


def test_compose_mounts_and_targets_exist() -> None:
    for name, service in COMPOSE["services"].items():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert (ROOT / source).exists() if source.startswith(".") else source in COMPOSE["volumes"], (name, source)
        if "build" in service:
            assert f" AS {service['build']['target']}\n" in DOCKERFILE


def test_compose_pins_images_and_opens_no_port_to_the_network() -> None:
    for name, service in COMPOSE["services"].items():
        assert re.search(r":v?\d+\.\d+\.\d+(-gpu)?$", service["image"]), name
        assert all(port.startswith("127.0.0.1:") for port in service["ports"]), name


def test_prometheus_scrapes_what_compose_starts() -> None:
    (job,) = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())["scrape_configs"]
    hosts = [target.split(":")[0] for config in job["static_configs"] for target in config["targets"]]
    hosts += [name for config in job["dns_sd_configs"] for name in config["names"]]
    assert {*hosts} == {name for name, service in COMPOSE["services"].items() if "build" in service}


def test_it_scrapes_the_operations_own_port_which_is_not_published() -> None:
    (job,) = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())["scrape_configs"]
    ports = {int(target.split(":")[1]) for config in job["static_configs"] for target in config["targets"]}
    ports |= {config["port"] for config in job["dns_sd_configs"]}
    for name, service in COMPOSE["services"].items():
        if "build" in service:
            ops = int(service["environment"]["BERTIE_OPS_PORT"])
            assert ports == {ops}
            assert not [port for port in service["ports"] if port.endswith(f":{ops}")], name
    assert f"BERTIE_OPS_PORT={ops}\n" in DOCKERFILE
    assert f"\nEXPOSE 8000 {ops}\n" in DOCKERFILE


# ---- alerts and dashboard -------------------------------------------------------------------------------------------


def test_dashboard_asks_the_provisioned_source() -> None:
    (source,) = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/prometheus.yml").read_text())["datasources"]
    asked = {panel["datasource"]["uid"] for panel in DASHBOARD["panels"] if panel["type"] != "row"}
    assert asked == {source["uid"]}


def test_exemplars_lead_to_the_traces_that_compose_collects() -> None:
    sources = [
        source
        for path in (DEPLOY / "grafana/provisioning/datasources").iterdir()
        for source in yaml.safe_load(path.read_text())["datasources"]
    ]
    by_uid = {source["uid"]: source for source in sources}
    assert len(by_uid) == len(sources) == 2
    ((destination),) = by_uid["prometheus"]["jsonData"]["exemplarTraceIdDestinations"]
    assert destination["name"] == "trace_id"  # the exemplar's label
    assert [panel["title"] for panel in DASHBOARD["panels"] if "exemplar" in str(panel.get("targets"))] == [
        "Request duration"
    ]
    assert "--enable-feature=exemplar-storage" in COMPOSE["services"]["prometheus"]["command"]
    host = re.fullmatch(r"http://(\w+):16686", by_uid[destination["datasourceUid"]]["url"])
    assert host is not None
    collector = COMPOSE["services"][host[1]]
    assert collector["profiles"] == ["traces"]
    assert collector["ports"] == ["127.0.0.1:16686:16686"]  # the user interface alone
    for service in COMPOSE["services"].values():
        if "build" in service:
            assert service["environment"]["BERTIE_TRACES"] == "${BERTIE_TRACES:-false}"
            endpoint = service["environment"]["OTEL_EXPORTER_OTLP_ENDPOINT"]
            assert endpoint == f"${{OTEL_EXPORTER_OTLP_ENDPOINT:-http://{host[1]}:4318}}"


def test_panels_lie_side_by_side() -> None:
    cells: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        own = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not own & cells, panel["title"]
        cells |= own


# Labels that Prometheus itself adds to every series.
FROM_SCRAPING = {"job", "instance", "le"}


def series() -> dict[str, set[str]]:
    """Each series that the service exports and its labels."""
    found: dict[str, set[str]] = {}
    for metric in vars(Metrics()).values():
        if hasattr(metric, "_labelnames"):
            endings = ["_bucket", "_sum", "_count"] if isinstance(metric, Histogram) else [""]
            endings = ["_total"] if isinstance(metric, Counter) else endings
            found |= {metric._name + ending: {*metric._labelnames} for ending in endings}
    return found


@pytest.mark.parametrize(("who", "expression"), queries().items(), ids=queries().keys())
def test_queries_ask_for_series_and_labels_that_exist(who: str, expression: str) -> None:
    exported = series()
    asked = set(re.findall(r"\bbertie_\w+", expression))
    assert asked <= exported.keys()
    known = FROM_SCRAPING.union(*(exported[name] for name in asked))
    grouped = re.findall(r"\b(?:by|on) \(([^)]*)\)", expression)
    assert {label.strip() for labels in grouped for label in labels.split(",")} <= known
    for name, matchers in re.findall(r"\b(bertie_\w+)\{([^}]*)\}", expression):
        assert set(re.findall(r"(\w+)(?:=~|!~|!=|=)", matchers)) <= exported[name] | FROM_SCRAPING, name


def test_alert_examples_are_of_series_that_exist() -> None:
    exported = series()
    examples = yaml.safe_load((DEPLOY / "alerts_test.yml").read_text())["tests"]
    for example in (entry["series"] for test in examples for entry in test["input_series"]):
        name, labels = re.fullmatch(r"(\w+)\{(.*)\}", example).groups()
        if name.startswith("bertie_"):
            assert set(re.findall(r"(\w+)=", labels)) <= exported[name] | FROM_SCRAPING, example


def test_every_metric_is_on_the_dashboard() -> None:
    shown = " ".join(expression for who, expression in queries().items() if who.startswith("panel"))
    families = {re.sub(r"_(total|bucket|sum|count)$", "", name) for name in series()}
    assert {name for name in families if name not in shown} == set()


promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")


@promtool
@pytest.mark.parametrize(
    "command", ["check config prometheus.yml", "check rules alerts.yml", "test rules alerts_test.yml"]
)
def test_promtool(command: str) -> None:
    done = subprocess.run(["promtool", *command.split()], cwd=DEPLOY, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


@promtool
def test_every_query_is_promql(tmp_path: Path) -> None:
    expressions = {
        name: text.replace("$__rate_interval", "1m") for name, text in queries().items() if "label_values" not in text
    }
    rules = [{"record": f"q{n}", "expr": text} for n, text in enumerate(expressions.values())]
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))
    done = subprocess.run(["promtool", "check", "rules", file], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is not installed")
def test_prometheus_itself_keeps_exemplars_and_the_estimated_wait(models_dir: Path, tmp_path: Path) -> None:
    """As compose starts it: by the scrape that it negotiates, with what it is told to keep."""
    flags = [flag for flag in COMPOSE["services"]["prometheus"]["command"] if flag.startswith("--enable-feature")]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    nowhere = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}
    with running(models_dir, BERTIE_TRACES="true", **nowhere) as service:
        job = {"job_name": "bertie", "static_configs": [{"targets": [service.url.removeprefix("http://")]}]}
        config = tmp_path / "prometheus.yml"
        config.write_text(yaml.safe_dump({"global": {"scrape_interval": "1s"}, "scrape_configs": [job]}))
        assert httpx.post(f"{service.url}/classify", json={"text": "fun"}).status_code == 200
        prometheus = subprocess.Popen(
            [
                "prometheus", f"--config.file={config}", f"--storage.tsdb.path={tmp_path / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}", *flags,
            ],
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            api = f"http://127.0.0.1:{port}/api/v1"
            kept = asked(
                f"{api}/query_exemplars", "bertie_request_duration_seconds_bucket", start="0", end="9999999999"
            )
            waits = asked(f"{api}/query", "bertie_queue_wait_seconds")["result"]
        finally:
            prometheus.terminate()
            prometheus.wait(20)
    (line,) = [record for record in service.log if record["message"] == "request" and record["route"] == "/classify"]
    assert {exemplar["labels"]["trace_id"] for each in kept for exemplar in each["exemplars"]} == {line["trace_id"]}
    assert [value for _, value in (each["value"] for each in waits)] == ["0"]


def asked(url: str, query: str, **parameters: str) -> Any:
    """What Prometheus answers to a query, once it has an answer."""
    until = time.monotonic() + 30
    while time.monotonic() < until:
        with contextlib.suppress(httpx.TransportError):  # it is starting
            answer = httpx.get(url, params={"query": query, **parameters})
            data = answer.json().get("data") if answer.status_code == 200 else None
            if data and (not isinstance(data, dict) or data["result"]):
                return data
        time.sleep(0.2)
    raise TimeoutError(f"no answer to {query}")
