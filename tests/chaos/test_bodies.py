"""Lists without bound, half-closed connections, departures, and the edges of HTTP and JSON (faults 2, 12 and 15)."""

from pathlib import Path

import pytest

from bench.chaos import bodies
from bench.chaos.result import Result

LISTS = (
    "inputs of numbers",
    "inputs of empty objects",
    "inputs of texts",
    "documents",
    "options",
    "labels that are numbers",
    "a list in an unknown field",
    "a wide object",
)


def test_lists_of_a_million_values_stop_nobody(models_dir: Path) -> None:
    result = bodies.unbounded_lists(models_dir, only=LISTS)
    assert result["loop stopped at most"] < 250, result.measured()
    assert result["RSS grown at most"] < 150, result.measured()
    assert result["unclear answers"] == []


def test_texts_that_are_dear_to_tokenise_stop_nobody(bundled_models: Path) -> None:
    result = bodies.heavy_texts(bundled_models, only=("2 MB of punctuation", "a context of 1,000,000 words"))
    assert result["loop stopped at most"] < 300, result.measured()
    assert result["RSS grown at most"] < 350, result.measured()
    assert result["unclear answers"] == []


def test_every_place_that_takes_a_list_is_attacked() -> None:
    made = bodies.lists(10_000)
    assert set(LISTS) <= set(made)
    made |= bodies.texts(10_000)
    assert all(9800 < len(body) <= 10_000 for _, body in made.values())


def test_a_half_close_is_no_cancel(models_dir: Path) -> None:
    result = bodies.half_close(models_dir)
    assert result["status"] == 200
    assert result["label"] == "positive"
    assert result["status from a slow engine"] == 200


def test_who_hangs_up_costs_no_inference(models_dir: Path) -> None:
    result = bodies.departures(models_dir, clients=100)
    assert result["rows run for them"] <= 20, result.measured()
    assert result["cancelled"] >= 50, result.measured()
    assert result["next client"] == 200


@pytest.fixture(scope="module")
def edges(models_dir: Path) -> Result:
    return bodies.edges(models_dir)


def test_cors_is_a_setting_that_is_off(edges: Result) -> None:
    assert edges["preflight without the setting"] == 405


def test_cors_allows_the_origins_of_the_setting_alone(edges: Result) -> None:
    assert edges["preflight with the setting"] == 200
    assert edges["origin allowed"] == ["https://example.com", "https://example.com", "None"]


def test_a_byte_order_mark_is_read(edges: Result) -> None:
    assert edges["byte order mark"] == 200


@pytest.mark.parametrize("head", ["no Host", "two Hosts", "HTTP/0.9"])
def test_heads_that_http_forbids_are_refused(edges: Result, head: str) -> None:
    assert edges[head] == 400
    assert edges[f"{head}: closed"]


def test_http_1_0_needs_no_host(edges: Result) -> None:
    assert edges["no Host in HTTP/1.0"] == 200


def test_a_text_alone_for_nli_is_told_what_it_takes(edges: Result) -> None:
    assert edges["a text for nli"] == 422
    assert "premise" in edges["told"]
    assert "hypothesis" in edges["told"]
