"""A bundle that is elsewhere, servers on loopback that have it, and a cache for it."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.repository.manifest import MANIFEST
from service.repository.sources import transfer
from tests.bundles import make_bundle
from tests.remote import Registry, Web, serving


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No try waits for a second, and no proxy or password of a developer has a say."""
    monkeypatch.setattr(transfer, "BACK_OFF", 0.01)
    for name in ("HF_ENDPOINT", "HF_TOKEN", "HF_TOKEN_PATH", "HF_HOME", "DOCKER_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


@pytest.fixture
def web() -> Iterator[Web]:
    with serving() as web:
        yield web


@pytest.fixture
def registry(web: Web) -> Registry:
    return Registry(web)


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A bundle `sentiment` that is not in the cache."""
    return make_bundle(tmp_path / "elsewhere", "sentiment")


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def sha256_of(folder: Path) -> str:
    """Identity of a bundle: the sha256 of its manifest."""
    return hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()


@pytest.fixture
def sha256(elsewhere: Path) -> str:
    return sha256_of(elsewhere)
