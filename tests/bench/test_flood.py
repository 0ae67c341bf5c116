"""What a flood's answers show, and a flood of a tiny service."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import client, flood, rows, serving
from bench.client import Answer
from bench.errors import BenchError
from bench.flood import Flood


def requests(url: str, size: int) -> Iterator[bytes]:
    body = {"inputs": [{"text": text} for text in rows.sentences()[:size]]}
    return itertools.repeat(client.request(url, json.dumps(body).encode()))


def answer(status: int, sent: float, received: float, retry_after: float | None = None) -> Answer:
    return Answer(status, b"", retry_after, sent, received)


def test_summary_by_hand() -> None:
    """Ten requests of 4 rows in two seconds against a peak of 20 rows/s; nobody is admitted from 0.2 to 1.9 s."""
    admitted = [answer(200, 0.0, 0.5), answer(200, 0.1, 1.0), answer(200, 0.2, 1.5), answer(200, 1.9, 2.5)]
    told = {0.38: 4.0, 0.58: 1.0, 1.28: 1.0, 1.58: 1.0, 1.78: 1.0, 2.0: 1.0}
    refused = [answer(429, at, at + 0.02, seconds) for at, seconds in told.items()]
    found = flood.summary([*admitted, *refused], [answer(200, 1, 2), answer(429, 1, 2)], rows=4, peak=20, began=0.0)
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
    assert "within 2 × for 40%" in found.words()
    assert "1 of 2 who obeyed" in found.words()


def test_summary_without_refusals() -> None:
    found = flood.summary([answer(200, 0.0, 0.5)], [], rows=1, peak=2, began=0.0)
    assert found.told is None
    assert "no Retry-After" in found.words()


def test_a_flood_is_refused(models_dir: Path) -> None:
    """A queue of one row and many clients: some of it must be 429, with a Retry-After, and nothing else goes wrong."""
    with serving.bertie(models_dir, ("sentiment",), BERTIE_MAX_QUEUE_TOKENS="64", BERTIE_WORKERS="1") as (_, url):
        found = flood.measure(f"{url}/classify", requests(f"{url}/classify", 8), rows=8, seconds=0.6, times=6)
    assert found.peak > 0
    assert 0 < found.refused < 1
    assert found.other == 0
    assert found.told is not None
    assert found.told >= 1


def test_a_503_is_a_refusal_too() -> None:
    found = flood.summary([answer(200, 0, 1), answer(503, 0, 0.1), answer(500, 0, 0.1)], [], rows=1, peak=1, began=0)
    assert (found.refused, found.other) == (pytest.approx(1 / 3), 1)


def test_the_table_has_medians_over_the_rounds() -> None:
    def one(peak: float, goodput: float) -> Flood:
        return Flood(1, peak, 10.0, goodput, 0.5, 2.0, 0.9, 0.1, 1, None, 0.0, 0.0, 0.0, 0, 0)

    table = flood.table({"bertie": [one(100, 0.8), one(300, 0.9), one(200, 0.85)]})
    assert table.rows == (("bertie", "200", "10.0", "85%", "0.5", "2", "90%", "100", "3"),)
    assert len(table.columns) == len(table.rows[0])


def test_more_connections_than_descriptors_are_refused() -> None:
    with pytest.raises(BenchError, match="descriptors"):
        flood.allow(2**31)
