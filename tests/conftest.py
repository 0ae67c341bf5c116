"""What every test may use: bundles that answer with sense in milliseconds, and settings without surprises.

`tests.bundles` makes the bundles, `tests.engines` the fake engines; `tests/service/conftest.py` has the HTTP client.
"""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from service.metrics import Metrics
from service.settings import Settings
from tests.bundles import make_bundle


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """A developer's BERTIE_* variables must not decide over a test."""
    for name in list(os.environ):
        if name.startswith("BERTIE_"):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the bundles `nli`, `qa` and `sentiment`. Read-only by convention: others use it too."""
    folder = tmp_path_factory.mktemp("models")
    for kind in ("nli", "qa", "sentiment"):
        make_bundle(folder, kind)
    return folder


@pytest.fixture
def bundle_factory(tmp_path: Path) -> Callable[..., Path]:
    """`bundle_factory("qa", name=..., max_length=...)`: a bundle of the test's own under `tmp_path / "models"`; see
    `tests.bundles.make_bundle`."""
    return lambda kind, **changes: make_bundle(tmp_path / "models", kind, **changes)


@pytest.fixture
def settings(models_dir: Path) -> Settings:
    """The defaults on the three bundles, one worker each; `settings.model_copy(update={...})` changes some."""
    return Settings(models_dir=models_dir, device="cpu", workers=1, intra_op_threads=1)


@pytest.fixture
def metrics() -> Metrics:
    """A registry of the test's own."""
    return Metrics()
