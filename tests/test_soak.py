"""A short soak of a real process: memory stays flat, nothing leaks. `make soak` is the long one."""

import itertools
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
