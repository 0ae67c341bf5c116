"""Kept logits: the same answers without a run, no more memory than allowed, and nothing of a version that is gone."""

import asyncio
import gc
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.cache import Cache, Rows, key_of
from service.engine import session
from service.engine.batch import Encoded, RowLogits
from service.errors import InferenceError
from service.metrics import PHASES, Metrics
from service.predictor import Predictor
from service.repository import loading
from service.serving import Predictions, Serving
from service.settings import Settings
from service.tasks import ClassificationExample, SpanExample
from tests.bundles import change_manifest
from tests.engines import FakeEngine, load_with, until
from tests.serving import serving

Factory = Callable[..., Path]


class Version:
    """What a cache keeps rows of."""


def row(*ids: int, segment: int = 0) -> Encoded:
    return Encoded(np.array(ids, dtype=np.int64), np.full(len(ids), segment, dtype=np.int64))


def logits(*numbers: float) -> RowLogits:
    return (np.array(numbers, dtype=np.float32),)


def value(metrics: Metrics, name: str, **labels: str) -> float:
    return metrics.registry.get_sample_value(name, labels) or 0.0


# ---- by itself ------------------------------------------------------------------------------------------------------


@pytest.fixture
def version() -> Version:
    return Version()


def opened(most_bytes: int, metrics: Metrics, version: Version) -> tuple[Cache, Rows]:
    cache = Cache(most_bytes, metrics)
    return cache, cache.of(version, "m")


def test_what_was_kept_is_found(metrics: Metrics, version: Version) -> None:
    cache, rows = opened(10_000, metrics, version)
    key = key_of(row(1, 2, 3))
    assert rows.find(key) is None
    kept = logits(0.5, -0.5)
    rows.keep(key, kept)
    assert rows.find(key) is kept
    assert cache.of(version, "m") is rows
    assert value(metrics, "bertie_cache_hits_total", model="m") == 1
    assert value(metrics, "bertie_cache_misses_total", model="m") == 1
    assert value(metrics, "bertie_cache_bytes") == cache.bytes > 0


def test_a_key_is_of_ids_and_segments_and_of_nothing_else() -> None:
    same = key_of(row(1, 2))
    assert same == key_of(row(1, 2))
    others = [row(1, 2, segment=1), row(2, 1), row(1), row(1, 2, 3), row(1, 258), row(1, 2 + (1 << 16))]
    assert len({same, *map(key_of, others)}) == 1 + len(others)


def test_the_least_recently_used_goes_first_of_all_models(metrics: Metrics) -> None:
    one, other = Version(), Version()
    cache = Cache(10_000, metrics)
    first, second = cache.of(one, "a"), cache.of(other, "b")
    first.keep(b"1", logits(1))
    size = cache.bytes
    cache.most_bytes = 3 * size
    second.keep(b"2", logits(2))
    first.keep(b"3", logits(3))
    assert first.find(b"1") is not None  # used: now the other model's is the oldest
    first.keep(b"4", logits(4))
    assert second.find(b"2") is None
    first.keep(b"5", logits(5))
    assert [first.find(key) is None for key in (b"1", b"3", b"4", b"5")] == [False, True, False, False]
    assert cache.bytes == 3 * size


def test_it_never_holds_more_than_it_may(metrics: Metrics, version: Version) -> None:
    cache, rows = opened(20_000, metrics, version)
    rng = np.random.default_rng(0)
    for i in range(1000):
        ids = rng.integers(0, 30_000, rng.integers(1, 100)).tolist()
        rows.keep(key_of(row(i, *ids)), logits(*range(int(rng.integers(1, 200)))))
        assert cache.bytes <= 20_000
    assert cache.bytes > 15_000
    while rows.kept:
        rows.drop_oldest()
    assert cache.bytes == 0


def test_what_is_larger_than_all_room_drops_nothing(metrics: Metrics, version: Version) -> None:
    cache, rows = opened(1000, metrics, version)
    rows.keep(b"small", logits(1))
    rows.keep(b"large", logits(*range(1000)))
    assert (rows.find(b"small") is None, rows.find(b"large") is None) == (False, True)
    assert 0 < cache.bytes <= 1000


def test_what_is_kept_twice_counts_once(metrics: Metrics, version: Version) -> None:
    cache, rows = opened(10_000, metrics, version)
    rows.keep(b"1", logits(1))
    size = cache.bytes
    rows.keep(b"1", logits(1))
    assert cache.bytes == size


@pytest.mark.parametrize(("tokens", "widths"), [(12, (2,)), (200, (200, 200))])
def test_bytes_are_what_memory_grows_by(
    metrics: Metrics, version: Version, tokens: int, widths: tuple[int, ...]
) -> None:
    cache, rows = opened(1 << 30, metrics, version)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for i in range(3000):
            rows.keep(key_of(row(*range(i, i + tokens))), tuple(np.zeros(width, np.float32) for width in widths))
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert grown < cache.bytes < 1.4 * grown  # tracing does not see what malloc rounds up


async def test_a_version_that_is_freed_takes_its_rows_along(metrics: Metrics) -> None:
    old, new = Version(), Version()
    cache = Cache(10_000, metrics)
    cache.of(old, "m").keep(b"1", logits(1))
    cache.of(new, "m").keep(b"1", logits(2))
    both, rows = cache.bytes, cache.of(old, "m")
    assert cache.of(new, "m").find(b"1") is not None
    del old
    gc.collect()
    assert cache.bytes == both / 2
    await until(lambda: not rows.kept)
    kept = cache.of(new, "m").find(b"1")
    assert kept is not None
    assert kept[0] == 2


# ---- in the way of a request ----------------------------------------------------------------------------------------

BODIES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("/classify", {"text": "a wonderful film"}),
    ("/classify", {"inputs": [{"text": "a sad film"}, {"text": "a wonderful film"}, {"text": "a sad film"}]}),
    ("/classify", {"premise": "a dog is sleeping", "hypothesis": "a dog is not sleeping"}),
    ("/classify", {"text": "the team won", "candidate_labels": ["politics", "sports"]}),
    ("/classify", {"text": "the team won", "candidate_labels": ["team", "sports", "politics"], "multi_label": True}),
    ("/classify", {"query": "capital of france", "texts": ["paris is the capital", "a dog", "france"]}),
    ("/qa", {"question": "What is the capital of France?", "context": "The capital of France is Paris. " * 30}),
    ("/qa", {"question": "Where is Ada?", "context": ["Ada was in London.", "The dog is here."], "top_k": 3}),
    ("/qa", {"question": "who won ?", "context": "the team won", "options": ["the team", "nobody", "a cat"]}),
)


@pytest.fixture(autouse=True)
def _with_vnni(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever processor this is: what is called int8 here is fp32 under another name."""
    monkeypatch.setattr(session, "products_overflow", lambda: False)


@pytest.fixture
def int8(bundle_factory: Factory) -> Settings:
    """Bundles of every task, called int8, and 1 MB of cache."""
    for kind in ("sentiment", "nli", "qa", "choice", "rerank"):
        folder = bundle_factory(kind)
        change_manifest(folder, graphs=[{"file": "model.fp32.onnx", "precision": "int8"}])
    return Settings(models_dir=folder.parent, device="cpu", workers=1, intra_op_threads=1, cache_mb=1)


def runs(metrics: Metrics) -> float:
    """Batches that ran, of all models."""
    names = ("sentiment", "nli", "qa", "choice", "rerank")
    return sum(value(metrics, "bertie_batch_rows_count", model=name) for name in names)


async def test_every_task_answers_alike_to_the_byte_and_runs_nothing_again(int8: Settings) -> None:
    async def answers(settings: Settings, metrics: Metrics, times: int) -> list[list[bytes]]:
        async with serving(settings, metrics=metrics) as client:
            found = []
            for _ in range(times):
                found.append([(await client.post(path, json=body)).content for path, body in BODIES])
                counted.append(runs(metrics))
            return found

    counted: list[float] = []
    [plain] = await answers(int8.model_copy(update={"cache_mb": 0}), Metrics(), 1)
    assert all(answer.startswith(b'{"model"') for answer in plain), plain
    counted.clear()
    metrics = Metrics()
    assert await answers(int8, metrics, 3) == [plain] * 3
    assert counted[0] > 0
    assert counted == [counted[0]] * 3
    assert value(metrics, "bertie_cache_hits_total", model="qa") >= 2 * value(
        metrics, "bertie_cache_misses_total", model="qa"
    )


async def test_only_rows_that_are_missing_run(int8: Settings, metrics: Metrics) -> None:
    async with serving(int8, metrics=metrics) as client:
        await client.post("/classify", json={"text": "a sad film"})
        texts = ["a good film", "a sad film", "it was bad", "a sad film"]
        answer = await client.post("/classify", json={"inputs": [{"text": text} for text in texts]})
        labels = [result["label"] for result in answer.json()["results"]]
        assert labels == ["positive", "negative", "negative", "negative"]
        assert value(metrics, "bertie_batch_rows_sum", model="sentiment") == 3
        assert value(metrics, "bertie_cache_hits_total", model="sentiment") == 2
        assert value(metrics, "bertie_cache_misses_total", model="sentiment") == 3


def asked(predictor: Predictor, *texts: str) -> asyncio.Task[Predictions]:
    model = predictor.models["sentiment"]
    return asyncio.create_task(
        predictor.predict(model, model.tasks[0], [ClassificationExample(text) for text in texts])
    )


async def test_what_is_found_waits_for_nothing(int8: Settings, metrics: Metrics) -> None:
    predictor = loading.load(int8, metrics)
    first, second = await asked(predictor, "a good film"), await asked(predictor, "a good film")
    assert first.answers == second.answers
    assert second.seconds["queue"] == second.seconds["inference"] == 0.0
    assert tuple(second.seconds) == PHASES
    assert (second.rows, second.tokens, len(first.batches), len(second.batches)) == (1, first.tokens, 1, 0)
    assert value(metrics, "bertie_phase_duration_seconds_count", phase="inference", model="sentiment") == 2
    await predictor.drain(5)


async def test_what_is_kept_is_the_rows_own(int8: Settings, metrics: Metrics) -> None:
    """No array of a batch is kept alive by one of its rows, nor what stands at its padding."""
    predictor = loading.load(int8, metrics)
    model = predictor.models["qa"]
    examples = [SpanExample("who is ada", (f"{'ada wrote ' * 20}{more}",)) for more in ("", "code")]
    found = await predictor.predict(model, model.tasks[0], examples)
    assert len(found.batches) == 1
    assert predictor._cache is not None
    kept = predictor._cache.of(model, "qa").kept
    assert len({len(key) for key in kept}) == 2  # so one of them was padded
    for key, (_, logits) in kept.items():
        assert [output.shape for output in logits] == [(len(key) // 5,)] * 2
        assert all(output.base is None for output in logits)
    await predictor.drain(5)


async def test_other_graphs_keep_nothing(models_dir: Path, metrics: Metrics) -> None:
    """Their answers depend on what is beside them."""
    predictor = loading.load(Settings(models_dir=models_dir, models=("sentiment",), cache_mb=1), metrics)
    for _ in range(2):
        await asked(predictor, "a good film")
    assert runs(metrics) == 2
    assert value(metrics, "bertie_cache_bytes") == 0
    assert metrics.registry.get_sample_value("bertie_cache_misses_total", {"model": "sentiment"}) is None
    await predictor.drain(5)


async def test_by_default_nothing_is_kept(int8: Settings, metrics: Metrics) -> None:
    predictor = loading.load(int8.model_copy(update={"cache_mb": Settings().cache_mb}), metrics)
    for _ in range(2):
        await asked(predictor, "a good film")
    assert runs(metrics) == 2
    await predictor.drain(5)


async def test_a_failure_keeps_nothing(int8: Settings, metrics: Metrics) -> None:
    engine = FakeEngine((1.0, 0.0))
    predictor = load_with(sentiment=engine)(int8, metrics)
    engine.error = ValueError("broken")
    with pytest.raises(InferenceError):
        await asked(predictor, "a good film")
    engine.error = None
    assert value(metrics, "bertie_cache_bytes") == 0
    assert (await asked(predictor, "a good film")).answers[0].label == "negative"
    await predictor.drain(5)


async def test_a_client_that_leaves_keeps_nothing_wrong(int8: Settings, metrics: Metrics) -> None:
    engine = FakeEngine((1.0, 0.0))
    predictor = load_with(sentiment=engine)(int8, metrics)
    engine.gate.clear()
    gone = asked(predictor, "a good film")
    await until(engine.entered.is_set)
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    engine.gate.set()
    assert value(metrics, "bertie_cache_bytes") == 0
    both = await asyncio.gather(asked(predictor, "a good film"), asked(predictor, "a good film"))
    assert [each.answers[0].label for each in both] == ["negative"] * 2
    assert value(metrics, "bertie_cache_bytes") > 0
    await predictor.drain(5)


async def test_a_new_version_finds_nothing_of_the_old_one(int8: Settings, metrics: Metrics) -> None:
    predictor = load_with(sentiment=FakeEngine((1.0, 0.0)))(int8, metrics)
    assert (await asked(predictor, "a good film")).answers[0].label == "negative"
    other = load_with(sentiment=FakeEngine((0.0, 1.0)))(int8, Metrics())
    predictor.serving = {"sentiment": Serving(other.models["sentiment"])}
    gc.collect()
    assert value(metrics, "bertie_cache_bytes") == 0
    assert (await asked(predictor, "a good film")).answers[0].label == "positive"
    await predictor.drain(5)
    await other.drain(5)
