"""A user without rights."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.folders import Nobody


@pytest.fixture
def nobody() -> Iterator[Nobody]:
    """A user without rights, with a folder of its own; pytest's is closed to others."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield Nobody(Path(name))
        os.chmod(name, 0o755)
        for folder, _, _ in os.walk(name):
            for each in os.scandir(folder):
                os.chmod(
                    each,
                    0o755,
                )
