"""The service on a bundle of each kind, in this process."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from service.metrics import Metrics
from service.settings import Settings
from tests.bundles import make_bundle
from tests.serving import serving


@pytest.fixture(scope="session")
def every_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the bundles `choice`, `nli`, `qa`, `rerank` and `sentiment`. Read-only by convention."""
    folder = tmp_path_factory.mktemp("every-model")
    for kind in ("choice", "nli", "qa", "rerank", "sentiment"):
        make_bundle(folder, kind)
    return folder


@pytest.fixture
def settings(every_model: Path) -> Settings:
    return Settings(models_dir=every_model, device="cpu", workers=1, intra_op_threads=1)


@pytest.fixture
async def client(settings: Settings, metrics: Metrics) -> AsyncIterator[httpx.AsyncClient]:
    async with serving(settings, metrics=metrics) as client:
        yield client
