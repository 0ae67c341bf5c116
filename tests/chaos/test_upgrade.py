"""Clients that offer HTTP/2 in an Upgrade (fault 11)."""

from pathlib import Path

import pytest

from bench.chaos import upgrade
from bench.chaos.result import Result


@pytest.fixture(scope="module")
def offers(models_dir: Path) -> Result:
    return upgrade.offers(models_dir)


@pytest.mark.parametrize("way", ["in one piece", "again on that connection", "head, then body", "a GET"])
def test_an_offer_of_h2c_is_ignored(offers: Result, way: str) -> None:
    assert offers[way] == 200


def test_an_offer_of_a_websocket_is_ignored(offers: Result) -> None:
    assert offers["an offer of a websocket"] == 200


def test_curl_with_http2_is_answered(offers: Result) -> None:
    if offers.values.get("curl --http2", "cannot run here") == "cannot run here":
        pytest.skip("no curl with HTTP/2 here")
    assert offers["curl --http2"] == 200


def test_java_is_answered(offers: Result) -> None:
    if "Java's HttpClient, twice" not in offers.values or offers["Java's HttpClient, twice"] == "cannot run here":
        pytest.skip("no Java with a compiler here")
    assert offers["Java's HttpClient, twice"] == [200, 200]
