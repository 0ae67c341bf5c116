"""A revision beside this tree: its code is what runs, figures are paired, and nothing is left behind."""

import contextlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import __main__ as program
from bench import against, client, serving
from bench.against import Revision
from bench.errors import BenchError
from bench.report.results import Point, Report, Service

OTHER = """
import os
from http.server import BaseHTTPRequestHandler, HTTPServer
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        body = os.environ["BERTIE_MODELS"].encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
HTTPServer(("127.0.0.1", int(os.environ["BERTIE_PORT"])), Handler).serve_forever()
"""


def worktrees() -> str:
    done = subprocess.run(["git", "worktree", "list"], cwd=serving.ROOT, capture_output=True, text=True, check=True)
    return done.stdout


def test_a_revision_is_checked_out_for_a_while() -> None:
    with against.checked_out("HEAD") as revision:
        assert revision.tree.name == revision.name
        assert (revision.tree / "service" / "__main__.py").is_file()
        assert str(revision.tree) in worktrees()
    assert not revision.tree.exists()
    assert str(revision.tree) not in worktrees()


def test_nothing_is_left_where_the_run_fails() -> None:
    with pytest.raises(ZeroDivisionError), against.checked_out("HEAD") as revision:
        raise ZeroDivisionError
    assert str(revision.tree) not in worktrees()


@pytest.mark.parametrize("revision", ["no-such-revision", "--help"])
def test_an_unknown_revision_is_told(revision: str) -> None:
    with pytest.raises(BenchError, match="git rev-parse"), against.checked_out(revision):
        pass


def test_the_service_of_the_other_tree_is_what_runs(tmp_path: Path) -> None:
    (tmp_path / "service").mkdir()
    (tmp_path / "service" / "__init__.py").write_text("")
    (tmp_path / "service" / "__main__.py").write_text(OTHER)
    with serving.bertie(tmp_path, ("a", "b"), tree=tmp_path) as (_, url):
        assert client.get(url).body == b"a,b"


def service(name: str, rates: tuple[float, ...], **changes: object) -> Service:
    points = tuple(Point(rate, 1 / rate, 2 / rate, 3 / rate, 0.5 / rate, 1, 1, 1, 1) for rate in rates)
    return Service(name, "single", "graph", name, "", points={8: points}, **changes)  # type: ignore[arg-type]


def test_ratios_are_of_rounds_against_the_same_round() -> None:
    mine = service("bertie", (100.0, 200.0, 330.0), ready=(1.0, 3.0), idle_rss=(100_000_000, 300_000_000))
    other = service("bertie@abc", (100.0, 100.0, 300.0), ready=(2.0, 3.0), idle_rss=(100_000_000, 200_000_000))
    report = Report((mine, other), (), (), {"against": "abc"}, {}, "")
    speed, starts = against.tables(report)
    assert speed.rows == (
        ("bertie@abc", "8", "200", "100", "1.10", "1.00–2.00", "0.91", "0.91", "0.91", "400", "200", "1.10", "3", "3"),
    )
    assert starts.rows == (("bertie@abc", "2.00", "2.50", "0.75", "0.50–1.00", "200", "150", "1.25"),)
    for table in (speed, starts):
        assert all(len(row) == len(table.columns) for row in table.rows)


def test_a_service_without_an_answer_has_no_ratio() -> None:
    mine, dead = service("bertie", (100.0,)), Service(
        "mosec", "single", "graph", "", "", points={8: (Point(0.0, *(float("nan"),) * 4, 1, 1, 1, 9),)}
    )  # fmt: skip
    (table,) = against.tables(Report((mine, dead), (), (), {}, {}, ""))
    assert table.rows[0][4:6] == ("nan", "nan–nan")


def test_a_run(
    models_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Bertie twice, on sentences and on questions, and both under a flood."""

    @contextlib.contextmanager
    def checked_out(revision: str) -> Iterator[Revision]:
        yield Revision(revision, serving.ROOT)

    monkeypatch.setattr(against, "checked_out", checked_out)
    monkeypatch.setattr(serving, "SETTLE_SECONDS", 0.1)
    arguments = (
        "--against abc --flood 64 --peers bertie,bertie-qa --rounds 2 --seconds 0.2 --warm-up 0.1 --client python"
    )
    folders = ["--bundle", str(models_dir / "sentiment"), "--qa-bundle", str(models_dir / "qa"), "--out", str(tmp_path)]
    assert program.main([*arguments.split(), "--connections", "2", *folders]) == 0
    found = json.loads((tmp_path / "bench.json").read_text())
    services = {each["name"]: each for each in found["services"]}
    assert list(services) == ["bertie", "bertie@abc", "bertie-qa", "bertie-qa@abc"]
    assert all(not each["skipped"] for each in services.values())
    for name, connections in (("bertie", "2"), ("bertie@abc", "2"), ("bertie-qa", "8"), ("bertie-qa@abc", "8")):
        points = services[name]["points"][connections]
        assert len(points) == 2
        assert all(point["rows_per_second"] > 0 and not point["errors"] for point in points)
    assert all(len(services[name]["ready"]) == 2 for name in ("bertie", "bertie@abc"))
    assert all(min(services[name]["idle_rss"]) > 20e6 for name in ("bertie", "bertie@abc"))
    assert {name: len(each) for name, each in found["floods"].items()} == {"bertie": 2, "bertie@abc": 2}
    shown = capsys.readouterr().out
    for title in ("Side by side, in alternation", "Start and idle memory", "Under the same flood"):
        assert title in shown
