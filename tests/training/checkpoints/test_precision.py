"""A recipe's bf16 on processors that have it, and on those that compute it in small steps."""

import logging
from pathlib import Path

import pytest
import torch

from tests.training.samples import recipe
from training.checkpoints import precision
from training.finetune.recipe import Recipe


@pytest.fixture
def asked(tmp_path: Path) -> Recipe:
    return recipe(tmp_path, tmp_path / "o", "x", precision="bf16", attention="bf16_eager")


@pytest.mark.parametrize(
    ("bf16", "kept"), [(0.5, True), (1.9, True), (2.1, False), (100.0, False)]
)  # seconds, where fp32 takes one
def test_slow_bf16_gives_way(
    bf16: float, kept: bool, asked: Recipe, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(precision, "WORTH", 0.5)
    monkeypatch.setattr(precision, "_seconds", lambda number: bf16 if number is torch.bfloat16 else 1.0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with caplog.at_level(logging.WARNING):
        given = precision.possible(asked)
    assert (given is asked) == kept
    if not kept:
        assert (given.precision, given.attention) == ("fp32", "sdpa")
        assert given.model == asked.model
    assert ("the run is in fp32" in caplog.text) != kept


def test_neither_fp32_nor_a_gpu_is_asked(asked: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def timed(number: torch.dtype) -> float:
        raise AssertionError("nothing was to be timed")

    monkeypatch.setattr(precision, "_seconds", timed)
    plain = recipe(tmp_path, tmp_path / "o", "x", attention="eager")
    assert precision.possible(plain) is plain
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert precision.possible(asked) is asked


def test_products_are_timed() -> None:
    assert 0 < precision._seconds(torch.float32) < 1
