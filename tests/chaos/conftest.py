"""The bundled models, for the attacks that need real speed or real files; `models_dir` has the tiny ones."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def bundled_models() -> Path:
    """The folder of the bundles in the repository. Read-only."""
    return Path(__file__).parents[2] / "models"
