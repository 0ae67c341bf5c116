"""What is told of a flood and of starvation, and both programs on a tiny service."""

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
from service.engine.tokenizer import Tokenizer
from service.predictor import make_task
from service.repository import bundle as bundles
from service.tasks import ClassificationExample


def answer(status: int, sent: float, received: float, retry_after: float | None = None) -> Answer:
    return Answer(status, b"", retry_after, sent, received)


def test_summary_by_hand() -> None:
    """Ten requests of 4 rows in two seconds against a peak of 20 rows/s; nobody is admitted from 0.2 to 1.9 s."""
    admitted = [answer(200, 0.0, 0.5), answer(200, 0.1, 1.0), answer(200, 0.2, 1.5), answer(200, 1.9, 2.5)]
    told = {0.38: 4.0, 0.58: 1.0, 1.28: 1.0, 1.58: 1.0, 1.78: 1.0, 2.0: 1.0}
    refused = [answer(429, at, at + 0.02, seconds) for at, seconds in told.items()]
    found = overload.summary([*admitted, *refused], [answer(200, 1, 2), answer(429, 1, 2)], size=4, peak=20, began=0.0)
    assert found.goodput == pytest.approx(4 * 4 / 2.5 / 20)
    assert found.offered == pytest.approx(10 * 4 / 2.0 / 20)
    assert found.refused == 0.6
    assert found.admitted_p99 == pytest.approx(1.3)
    assert found.refused_p99 == pytest.approx(0.02)
    # From 0.4, 0.6, 1.3, 1.6 and 1.8 to 1.9; after the last refusal came nobody.
    assert (found.told, found.reopened) == (1.0, pytest.approx(0.6))
    assert found.right == pytest.approx(2 / 5)
    assert found.rounded == pytest.approx(4 / 5)
    assert (found.obeyed, found.readmitted, found.other) == (2, 1, 0)
    assert "within 2 × for 40%" in overload.tell(found)
    assert "1 of 2 who obeyed" in overload.tell(found)


def test_summary_without_refusals() -> None:
    found = overload.summary([answer(200, 0.0, 0.5)], [], size=1, peak=2, began=0.0)
    assert found.told is None
    assert "no 429" in overload.tell(found)


def test_a_flood_is_refused(models_dir: Path) -> None:
    """A queue of one row and many callers: some of it must be 429, with a Retry-After, and nothing else goes wrong."""
    with serving.bertie(models_dir, ("sentiment",), BERTIE_MAX_QUEUE_TOKENS="64", BERTIE_WORKERS="1") as (_, url):
        found = overload.overload(f"{url}/classify", size=8, seconds=0.6, times=6)
    assert found.peak > 0
    assert 0 < found.refused < 1
    assert found.other == 0
    assert found.told is not None
    assert found.told >= 1


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
    task: Any = make_task(bundles.load(folder), Tokenizer.from_file(folder / bundles.TOKENIZER))
    lengths: list[int] = []

    async def closed(url: str, feed: Iterator[bytes], **_: Any) -> list[Answer]:
        for data in itertools.islice(feed, 40):
            text = json.loads(data.split(b"\r\n\r\n", 1)[1])["text"]
            lengths.append(len(task.encode([ClassificationExample(text)])[0][0]))
        return [answer(200, 0.0, 0.1)] * len(lengths)

    monkeypatch.setattr(overload.client, "closed", closed)
    # A quarter of what is computed is padding, in batches of four.
    monkeypatch.setattr(overload, "_computed", lambda url: (100 + sum(lengths) / 0.75, 7 + len(lengths) / 4))
    found = overload.padding("http://127.0.0.1:1", folder, seconds=1)
    assert len(set(lengths)) > 5
    assert found == {"connections": overload.CALLERS, "share": pytest.approx(0.25), "batches": 10, "rows": 4.0}


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
