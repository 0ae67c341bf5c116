"""The service on Ray Serve: a replica's answers, the wait that scales, 429, and an update under load."""

from __future__ import annotations

import json
import socket
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

ray = pytest.importorskip("ray")
pytest.importorskip("ray.serve")

from ray import serve  # noqa: E402
from ray.serve.schema import ServeDeploySchema  # noqa: E402

from service import on_ray  # noqa: E402
from service.on_ray import WAIT, EstimatedWait  # noqa: E402
from service.settings import Settings  # noqa: E402

ROOT = Path(__file__).parents[2]


# ---- the policy -----------------------------------------------------------------------------------------------------


def decide(waits: list[float], replicas: int = 4, state: dict[str, Any] | None = None, **changes: Any) -> Any:
    fields: dict[str, Any] = {
        "aggregated_metrics": {WAIT: dict(enumerate(waits))},
        "target_num_replicas": replicas,
        "current_num_replicas": replicas,
        "current_time": 1000.0,
        "policy_state": state or {},
        "config": SimpleNamespace(downscale_delay_s=60.0),
        "capacity_adjusted_min_replicas": 1,
        "capacity_adjusted_max_replicas": 10,
    }
    return EstimatedWait(0.1)(SimpleNamespace(**fields | changes))  # type: ignore[arg-type]


def test_a_wait_over_the_target_wants_more_replicas_at_most_twice_as_many() -> None:
    assert decide([0.1, 0.19, 0.1, 0.19]) == (6, {})
    assert decide([9.0] * 4) == (8, {})
    assert decide([9.0] * 8, replicas=8) == (10, {})
    assert decide([9.0] * 4, current_num_replicas=3) == (4, {})  # those that were asked for are coming


def test_a_long_idle_time_costs_one_replica() -> None:
    assert decide([0.05] * 4, state={"idle_since": 1.0}) == (4, {})
    assert decide([0.0] * 4) == (4, {"idle_since": 1000.0})
    assert decide([0.0] * 4, state={"idle_since": 941.0}) == (4, {"idle_since": 941.0})
    assert decide([0.0] * 4, state={"idle_since": 940.0}) == (3, {"idle_since": 1000.0})
    assert decide([0.0], replicas=1, state={"idle_since": 0.0})[0] == 1


def test_without_a_signal_nothing_changes() -> None:
    assert decide([]) == (4, {})
    assert decide([], aggregated_metrics=None) == (4, {})


# ---- the config -----------------------------------------------------------------------------------------------------


def test_the_config_is_one_and_names_what_there_is() -> None:
    content = yaml.safe_load((ROOT / "deploy/ray/serve.yaml").read_text())
    config = ServeDeploySchema.model_validate(content)
    (application,) = config.applications
    module, name = application.import_path.split(":")
    assert (module, getattr(on_ray, name)) == (on_ray.__name__, on_ray.app)
    known = {f"BERTIE_{each.upper()}" for each in Settings.model_fields}
    assert application.runtime_env["env_vars"].keys() <= known
    (deployment,) = content["applications"][0]["deployments"]
    assert deployment["name"] == on_ray.Replica.name
    policy = deployment["autoscaling_config"]["policy"]
    assert getattr(on_ray, policy["policy_function"].split(":")[1])(**policy["policy_kwargs"]).target_seconds == 0.1
    defaults = Settings()
    assert deployment["max_ongoing_requests"] > defaults.max_requests
    assert deployment["graceful_shutdown_timeout_s"] > defaults.drain_seconds
    assert content["http_options"]["request_timeout_s"] > defaults.timeout_seconds


# ---- a replica ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def address(models_dir: Path) -> Iterator[str]:
    """Ray Serve on the loopback, without an application."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    variables = {"BERTIE_MODELS_DIR": str(models_dir), "PYTHONPATH": str(ROOT), "RAY_worker_niceness": "0"}
    ray.init(
        "local",
        num_cpus=4,
        include_dashboard=False,
        object_store_memory=80 << 20,
        _node_ip_address="127.0.0.2",
        log_to_driver=False,
        logging_level="ERROR",
        runtime_env={"env_vars": variables},
    )
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        yield f"http://127.0.0.1:{port}"
    finally:
        serve.shutdown()
        ray.shutdown()


def ask(url: str, body: Any = None) -> tuple[int, dict[str, str], Any]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, dict(answer.headers), json.loads(answer.read() or b"null")
    except urllib.error.HTTPError as error:
        return error.code, dict(error.headers), error.read()


def fixed(replicas: int, version: str, **options: Any) -> Any:
    """The application with so many replicas. Another version's are other processes."""
    environment = {"num_cpus": 1, "runtime_env": {"env_vars": {"VERSION": version}}}
    options |= {"num_replicas": replicas, "autoscaling_config": None, "ray_actor_options": environment}
    return on_ray.Replica.options(**options).bind()


class Load:
    """Clients that ask, one request after another, until the block ends."""

    def __init__(self, url: str, body: Any, clients: int) -> None:
        self.statuses: Counter[int | str] = Counter()
        self.headers: dict[int, dict[str, str]] = {}
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(url, body)) for _ in range(clients)]

    def _ask(self, url: str, body: Any) -> None:
        while not self._stop.is_set():
            try:
                status, headers, _ = ask(url, body)
                self.headers[status] = headers
                self.statuses[status] += 1
            except OSError as error:
                self.statuses[repr(error)] += 1

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


def test_a_replica_answers_as_the_service_does(address: str) -> None:
    serve.run(on_ray.app, name="bertie")
    status, headers, answer = ask(f"{address}/classify", {"text": "a good film"})
    assert (status, answer["model"], answer["label"]) == (200, "sentiment", "positive")
    assert "X-Request-Id" in {name.title() for name in headers}
    assert ask(f"{address}/classify", {"text": " "})[0] == 422
    assert ask(f"{address}/health/ready")[0] == 200
    assert ask(f"{address}/models")[0] == 200


def actors() -> set[str]:
    """Names of the replicas that run."""
    return {name for name in ray.util.list_named_actors() if "SERVE_REPLICA" in name}


def test_an_update_under_load_fails_no_request(address: str) -> None:
    serve.run(fixed(2, "1"), name="bertie")
    with Load(f"{address}/classify", {"text": "a good film"}, clients=4) as load:
        time.sleep(2)
        before, processes = load.statuses.total(), actors()
        serve.run(fixed(2, "2"), name="bertie")
        time.sleep(2)
    assert actors().isdisjoint(processes)
    assert set(load.statuses) == {200}
    assert before > 10
    assert load.statuses.total() > 2 * before


def test_more_than_may_be_in_flight_gets_429_and_when_to_come_again(address: str) -> None:
    serve.run(fixed(1, "3", max_ongoing_requests=1, max_queued_requests=1), name="bertie")
    with Load(f"{address}/classify", {"inputs": [{"text": "good " * 40}] * 64}, clients=12) as load:
        deadline = time.monotonic() + 30
        while not (load.statuses[429] and load.statuses[200]) and time.monotonic() < deadline:
            time.sleep(0.1)
    assert set(load.statuses) == {200, 429}
    assert {name.lower(): value for name, value in load.headers[429].items()}["retry-after"] == "1"


def test_a_wait_in_the_queue_brings_another_replica(address: str) -> None:
    config = {
        "min_replicas": 1, "max_replicas": 2, "look_back_period_s": 1.0, "metrics_interval_s": 0.2,
        "policy": {"policy_function": EstimatedWait, "policy_kwargs": {"target_seconds": 0.01}},
    }  # fmt: skip
    # A model that takes its time: in front of the tests' own there is seldom a queue.
    variables = {"BERTIE_MODELS_DIR": str(ROOT / "models"), "BERTIE_MODELS": "sentiment-albert"}
    options = {"num_cpus": 1, "runtime_env": {"env_vars": variables}}
    serve.run(on_ray.Replica.options(autoscaling_config=config, ray_actor_options=options).bind(), name="bertie")

    def running() -> int:
        deployment = serve.status().applications["bertie"].deployments["bertie"]
        return sum(count for state, count in deployment.replica_states.items() if str(state).endswith("RUNNING"))

    assert running() == 1
    with Load(f"{address}/classify", {"inputs": [{"text": "good " * 40}] * 64}, clients=12):
        deadline = time.monotonic() + 60
        while running() < 2 and time.monotonic() < deadline:
            time.sleep(0.2)
        assert running() == 2
