"""What the service makes of a machine (faults 14 and 16)."""

from pathlib import Path

import pytest

from bench.chaos import provider


def test_cuda_that_is_broken_is_told(models_dir: Path) -> None:
    result = provider.broken_cuda(models_dir)
    assert result["ready"] == 200
    assert result["warnings"] >= 1, result.measured()
    assert result["bertie_provider_fallback_total"] == 1, result.measured()
    assert result["on the CPU, by bertie_model_info"] == 1


@pytest.mark.parametrize("tree", list(provider.TREES))
def test_a_quota_is_found_wherever_it_stands(models_dir: Path, tree: str) -> None:
    assert provider.quota(models_dir, only=(tree,)).met


def test_models_share_the_engine_threads(models_dir: Path) -> None:
    result = provider.threads(models_dir)
    assert result.met, result.measured()
