"""Bundles over HTTP, from a server that fails in the ways that servers fail."""

import email.utils
import json
import time
from contextlib import closing
from pathlib import Path

import pytest

from service.errors import BundleError
from service.repository.manifest import MANIFEST, TOKENIZER
from service.repository.sources import fetch
from service.repository.sources.web import Web as Client
from tests.remote import Web, basic, serving

GRAPH = "model.fp32.onnx"


def same(found: Path, expected: Path) -> bool:
    return {path.name: path.read_bytes() for path in found.iterdir()} == {
        path.name: path.read_bytes() for path in expected.iterdir()
    }


def left(cache: Path) -> list[str]:
    """What a fetch that failed has left in the cache."""
    return [path.name for path in cache.rglob("*") if path.name != ".lock"]


def test_a_folder(web: Web, elsewhere: Path, cache: Path) -> None:
    found = fetch(web.put("/models/sentiment", elsewhere), cache)
    assert same(found, elsewhere)
    assert found.name == "sentiment"
    assert sorted(web.paths()) == sorted(f"/models/sentiment/{path.name}" for path in elsewhere.iterdir())
    assert web.asked[0].headers["Accept-Encoding"] == "identity"


def test_a_folder_keeps_its_query_and_its_slash(web: Web, elsewhere: Path, cache: Path) -> None:
    """A signature for a folder goes with each of its files."""
    found = fetch(web.put("/sentiment", elsewhere) + "/?sig=a%2Fb", cache)
    assert same(found, elsewhere)
    assert web.paths()[0] == f"/sentiment/{MANIFEST}?sig=a%2Fb"


@pytest.mark.parametrize("ranges", [True, False])
def test_a_broken_transfer_goes_on(ranges: bool, web: Web, elsewhere: Path, cache: Path) -> None:
    url, path = web.put("/sentiment", elsewhere), f"/sentiment/{TOKENIZER}"
    web.broken[path], web.ranges = [1000, 500], ranges
    assert same(fetch(url, cache), elsewhere)
    asked = [asked.headers.get("Range") for asked in web.asked if asked.path == path]
    assert asked == [None, "bytes=1000-", "bytes=1500-" if ranges else "bytes=500-"]


def test_a_file_that_changes_between_two_tries_comes_whole(web: Web, elsewhere: Path, cache: Path) -> None:
    url, path = web.put("/sentiment", elsewhere), f"/sentiment/{MANIFEST}"
    web.changes[path] = web.files[path]
    web.files[path], web.broken[path] = b"#" * 5000, [1000]
    assert same(fetch(url, cache), elsewhere)
    assert web.asked[1].headers["Range"] == "bytes=1000-"


@pytest.mark.parametrize("etag", [True, False])
def test_a_connection_that_always_breaks_is_given_up(etag: bool, web: Web, elsewhere: Path, cache: Path) -> None:
    url, path = web.put("/sentiment", elsewhere), f"/sentiment/{TOKENIZER}"
    web.broken[path], web.etag = [10] * 9, etag
    with pytest.raises(BundleError, match=f"{url}: {url}/{TOKENIZER}: .*(peer closed|incomplete)"):
        fetch(url, cache)
    assert web.paths().count(path) == 3
    assert left(cache) == []


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (400, "answers 400"),
        (401, "answers 401: it wants to know who asks"),
        (403, "answers 403: it is not allowed"),
        (404, "answers 404: there is no such file"),
        (416, "answers 416"),
        (304, "answers 304"),
    ],
)
def test_a_refusal_is_told_at_once(status: int, said: str, web: Web, elsewhere: Path, cache: Path) -> None:
    url = web.put("/sentiment", elsewhere)
    web.failing[f"/sentiment/{GRAPH}"] = [(status, {})] * 9
    with pytest.raises(BundleError, match=said):
        fetch(url, cache)
    assert web.paths().count(f"/sentiment/{GRAPH}") == 1
    assert left(cache) == []


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503])
def test_a_server_that_is_busy_is_asked_again(status: int, web: Web, elsewhere: Path, cache: Path) -> None:
    url, path = web.put("/sentiment", elsewhere), f"/sentiment/{GRAPH}"
    web.failing[path] = [(status, {})] * 2
    assert same(fetch(url, cache), elsewhere)
    web.failing[path] = [(status, {})] * 3
    with pytest.raises(BundleError, match=f"answers {status}"):
        fetch(url, cache / "other")


def test_retry_after_is_heeded(web: Web, elsewhere: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    url = web.put("/sentiment", elsewhere)
    soon = email.utils.formatdate(time.time() + 8, usegmt=True)
    web.failing[f"/sentiment/{GRAPH}"] = [(429, {"Retry-After": "7"}), (503, {"Retry-After": soon})]
    web.failing[f"/sentiment/{TOKENIZER}"] = [(503, {"Retry-After": "when it suits"})]
    fetch(url, cache)
    assert 7.0 in waited
    assert any(5 < each <= 8 and each != 7.0 for each in waited)
    assert len([each for each in waited if each < 1]) == 1


def test_a_drip_and_a_silence_end(web: Web, elsewhere: Path, cache: Path) -> None:
    url = web.put("/sentiment", elsewhere)
    web.drip[f"/sentiment/{GRAPH}"] = 0.02
    begin = time.monotonic()
    with pytest.raises(BundleError, match="stalls"):
        fetch(url, cache, idle_seconds=0.2)
    web.drip[f"/sentiment/{GRAPH}"] = 5
    with pytest.raises(BundleError, match="timed out"):
        fetch(url, cache, idle_seconds=0.1)
    assert time.monotonic() - begin < 5
    assert left(cache) == []


def test_nobody_listens(cache: Path) -> None:
    with serving() as web:
        url = web.url
    with pytest.raises(BundleError, match="refused"):
        fetch(f"{url}/sentiment", cache)


def test_a_redirect_is_followed_and_the_password_stays(web: Web, elsewhere: Path, cache: Path) -> None:
    with serving() as other:
        other.put("/cdn", elsewhere)
        web.files["/sentiment/" + MANIFEST] = (elsewhere / MANIFEST).read_bytes()
        for path in elsewhere.iterdir():
            web.moved[f"/sentiment/{path.name}"] = f"{other.url}/cdn/{path.name}"
        url = web.url.replace("//", "//user:pass@")
        assert same(fetch(f"{url}/sentiment", cache), elsewhere)
        assert web.asked[0].headers["Authorization"] == basic("user", "pass")
        assert all("Authorization" not in asked.headers for asked in other.asked)
        assert other.asked


def test_a_redirect_at_home_keeps_the_password(web: Web, elsewhere: Path, cache: Path) -> None:
    web.put("/new", elsewhere)
    web.locked["/"] = basic("user", "pass")
    web.moved = {f"/old/{path.name}": f"/new/{path.name}" for path in elsewhere.iterdir()}
    assert same(fetch(web.url.replace("//", "//user:pass@") + "/old", cache), elsewhere)


def test_redirects_end(web: Web, cache: Path) -> None:
    web.moved[f"/a/{MANIFEST}"] = f"/b/{MANIFEST}"
    web.moved[f"/b/{MANIFEST}"] = f"/a/{MANIFEST}"
    with pytest.raises(BundleError, match="redirects more than 5 times"):
        fetch(f"{web.url}/a", cache)


def test_a_redirect_to_plain_http_elsewhere_is_not_followed(web: Web, cache: Path) -> None:
    web.moved[f"/a/{MANIFEST}"] = "http://192.0.2.1/latest/meta-data"
    with pytest.raises(BundleError, match=r"http://192\.0\.2\.1/latest/meta-data is plain http"):
        fetch(f"{web.url}/a", cache)


def test_a_redirect_from_https_to_http_is_not_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    import httpx2

    def answer(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(302, headers={"Location": "http://127.0.0.1:1/"})

    with closing(Client(1)) as client:
        client._client = httpx2.Client(transport=httpx2.MockTransport(answer))
        with (
            pytest.raises(ValueError, match="https://host/a redirects from https to plain http"),
            client.file("https://host/a")(0),
        ):
            pass


def test_another_part_than_was_asked_for_is_refused(web: Web, elsewhere: Path, cache: Path) -> None:
    url = web.put("/sentiment", elsewhere)
    web.failing[f"/sentiment/{TOKENIZER}"] = [(206, {"Content-Range": "bytes 5-9/10"})]
    with pytest.raises(BundleError, match="answers with another part"):
        fetch(url, cache)


def test_a_file_that_is_packed_on_its_way_is_refused(web: Web, elsewhere: Path, cache: Path) -> None:
    web.headers = {"Content-Encoding": "gzip"}
    with pytest.raises(BundleError, match="is packed on its way"):
        fetch(web.put("/sentiment", elsewhere), cache)


@pytest.mark.parametrize(
    ("url", "said"), [("https://a..b/x", "label empty or too long"), ("https://host:port/x", "is no URL: Invalid port")]
)
def test_a_url_that_is_none(url: str, said: str, cache: Path) -> None:
    with pytest.raises(BundleError, match=said):
        fetch(url, cache)


def test_json_is_bounded_and_checked(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    web.files |= {"/good": json.dumps({"a": 1}).encode(), "/bad": b"<html>", "/deep": b"[" * 100_000}
    with closing(Client(5)) as client:
        assert client.json(f"{web.url}/good") == {"a": 1}
        assert client.json(f"{web.url}/good", form={"b": "2"}) == {"a": 1}
        assert (web.asked[-1].method, web.asked[-1].body) == ("POST", b"b=2")
        for path in ("/bad", "/deep"):
            with pytest.raises(ValueError, match="answers with no JSON"):
                client.json(web.url + path)
