"""Bundles of a hub: the revision is one commit, the token goes where it belongs."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.errors import BundleError
from service.repository.manifest import MANIFEST, TOKENIZER
from service.repository.sources import fetch
from tests.remote import Web, files_of, serving, tar_of
from tests.training.hub import Hub
from tests.training.hub import serving as serving_hub

COMMIT = "0123456789" * 4


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serving_hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        yield hub


def test_a_repository(hub: Hub, elsewhere: Path, cache: Path) -> None:
    commit = hub.push("org/sentiment", elsewhere)
    assert files_of(fetch("hf://org/sentiment", cache)) == files_of(elsewhere)
    assert all(f"/{commit}/" in path for _, path, _ in hub.asked[1:])


@pytest.mark.parametrize("revision", ["v1", "refs/pr/3"])
def test_a_revision(revision: str, hub: Hub, elsewhere: Path, cache: Path, sha256: str) -> None:
    hub.push("org/sentiment", elsewhere)
    hub.push("org/sentiment", elsewhere, revision, more=b"")
    found = fetch(f"hf://org/sentiment@{revision}#sha256={sha256}", cache)
    assert files_of(found) == files_of(elsewhere)
    asked = len(hub.asked)
    assert fetch(f"hf://org/sentiment@{revision}#sha256={sha256}", cache) == found
    assert len(hub.asked) == asked


def test_a_commit_is_not_asked_after(hub: Hub, elsewhere: Path, cache: Path) -> None:
    commit = hub.push("org/sentiment", elsewhere)
    assert files_of(fetch(f"hf://org/sentiment@{commit}", cache)) == files_of(elsewhere)
    assert all("/api/" not in path for _, path, _ in hub.asked)


def test_a_folder_of_a_repository(web: Web, elsewhere: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", web.url + "/")
    web.files["/api/models/org/all/revision/main"] = json.dumps({"sha": COMMIT}).encode()
    web.put(f"/org/all/resolve/{COMMIT}/int8/v%2B1", elsewhere)
    assert files_of(fetch("hf://org/all/int8/v+1/", cache)) == files_of(elsewhere)


def test_a_revision_with_a_slash_is_one_part_of_the_url(
    web: Web, elsewhere: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", web.url)
    web.files["/api/models/org/all/revision/refs%2Fpr%2F3"] = json.dumps({"sha": COMMIT}).encode()
    web.put(f"/org/all/resolve/{COMMIT}", elsewhere)
    assert files_of(fetch("hf://org/all@refs/pr/3", cache)) == files_of(elsewhere)


def test_an_archive_of_a_repository(web: Web, elsewhere: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", web.url)
    web.files[f"/org/all/resolve/{COMMIT}/sentiment.tar"] = tar_of(files_of(elsewhere))
    assert files_of(fetch(f"hf://org/all@{COMMIT}/sentiment.tar", cache)) == files_of(elsewhere)


@pytest.mark.parametrize("where", ["HF_TOKEN", "HF_TOKEN_PATH", "HF_HOME", "HOME"])
def test_the_token_is_where_others_have_it(
    where: str, hub: Hub, elsewhere: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.push("org/secret", elsewhere)
    hub.tokens, hub.repos["org/secret"].token = {"hf_secret"}, "hf_secret"
    with pytest.raises(BundleError, match="answers 401: it wants to know who asks"):
        fetch("hf://org/secret", cache)
    path = {
        "HF_TOKEN": tmp_path / "unused",
        "HF_TOKEN_PATH": tmp_path / "token",
        "HF_HOME": tmp_path / "hf" / "token",
        "HOME": tmp_path / "home" / ".cache" / "huggingface" / "token",
    }[where]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("hf_secret\n")
    values = {"HF_TOKEN": "hf_secret", "HF_TOKEN_PATH": str(path), "HF_HOME": str(path.parent)}
    if where in values:
        monkeypatch.setenv(where, values[where])
    assert files_of(fetch("hf://org/secret", cache)) == files_of(elsewhere)


def test_the_token_stays_at_the_hub(web: Web, elsewhere: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Large files come from elsewhere."""
    monkeypatch.setenv("HF_ENDPOINT", web.url)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with serving() as cdn:
        cdn.put("/cdn", elsewhere)
        for path in elsewhere.iterdir():
            web.moved[f"/org/repo/resolve/{COMMIT}/{path.name}"] = f"{cdn.url}/cdn/{path.name}"
        assert files_of(fetch(f"hf://org/repo@{COMMIT}", cache)) == files_of(elsewhere)
        assert {asked.headers.get("Authorization") for asked in web.asked} == {"Bearer hf_secret"}
        assert {asked.headers.get("Authorization") for asked in cdn.asked} == {None}


def test_a_busy_hub_and_a_broken_one(hub: Hub, elsewhere: Path, cache: Path) -> None:
    hub.push("org/sentiment", elsewhere)
    hub.busy, hub.broken = {"/api/": 2, MANIFEST: 1}, {TOKENIZER: 2}
    assert files_of(fetch("hf://org/sentiment", cache)) == files_of(elsewhere)


def test_what_is_not_there(hub: Hub, elsewhere: Path, cache: Path) -> None:
    hub.push("org/sentiment", elsewhere)
    for reference, said in (
        ("hf://org/none", "answers 401"),
        ("hf://org/sentiment@v7", "answers 404"),
        ("hf://org/sentiment/none", "answers 404"),
        ("hf://org", "a repository of a hub is hf://ORG/REPO"),
        ("hf://org/repo@", "a repository of a hub is hf://ORG/REPO"),
    ):
        with pytest.raises(BundleError, match=said):
            fetch(reference, cache)


@pytest.mark.parametrize("answer", [b"{}", b"[]", b'{"sha": "../../x"}'])
def test_an_answer_that_names_no_commit(answer: bytes, web: Web, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", web.url)
    web.files["/api/models/org/repo/revision/main"] = answer
    with pytest.raises(BundleError, match="revision/main names no commit"):
        fetch("hf://org/repo", cache)


def test_a_token_is_not_sent_over_plain_http(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://192.0.2.1")
    with pytest.raises(BundleError, match="is plain http"):
        fetch(f"hf://org/repo#sha256={'0' * 64}", cache)
