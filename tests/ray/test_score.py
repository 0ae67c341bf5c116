"""Scoring on a cluster: the same output as without, whichever process dies."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

ray = pytest.importorskip("ray")

from service.inprocess import load  # noqa: E402
from service.scoring.cluster import connect, scoring  # noqa: E402
from service.scoring.errors import ScoringError  # noqa: E402
from service.scoring.plan import Settings, make  # noqa: E402
from service.scoring.storage import Folder, find  # noqa: E402

ROOT = Path(__file__).parents[2]
ROWS = 24_000


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Rows of JSON lines; every hundredth is bad."""
    texts = ("a good film", "an awful film", "the dogs are happy", "boring")
    path = tmp_path / "rows.jsonl"
    rows = ({"id": i, "text": texts[i % 4] if i % 100 else ""} for i in range(ROWS))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def command(models_dir: Path, source: Path, out: Path, *more: object) -> list[str]:
    arguments = ("score", models_dir / "sentiment", source, out, "--part-rows", 1000, *more)
    return [sys.executable, "-m", "service", *map(str, arguments)]


def complete(out: Path) -> None:
    """Each row is in the output once, and in order."""
    lines = [line for path in sorted(out.glob("part-*")) for line in path.read_text().splitlines()]
    assert [json.loads(line)["id"] for line in lines] == [i for i in range(ROWS) if i % 100]
    lines = [line for path in sorted(out.glob("_rej*")) for line in path.read_text().splitlines()]
    assert [json.loads(line)["row"] for line in lines] == list(range(0, ROWS, 100))
    assert json.loads((out / "_SUCCESS").read_text())["rows"] == ROWS - ROWS // 100


def wait_for(out: Path, parts: int) -> None:
    deadline = time.monotonic() + 120
    while len(list(out.glob("_done/0*.json"))) < parts:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_cluster_writes_what_one_process_writes(cluster: Any, models_dir: Path, source: Path, tmp_path: Path) -> None:
    alone, together = tmp_path / "alone", tmp_path / "together"
    subprocess.run(command(models_dir, source, alone, "--threads", 1), cwd=ROOT, check=True, timeout=120)
    done = subprocess.run(
        command(models_dir, source, together, "--ray", cluster.address),
        cwd=ROOT, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    complete(together)
    for path in sorted(alone.glob("[p_]*-0*")):
        assert (together / path.name).read_bytes() == path.read_bytes(), path.name
    assert f"{ROWS:,} of {ROWS:,} rows (100.0%)" in done.stderr


def test_a_node_that_is_killed_costs_no_row(cluster: Any, models_dir: Path, source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run = subprocess.Popen(command(models_dir, source, out, "--ray", cluster.address), cwd=ROOT)
    try:
        wait_for(out, 4)
        node = min(cluster.worker_nodes, key=lambda each: each.unique_id)
        cluster.remove_node(node, allow_graceful=False)  # kill -9
        assert run.wait(timeout=240) == 0
    finally:
        run.kill()
    complete(out)


def test_a_driver_that_is_killed_goes_on(cluster: Any, models_dir: Path, source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = command(models_dir, source, out, "--ray", cluster.address)
    run = subprocess.Popen(arguments, cwd=ROOT)
    try:
        wait_for(out, 4)
    finally:
        run.send_signal(signal.SIGKILL)
    assert run.wait(timeout=30) == -signal.SIGKILL
    assert not (out / "_SUCCESS").exists()
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert "0 of them done" not in done.stderr
    complete(out)


def test_what_stops_a_worker_is_told_in_one_line(cluster: Any, models_dir: Path, source: Path, tmp_path: Path) -> None:
    model, folder = load(models_dir / "sentiment", threads=1).model, Folder(str(tmp_path / "out"))
    settings = Settings(input="", model="sentiment", model_digest="", columns={}, options={})
    plan = make(settings, find(str(source)), model)
    os.utime(source, (1, 1))
    connect(cluster.address)
    try:
        score = scoring(plan, model.bundle, folder, device="cpu", workers=1)
        with pytest.raises(ScoringError, match=r"^[^\n]*has changed since the run began[^\n]*$"):
            list(score(plan.parts, lambda rows, rejected: None))
    finally:
        ray.shutdown()
    assert not (tmp_path / "out/_done").exists()


def test_nobody_at_the_address_is_told_in_seconds(models_dir: Path, source: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:  # something that is no Ray
        port = mute.getsockname()[1]
        for address in (f"127.0.0.1:{port}", "127.0.0.1:1", "here"):
            began = time.monotonic()
            done = subprocess.run(
                command(models_dir, source, tmp_path / "out", "--ray", address),
                cwd=ROOT, capture_output=True, text=True, timeout=120,
            )  # fmt: skip
            assert done.returncode == 1
            assert address in done.stderr.splitlines()[-1]
            assert time.monotonic() - began < 40
    assert not (tmp_path / "out").exists()
