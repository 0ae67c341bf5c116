"""Starvation and padding, and how soon a tiny service is ready."""

import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench import overload, serving, startup
from bench.client import Answer
from bench.errors import BenchError
from bench.graphs.inprocess import Opened


def answer(status: int, sent: float, received: float) -> Answer:
    return Answer(status, b"", None, sent, received)


def test_starvation_posts_documents_of_100_windows(models_dir: Path) -> None:
    with serving.bertie(models_dir, ("sentiment", "qa")) as (_, url):
        context = overload.document(url)
        body = json.dumps({"question": "What is the film about?", "context": context}).encode()
        (told,) = overload.client.post(f"{url}/qa", [body])
        assert told.json()["windows"] == pytest.approx(overload.WINDOWS, rel=0.2)
        found = overload.starvation(url, connections=1, seconds=0.3, rounds=1)
    assert found["documents"] >= 1
    assert found["p95_with"] > 0
    assert found["ratio"] == pytest.approx(found["p95_with"] / found["p95_without"])


def test_padding_is_what_was_computed_beyond_the_texts(models_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = models_dir / "sentiment"
    opened = Opened(folder)
    lengths: list[int] = []

    async def closed(url: str, feed: Iterator[bytes], **_: Any) -> list[Answer]:
        for data in itertools.islice(feed, 40):
            text = json.loads(data.split(b"\r\n\r\n", 1)[1])["text"]
            lengths.append(len(opened.sentence_rows([text])[0]))
        return [answer(200, 0.0, 0.1)] * len(lengths)

    monkeypatch.setattr(overload.client, "closed", closed)
    # A quarter of what is computed is padding, in batches of four.
    monkeypatch.setattr(overload, "_computed", lambda url: (100 + sum(lengths) / 0.75, 7 + len(lengths) / 4))
    found = overload.padding("http://127.0.0.1:1", folder, seconds=1)
    assert len(set(lengths)) > 5
    assert found == {"connections": overload.CLIENTS, "share": pytest.approx(0.25), "batches": 10, "rows": 4.0}


def test_padding_of_a_service(models_dir: Path) -> None:
    """Its own counts are read: no fewer tokens were computed than were asked for."""
    with serving.bertie(models_dir, ("sentiment",), BERTIE_MAX_BATCH_TOKENS="4096") as (_, url):
        found = overload.padding(url, models_dir / "sentiment", seconds=0.3)
    assert found["batches"] > 0
    assert found["rows"] >= 1
    assert 0 <= found["share"] < 0.9


def test_startup_tells_what_is_wanted(models_dir: Path) -> None:
    found = startup.measure(models_dir, rounds=1, idle_seconds=0.2)
    assert set(startup.WANTED) <= set(found)
    assert 0 < found["import_seconds"] < found["program_import_seconds"] < found["ready_seconds"]
    assert found["idle_rss"] > 20e6


def test_service_and_load_have_cores_of_their_own() -> None:
    cores = os.sched_getaffinity(0)
    with overload._placed(apart=False) as settle:
        settle()
        assert os.sched_getaffinity(0) == cores
    if len(cores) < 2:
        with pytest.raises(BenchError, match="there is one core"), overload._placed(apart=True):
            pass
        return
    with overload._placed(apart=True) as settle:
        service = os.sched_getaffinity(0)
        settle()
        load = os.sched_getaffinity(0)
    assert len(load) == 1
    assert service | load == cores
    assert not service & load
    assert os.sched_getaffinity(0) == cores
