"""The program as several processes: one port, one set of models, one set of metrics, one end."""

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import grpc
import psutil
import pytest

from service import several
from service.errors import ConfigurationError
from service.processes import placement
from service.processes.placement import Gpu, Place
from service.processes.supervisor import CANNOT_START
from service.settings import Settings
from tests.bundles import make_version
from tests.serving import Running, running

ROOT = Path(__file__).parents[2]
KEY = "the-administrators-key"
FAKE = """
import sys, time
import service.program as program
from service.repository import loading
from tests.engines import FakeEngine

def open_bundle(bundle, settings, metrics, tokenizers, **_):
    tokenizer, task = loading.open_task(bundle, tokenizers)
    engine = FakeEngine(*[(0.0,) * width for width in task.widths(bundle.manifest.max_length)])
    BEFORE
    runner = loading.runner(bundle, tokenizer, engine, 64)
    return loading.Opened(bundle, bundle.graph_for("cpu"), "cpu", tokenizer, task, runner, 1)

loading.open_bundle = open_bundle
sys.exit(program.main([]))
"""


def fake(before: str) -> tuple[str, ...]:
    """A service whose engines do this at the start."""
    return "-c", FAKE.replace("BEFORE", before)


class Client:
    """One connection."""

    def __init__(self, url: str) -> None:
        self.connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=20)

    def ask(self, path: str, body: object = None, **headers: str) -> tuple[int, Any]:
        content = None if body is None else json.dumps(body)
        self.connection.request(
            "POST" if content else "GET", path, content, {"Content-Type": "application/json"} | headers
        )
        answer = self.connection.getresponse()
        text = answer.read().decode()
        self.version = answer.headers.get("X-Model-Version", "")
        return answer.status, json.loads(text) if "json" in answer.headers["Content-Type"] else text

    def good(self) -> int:
        return self.ask("/classify", {"text": "a wonderful film"})[0]

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()


def scraped(url: str, pattern: str) -> float:
    """The sum of the samples that a pattern finds."""
    with Client(url) as client:
        text = client.ask("/metrics")[1]
    return sum(float(value) for value in re.findall(rf"^{pattern} (\S+)$", text, re.MULTILINE))


def answered(url: str) -> float:
    return scraped(url, r'bertie_requests_total\{.*route="/classify",status="200"\}')


def until(condition: Callable[[], Any], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.01)


def replaced(url: str, deaths: float) -> bool:
    """Whether so many have died and two serve again."""
    return scraped(url, "bertie_processes_lost_total") == deaths and scraped(url, "bertie_processes") == 2


def children(service: Running) -> list[psutil.Process]:
    return psutil.Process(service.process.pid).children()


def servers(service: Running, url: str = "") -> set[str]:
    """Which processes have answered so far, by the log."""
    return {record["process"] for record in service.log if record["message"] == "request"}


@contextlib.contextmanager
def clients(url: str, count: int) -> Iterator[list[Client]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(Client(url)) for _ in range(count)]


@pytest.fixture(scope="module")
def service(models_dir: Path) -> Iterator[Running]:
    """Two processes and one for the operations' port, for tests that leave them as they are."""
    with running(models_dir, BERTIE_PROCESSES="2", BERTIE_OPS_PORT="0", BERTIE_GRPC_PORT="0") as service:
        yield service


def serving(service: Running) -> dict[str, Any]:
    return next(record for record in service.log if record["message"] == "serving")


class TestServing:
    def test_it_says_so_once(self, service: Running) -> None:
        [said] = [record for record in service.log if record["message"] == "serving"]
        assert (said["processes"], said["models"]) == (2, "nli,qa,sentiment")
        until(lambda: len([record for record in service.log if record["message"] == "loaded"]) == 3)
        assert len(children(service)) == 3

    def test_connections_come_to_each_alike(self, service: Running) -> None:
        before = len(service.log)
        with clients(service.url, 8) as eight:
            for _ in range(2):
                assert [client.good() for client in eight] == [200] * 8
            until(lambda: len([r for r in service.log[before:] if r["message"] == "request"]) == 16)
        by = [record["process"] for record in service.log[before:] if record["message"] == "request"]
        assert 4 <= by.count("0") <= 12
        assert set(by) == {"0", "1"}

    def test_ids_of_requests_differ(self, service: Running) -> None:
        with clients(service.url, 8) as eight:
            for client in eight:
                client.good()
        until(lambda: servers(service) == {"0", "1"})
        ids = [record["request_id"] for record in service.log if record["message"] == "request"]
        assert len(ids) == len(set(ids))

    def test_metrics_are_of_all_wherever_they_are_asked_for(self, service: Running) -> None:
        ops = serving(service)["ops_address"]
        before = answered(ops)
        with clients(service.url, 6) as six:
            for client in six:
                assert client.good() == 200
        assert [answered(url) for url in (service.url, service.url, ops)] == [before + 6] * 3
        assert scraped(ops, "bertie_processes") == scraped(service.url, "bertie_processes") == 2
        assert scraped(ops, "bertie_ready") == 1
        assert scraped(ops, r'bertie_model_info\{.*model="qa".*\}') == 1
        resident = sum(child.memory_full_info().pss for child in children(service))
        resident += psutil.Process(service.process.pid).memory_full_info().pss
        assert scraped(ops, "process_resident_memory_bytes") == pytest.approx(resident, rel=0.2)
        started = psutil.Process(service.process.pid).create_time()
        assert scraped(ops, "process_start_time_seconds") == pytest.approx(started, abs=2)

    def test_probes_and_pages(self, service: Running) -> None:
        for url in (service.url, serving(service)["ops_address"]):
            with Client(url) as client:
                assert client.ask("/health/ready") == (200, {"status": "ready"})
                assert client.ask("/health/live") == (200, {"status": "live"})
        with Client(serving(service)["ops_address"]) as client:
            assert client.ask("/classify", {"text": "good"})[0] == 404

    def test_grpc(self, service: Running) -> None:
        for _ in range(4):
            options = [("grpc.use_local_subchannel_pool", 1)]
            with grpc.insecure_channel(serving(service)["grpc_address"], options) as channel:
                ready = channel.unary_unary("/inference.GRPCInferenceService/ServerReady")
                assert ready(b"", timeout=10) == b"\x08\x01"

    def test_the_memory_of_one_more_is_small(self, service: Running) -> None:
        private = [child.memory_full_info() for child in children(service)]
        assert all(each.pss < 100e6 for each in private)


def test_one_that_is_killed_loses_only_what_it_ran(models_dir: Path) -> None:
    with running(models_dir, BERTIE_PROCESSES="2", BERTIE_OPS_PORT="0") as service:
        ops, ended = serving(service)["ops_address"], threading.Event()
        address = urlsplit(service.url)
        good, lost, refused, not_ready = [0], [0], [0], [0]

        def post() -> None:
            client = Client(service.url)
            while not ended.is_set():
                try:
                    good[0] += client.good() == 200
                except (http.client.HTTPException, OSError) as error:
                    lost[0] += 1
                    refused[0] += isinstance(error, ConnectionRefusedError)
                    client = Client(service.url)

        def connect() -> None:
            while not ended.is_set():
                try:
                    socket.create_connection((address.hostname, address.port), timeout=10).close()
                except ConnectionRefusedError:
                    refused[0] += 1
                with Client(ops) as client:
                    not_ready[0] += client.ask("/health/ready")[0] != 200
                time.sleep(0.005)

        threads = [threading.Thread(target=work) for work in (*[post] * 8, connect)]
        for thread in threads:
            thread.start()
        for _ in range(2):
            good[0] = 0
            until(lambda: good[0] > 20)
            counted, deaths = answered(ops), scraped(ops, "bertie_processes_lost_total")
            victim = max(children(service), key=lambda child: sum(child.cpu_times()[:2]))
            os.kill(victim.pid, signal.SIGKILL)
            until(partial(replaced, ops, deaths + 1))
            assert answered(ops) >= counted  # no counter goes down
        ended.set()
        for thread in threads:
            thread.join()
        assert (refused, not_ready) == ([0], [0])
        assert 1 <= lost[0] <= 16
        before = answered(ops)
        with clients(service.url, 4) as four:
            assert [client.good() for client in four] == [200] * 4
        assert answered(ops) == answered(service.url) == before + 4
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(20) == 0
    warned = [record["message"] for record in service.log if record["level"] == "warning"]
    assert len(warned) == 2
    assert all("was killed by SIGKILL; another takes its place in 0.0 s" in message for message in warned)
    assert service.log[-1]["message"] == "stopped"


def test_sigterm_finishes_what_was_admitted(models_dir: Path) -> None:
    command = fake("engine.seconds = 2.0")
    with running(models_dir, command=command, BERTIE_PROCESSES="2", BERTIE_OPS_PORT="0") as service:
        with clients(service.url, 4) as four, ThreadPoolExecutor() as pool:
            answers = [pool.submit(client.good) for client in four]
            time.sleep(0.7)
            service.process.send_signal(signal.SIGTERM)
            with Client(serving(service)["ops_address"]) as client:
                until(lambda: client.ask("/health/ready")[0] == 503)
                assert client.ask("/health/live")[0] == 200
            assert [answer.result() for answer in answers] == [200] * 4
        assert service.process.wait(20) == 0
    with pytest.raises(ConnectionRefusedError), Client(service.url) as client:
        client.good()


def test_a_terminals_signal_comes_to_each_and_ends_none_at_once(models_dir: Path) -> None:
    """And one from the parent besides; a second ends it now."""
    with running(models_dir, command=fake("engine.seconds = 3.0"), BERTIE_PROCESSES="2") as service:
        with clients(service.url, 2) as two, ThreadPoolExecutor() as pool:
            answers = [pool.submit(client.good) for client in two]
            until(lambda: scraped(service.url, "process_open_fds") > 0)
            time.sleep(0.3)
            for process in (*children(service), psutil.Process(service.process.pid)):
                process.send_signal(signal.SIGINT)
            time.sleep(1.0)
            assert not any(answer.done() for answer in answers)
            began = time.monotonic()
            service.process.send_signal(signal.SIGINT)
            assert [answer.result() for answer in answers] == [503] * 2
            assert time.monotonic() - began < 1.5
        assert service.process.wait(20) == 0


def test_sighup_stops_it_too_and_sessions_with_threads_are_opened_in_each(models_dir: Path) -> None:
    with running(models_dir, BERTIE_PROCESSES="2", BERTIE_INTRA_OP_THREADS="2") as service:
        with clients(service.url, 4) as four:
            assert [client.good() for client in four] == [200] * 4
        service.process.send_signal(signal.SIGHUP)
        assert service.process.wait(20) == 0
    assert serving(service)["models"] == "nli,qa,sentiment"


def test_what_is_promoted_in_one_reaches_all(tmp_path: Path) -> None:
    for version in ("1", "2"):
        make_version(tmp_path, "sentiment", version)
    (tmp_path / "sentiment" / "rollout.json").write_text('{"stable": "1", "previous": ["2"], "warm": 1}')

    def versions() -> set[str]:
        with clients(service.url, 6) as six:
            assert [client.good() for client in six] == [200] * 6
            return {client.version for client in six}

    with running(tmp_path, BERTIE_PROCESSES="2", BERTIE_ADMIN_KEY=KEY) as service:
        assert versions() == {"1"}
        with Client(service.url) as client:
            status, _ = client.ask("/admin/models/sentiment/promote", {"version": "2"}, Authorization=f"Bearer {KEY}")
            assert status == 200
        began = time.monotonic()
        until(lambda: versions() == {"2"})
        assert time.monotonic() - began < 5
        make_version(tmp_path, "sentiment", "3")
        with Client(service.url) as client:
            status, _ = client.ask("/admin/models/sentiment/promote", {"version": "3"}, Authorization=f"Bearer {KEY}")
        until(lambda: versions() == {"3"})
        for child in children(service):  # whoever comes in their place has what is stable now
            os.kill(child.pid, signal.SIGKILL)
            until(lambda: len(children(service)) == 2)
        until(lambda: scraped(service.url, "bertie_processes") == 2)
        assert versions() == {"3"}


def test_who_comes_after_serves_what_the_parent_holds_where_the_disk_is_gone(tmp_path: Path) -> None:
    make_version(tmp_path, "sentiment", "1")
    make_version(tmp_path, "nli", "1")
    with running(tmp_path, BERTIE_PROCESSES="2") as service:
        for folder, broken in ((tmp_path / "nli", tmp_path / "nli-away"), (tmp_path, tmp_path.with_suffix(".away"))):
            folder.rename(broken)
            os.kill(children(service)[0].pid, signal.SIGKILL)
            until(lambda: len(children(service)) == 2)
            until(lambda: scraped(service.url, "bertie_processes") == 2)
            with clients(service.url, 4) as four:
                assert [client.good() for client in four] == [200] * 4
        assert any("as they were at the start" in record["message"] for record in service.log)


def test_a_bundle_from_elsewhere(models_dir: Path, tmp_path: Path) -> None:
    reference = f"sentiment=file://{models_dir / 'sentiment'}"
    folder = tmp_path / "none"
    for threads in ("1", "2"):  # opened by the parent, and by each
        settings = {"BERTIE_PROCESSES": "2", "BERTIE_MODELS": reference, "BERTIE_CACHE_DIR": str(tmp_path / "cache")}
        with running(folder, **settings, BERTIE_INTRA_OP_THREADS=threads) as service:
            assert serving(service)["models"] == "sentiment"
            os.kill(children(service)[0].pid, signal.SIGKILL)
            until(lambda: len(children(service)) == 2)
            until(lambda: scraped(service.url, "bertie_processes") == 2)
            with clients(service.url, 4) as four:
                assert [client.good() for client in four] == [200] * 4


def test_whose_parent_is_killed_finishes_and_ends(models_dir: Path) -> None:
    with running(models_dir, BERTIE_PROCESSES="2", BERTIE_OPS_PORT="0") as service:
        left = children(service)
        service.process.kill()
        _, alive = psutil.wait_procs(left, timeout=20)
        assert not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]


def start(models_dir: Path, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a service that is not expected to start."""
    settings = {"BERTIE_MODELS_DIR": str(models_dir), "BERTIE_PORT": "0", "BERTIE_PROCESSES": "2"}
    return subprocess.run(
        [sys.executable, *(command or ("-m", "service"))],
        env=os.environ | settings | environment,
        cwd=ROOT,
        text=True,
        capture_output=True,
        timeout=60,
    )


def test_a_port_in_use(models_dir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for name in ("PORT", "OPS_PORT", "GRPC_PORT"):
            result = start(models_dir, **{f"BERTIE_{name}": port})
            assert result.returncode == CANNOT_START
            [line] = result.stderr.splitlines()
            assert f"cannot listen on 127.0.0.1 port {port}: Address already in use" in line


def test_a_broken_bundle(bundle_factory: Callable[..., Path]) -> None:
    folder = bundle_factory("sentiment", name="mine")
    (folder / "tokenizer.json").write_text("{}")
    result = start(folder.parent)
    assert result.returncode == CANNOT_START
    [line] = result.stderr.splitlines()
    assert "cannot start: bundle 'mine': tokenizer.json" in line
    result = start(folder.parent, BERTIE_INTRA_OP_THREADS="2")  # now each process finds it
    assert result.returncode == CANNOT_START
    assert "cannot start: bundle 'mine': tokenizer.json" in result.stderr


def test_threads_that_a_fork_would_leave_behind(models_dir: Path) -> None:
    result = start(
        models_dir, *fake("import threading; threading.Thread(target=time.sleep, args=(9,), daemon=True).start()")
    )
    assert result.returncode == CANNOT_START
    [line] = result.stderr.splitlines()
    assert "threads, which a fork would leave behind" in line


def test_a_signal_while_models_are_loaded(models_dir: Path) -> None:
    result = start(models_dir, *fake("import os, signal; os.kill(os.getpid(), signal.SIGTERM)"))
    assert (result.returncode, result.stderr.count("stopped")) == (0, 1)


class TestPlaces:
    def test_one_is_one(self) -> None:
        assert len(several.find_places(Settings())) == 1

    def test_so_many_as_are_asked_for(self) -> None:
        assert len(several.find_places(Settings(processes=3))) == 3

    def test_chosen_by_the_machine(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(several.processor, "cpu_quota", lambda: 16)
        monkeypatch.setattr(placement, "find_nodes", lambda allowed: {})
        assert several.find_places(Settings(processes=0)) == [Place(4)] * 4
        monkeypatch.setattr(several.session, "has_cuda", lambda: True)
        monkeypatch.setattr(placement, "find_gpus", lambda: [Gpu("0"), Gpu("1")])
        assert several.find_places(Settings(processes=0)) == [Place(8, None, "0"), Place(8, None, "1")]
        assert several.find_places(Settings(processes=0, device="cpu")) == [Place(4)] * 4

    def test_elsewhere_there_is_one(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delattr(os, "memfd_create")
        assert len(several.find_places(Settings(processes=0))) == 1
        with pytest.raises(ConfigurationError, match="wants Linux"):
            several.find_places(Settings(processes=2))

    def test_a_process_keeps_to_its_place(self) -> None:
        program = (
            "import os; from service import several; from service.engine.processor import cpu_quota; "
            "from service.processes.placement import Place; cpu = min(os.sched_getaffinity(0)); "
            "several._settle(Place(1, frozenset({cpu}), 'GPU-3f')); "
            "assert os.sched_getaffinity(0) == {cpu}; assert cpu_quota() == 1; "
            "assert os.environ['CUDA_VISIBLE_DEVICES'] == 'GPU-3f'"
        )
        subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, timeout=60)
