"""What a start opens, beside what `test_predict` tells of loading: sessions for rows that are alone."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.engine.batch import Encoded, pad
from service.engine.session import OrtEngine
from service.metrics import Metrics
from service.repository import loading
from service.scheduler import schedule
from service.settings import Settings


@pytest.fixture(autouse=True)
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "cpu_quota", lambda: 2)


async def test_each_model_has_a_lone_session_of_its_own_where_it_gains(
    models_dir: Path, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedule, "lone_tokens", lambda *_: 24)
    settings = Settings(models_dir=models_dir, models=("sentiment", "nli"), max_batch_tokens=512)
    predictor = loading.load(settings, metrics)
    batch = pad([Encoded(np.arange(9), np.zeros(9, dtype=np.int64))], 0)
    widths = set()
    for model in predictor.models.values():
        found = model.schedule
        assert (found.batch_tokens, found.lone_tokens) == (512, 24)
        assert found.lone is not None
        widths.add(found.lone.run(batch)[0].shape)
    assert widths == {(1, 2), (1, 3)}
    assert await predictor.drain(5)


async def test_none_is_kept_that_gains_nothing(
    models_dir: Path, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedule, "lone_tokens", lambda *_: None)
    predictor = loading.load(Settings(models_dir=models_dir, models=("sentiment",)), metrics)
    assert predictor.models["sentiment"].schedule.lone is None
    assert await predictor.drain(5)


@pytest.mark.parametrize(
    ("cores", "values"),
    [(1, {}), (2, {"lone_session": False}), (2, {"workers": 1}), (2, {"intra_op_threads": 2})],
)
async def test_no_second_copy_of_the_weights_where_it_is_not_wanted(
    models_dir: Path, metrics: Metrics, monkeypatch: pytest.MonkeyPatch, cores: int, values: dict[str, Any]
) -> None:
    monkeypatch.setattr(loading, "cpu_quota", lambda: cores)
    monkeypatch.setattr(OrtEngine, "reopened", lambda *_, **__: pytest.fail("a second session was opened"))
    predictor = loading.load(Settings(models_dir=models_dir, models=("sentiment",), **values), metrics)
    assert predictor.models["sentiment"].schedule.lone is None
    assert await predictor.drain(5)


async def test_a_batch_holds_the_longest_row(models_dir: Path, metrics: Metrics) -> None:
    predictor = loading.load(Settings(models_dir=models_dir), metrics)
    for model in predictor.models.values():
        assert model.schedule.batch_tokens >= model.bundle.manifest.max_length
    assert await predictor.drain(5)
