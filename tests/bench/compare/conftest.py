"""Fixtures of the comparison's tests."""

import pytest

from bench.compare import rounds
from bench.compare.options import Options
from bench.compare.results import Comparison
from tests.bench.compare.shapes import calls, run_here, tiny, tiny_sizes

__all__ = ["calls", "tiny_sizes"]


@pytest.fixture(scope="session")
def tiny_comparison(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    """The tiny models measured in full, two rounds. Read-only by nature."""
    options = Options(lengths=(8, 16, 32), rounds=2, seconds=0.01, workers=1, training_rows=2, training_tokens=16)
    with pytest.MonkeyPatch.context() as patch:
        run_here(patch)
        return rounds.run(tuple(tiny().values()), options, tmp_path_factory.mktemp("compare"))
