"""A short soak of a real process, and the verdict: memory that grew, or an answer that was not 200, fails it."""

import contextlib
import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import serving, soak
from bench.soak import Sample, Soak

REQUESTS = 1500


def test_short_soak(models_dir: Path) -> None:
    with serving.bertie(models_dir) as (server, url):
        found = soak.run(server, url, requests=REQUESTS, connections=4)
    assert found.statuses == {200: REQUESTS}
    assert found.samples[-1].requests == REQUESTS
    # So few requests leave allocators some room to settle: the long form holds it to 2 %.
    assert found.growth < 0.10, [sample.rss for sample in found.samples]
    assert found.leaked_threads <= 2
    assert found.leaked_descriptors <= 8  # connections of the last portion that are just being closed


def test_shapes_are_random_and_the_same_for_a_seed(models_dir: Path) -> None:
    with serving.bertie(models_dir, ("sentiment", "qa")) as (_, url):
        first, again, other = (list(itertools.islice(soak.shapes(url, seed), 200)) for seed in (1, 1, 2))
    assert first == again != other
    assert {path for path, _ in first} == {"/classify", "/qa"}
    assert not any("premise" in body or "candidate_labels" in body for _, body in first), "NLI is not served here"
    lengths = {len(body["text"]) for _, body in first if "text" in body}
    assert len(lengths) > 40


@pytest.mark.parametrize(("last", "growth"), [((100, 100, 100), 0.0), ((100, 103, 101), 0.03), ((80, 80, 90), -0.1)])
def test_growth_is_from_the_settled_size_to_the_highest_of_the_last(last: tuple[int, ...], growth: float) -> None:
    rss = (100, 90, *last)
    found = Soak(tuple(Sample(i, size, 10 + i, 20) for i, size in enumerate(rss)), {200: 5})
    assert found.growth == pytest.approx(growth)
    assert found.leaked_threads == 4
    assert found.leaked_descriptors == 0


@contextlib.contextmanager
def nobody(*_: object) -> Iterator[tuple[None, str]]:
    yield None, ""


@pytest.mark.parametrize(
    ("last", "statuses", "status"),
    [
        (100, {200: 9}, 0),
        (103, {200: 9}, 1),
        (100, {200: 8, 500: 1}, 1),
        (100, {200: 8, 503: 1}, 1),
        (100, {200: 8, 422: 1}, 1),
        (100, {200: 8, 0: 1}, 1),
    ],
)
def test_verdict(
    last: int, statuses: dict[int, int], status: int,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    found = Soak((Sample(1, 100, 1, 1), Sample(9, last, 1, 1)), statuses)
    monkeypatch.setattr(serving, "bertie", nobody)
    monkeypatch.setattr(soak, "run", lambda *_, **__: found)
    assert soak.main([]) == status
    shown = capsys.readouterr().out
    assert ("1 bad answers" in shown) == (len(statuses) > 1)
    assert json.loads(shown.splitlines()[-1])["growth"] == pytest.approx(last / 100 - 1)
