"""The harness, whole: Bertie with a tiny bundle beside a peer that is a few lines, and one that is not installed."""

import json
from pathlib import Path

import pytest

from bench import __main__ as program
from bench.errors import BenchError
from bench.peers import roster
from bench.peers.order import Configuration, Order
from bench.peers.roster import BERTIE, Peer
from bench.rounds import load_maker

FAKE = Peer("fake", "single", ("-m", "tests.bench.fake_peer"), "/", (), "graph", "says positive")
ABSENT = Peer("absent", "single", ("-m", "nowhere"), "/", ("no_such_module",), "graph", "is not installed")
BROKEN = Peer("broken", "single", ("-m", "tests.bench.no_such_file"), "/", (), "graph", "does not start")
SERVICES = (Peer("bertie", "single", BERTIE, "/classify", (), "graph", "Bertie", fixed=True), FAKE, ABSENT, BROKEN)
SHORT = "--rounds 1 --seconds 0.2 --warm-up 0.1 --connections 2 --batched 1 --tune-connections 1 --client python"


def test_a_run(
    models_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(roster, "PEERS", SERVICES)
    page = tmp_path / "performance.md"
    page.write_text("<!-- bench: services -->\n<!-- /bench -->\n")
    arguments = ["--bundle", str(models_dir / "sentiment"), "--out", str(tmp_path / "out"), "--fill", str(page)]
    assert program.main([*SHORT.split(), *arguments]) == 0
    shown = capsys.readouterr().out
    found = json.loads((tmp_path / "out" / "bench.json").read_text())
    services = {service["name"]: service for service in found["services"]}

    (mine,) = services["bertie"]["points"]["2"]
    assert mine["rows_per_second"] > 0
    assert mine["errors"] == 0
    assert 0 < mine["p50"] <= mine["p99"] < 5
    assert mine["cpu_seconds"] > 0
    assert mine["peak_rss"] > 20e6
    assert services["bertie"]["agreement"] == "32 of 32"

    # Four configurations were tried; those that may batch 32 are the fast ones.
    assert len(services["fake"]["tried"]) >= 3
    assert "batches to 32" in services["fake"]["configuration"]
    assert services["fake"]["agreement"] != "32 of 32", "the sentences have both labels"

    assert services["absent"]["skipped"] == "no_such_module is not installed"
    assert "No module named" in services["broken"]["skipped"]
    assert "no_such_module is not installed" in shown
    assert {run["in_flight"] for run in found["bare"]} == {2, 32}
    assert all(run["rows_per_second"] > 0 for run in found["bare"])
    assert "| bertie | 2 |" in page.read_text()
    assert (tmp_path / "performance.svg").read_text().startswith("<svg")


def test_an_unknown_peer_is_told(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert program.main(["--peers", "mossec", "--out", str(tmp_path)]) == 1
    assert "'mossec' is not one of bertie, naive" in capsys.readouterr().err


def test_without_wrk_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(BenchError, match="--client python"):
        load_maker("wrk")


def test_every_peer_has_as_many_threads_as_there_are_cores() -> None:
    for peer in roster.PEERS:
        for cores in (1, 2, 8):
            for how in peer.configurations(cores):
                assert how.workers * how.threads == cores


def test_every_peers_program_is_there() -> None:
    root = Path(__file__).parents[2]
    for peer in roster.PEERS:
        path = root.joinpath(*peer.command[1].split("."))
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file()


def test_an_order_reaches_its_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    from bench.peers import order

    given = Order(1234, "bundle", "", Configuration(2, 1, batch=8, wait_ms=2.5))
    for name, value in given.environment().items():
        monkeypatch.setenv(name, value)
    assert order.read() == given
    assert given.environment()["OMP_NUM_THREADS"] == "1"


def test_bodies() -> None:
    by_name = {peer.name: peer for peer in roster.PEERS}
    assert json.loads(by_name["mosec"].body(["a"])) == {"text": "a"}
    assert json.loads(by_name["bertie-32"].body(["a", "b"])) == {"inputs": [{"text": "a"}, {"text": "b"}]}
    assert json.loads(by_name["bertie-qa"].body(["q", "c"])) == {"question": "q", "context": "c"}
    assert json.loads(by_name["bentoml"].body(["a"])) == {"texts": ["a"]}
