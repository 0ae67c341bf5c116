"""Versions that change while the service runs: loaded beside one another, switched, freed, refused."""

import asyncio
import contextlib
import gc
import json
import logging
import os
import shutil
import threading
import weakref
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from service.errors import BertieError, BundleError, RolloutError, UnknownModel
from service.metrics import Metrics
from service.predictor import Predictor
from service.repository import installing, loading, plan
from service.rollout import fitness
from service.rollout.rollouts import Rollouts, VersionState
from service.serving import Sender
from service.settings import Settings
from service.tasks import ClassificationExample
from tests.bundles import add_golden, change_file, change_manifest, make_bundle, make_version
from tests.engines import FakeEngine, load_with, until

TEXT = ClassificationExample("fun")


class Served:
    """A service's models, and the folder that they are from."""

    def __init__(self, predictor: Predictor, rollouts: Rollouts, folder: Path, metrics: Metrics) -> None:
        self.predictor, self.rollouts, self.folder, self.metrics = predictor, rollouts, folder, metrics

    @property
    def stable(self) -> str:
        return self.predictor.models["sentiment"].version

    async def answer(self, sender: Sender | None = None, version: str | None = None) -> tuple[str, float]:
        """The version that answers, and its score."""
        sender = sender or Sender({}, 0.999)
        model, task = self.predictor.choose("sentiment", TEXT, sender, version)
        found = await self.predictor.predict(model, task, [TEXT])
        return model.version, found.answers[0].score

    def states(self) -> dict[str, VersionState]:
        return {each.version: each for each in self.rollouts.describe("sentiment")}

    def swaps(self, outcome: str) -> float:
        return (
            self.metrics.registry.get_sample_value("bertie_swaps_total", {"model": "sentiment", "outcome": outcome})
            or 0
        )

    def info(self) -> set[tuple[str, str]]:
        found = self.metrics.version_info.collect()[0].samples
        return {(sample.labels["version"], sample.labels["role"]) for sample in found}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Versions 1, 2 and 3 of `sentiment`; 1 is stable. Each has a temperature of its own, and so scores of its own."""
    models = tmp_path / "models"
    for version in ("1", "2", "3"):
        make_version(models, "sentiment", version, temperature=float(version))
    with plan.edit(models / "sentiment") as edit:
        edit.plan = plan.Plan("1", warm=0)
    return models


@contextlib.asynccontextmanager
async def served(folder: Path, load: Any = loading.load, **values: Any) -> AsyncIterator[Served]:
    settings, metrics = Settings(models_dir=folder, device="cpu", workers=1, intra_op_threads=1, **values), Metrics()
    predictor = load(settings, metrics)
    rollouts = Rollouts(predictor, settings, metrics)
    await rollouts.start()
    try:
        async with asyncio.timeout(60):
            yield Served(predictor, rollouts, folder, metrics)
    finally:
        rollouts.close()
        await predictor.drain(5)


@pytest.fixture
async def service(folder: Path) -> AsyncIterator[Served]:
    async with served(folder) as found:
        yield found


def edit_plan(folder: Path, wanted: plan.Plan) -> None:
    with plan.edit(folder / "sentiment") as edit:
        edit.plan = wanted


# ---- steps ----------------------------------------------------------------------------------------------------------


async def test_promote_and_roll_back(service: Served) -> None:
    version, score = await service.answer()
    assert version == "1"
    assert await service.rollouts.change("sentiment", lambda now: plan.promote(now, "2")) == plan.Plan("2", ("1",), 0)
    assert await service.answer() == ("2", pytest.approx(1 / (1 + (1 / score - 1) ** 0.5), abs=1e-6))
    assert plan.read(service.folder / "sentiment").stable == "2"
    assert service.states()["2"].roles == ("stable",)
    await service.rollouts.change("sentiment", plan.rollback)
    assert await service.answer() == ("1", score)
    assert service.swaps("done") == 2


async def test_the_old_version_finishes_what_it_has_and_is_freed(folder: Path) -> None:
    engine = FakeEngine()
    async with served(folder, load_with(sentiment=engine)) as service:
        engine.gate.clear()
        running = asyncio.create_task(service.answer())
        await until(engine.entered.is_set)
        await service.rollouts.change("sentiment", lambda now: plan.promote(now, "2"))
        assert (await service.answer())[0] == "2" if service.predictor.schedulers["cpu"]._workers[1:] else True
        assert service.states()["1"].state == "draining"
        labels = {"model": "sentiment", "version": "1", "outcome": "answered"}
        engine.gate.set()
        assert (await running)[0] == "1"
        assert service.metrics.registry.get_sample_value("bertie_version_answers_total", labels) == 1
        del running
        await until(lambda: service.states()["1"].state == "available")
        assert service.metrics.registry.get_sample_value("bertie_version_answers_total", labels) is None
        assert service.states()["1"].roles == ("previous",)


async def test_a_canary_answers_its_share(service: Served) -> None:
    await service.rollouts.change("sentiment", lambda now: plan.canary(now, "2", 20.0, header="X-Canary"))
    assert (await service.answer(Sender({}, 0.1)))[0] == "2"
    assert (await service.answer(Sender({}, 0.3)))[0] == "1"
    assert (await service.answer(Sender({"x-canary": "true"}, 0.3)))[0] == "2"
    assert service.info() == {("1", "stable"), ("2", "canary")}
    await service.rollouts.change("sentiment", plan.promote)
    assert (service.stable, service.info()) == ("2", {("2", "stable")})


async def test_a_shadow_is_loaded_and_answers_nobody(service: Served) -> None:
    await service.rollouts.change("sentiment", lambda now: plan.shadow(now, "3", 50.0))
    assert (await service.answer(Sender({}, 0.0)))[0] == "1"
    assert (await service.answer(version="3"))[0] == "3"  # but who names it
    assert service.info() == {("1", "stable"), ("3", "shadow")}
    await service.rollouts.change("sentiment", plan.end)
    with pytest.raises(UnknownModel, match="no version '3'"):
        await service.answer(version="3")


async def test_previous_versions_may_stay_loaded(service: Served) -> None:
    edit_plan(service.folder, plan.Plan("1", warm=1))
    await service.rollouts.change("sentiment", lambda now: plan.promote(now, "2"))
    await service.rollouts.change("sentiment", lambda now: plan.promote(now, "3"))
    assert service.info() == {("3", "stable"), ("2", "warm")}
    opened = service.predictor.serving["sentiment"].others["2"]
    await service.rollouts.change("sentiment", plan.rollback)
    assert service.predictor.models["sentiment"] is opened


async def test_all_of_a_plan_is_loaded_at_the_start(folder: Path) -> None:
    edit_plan(folder, plan.Plan("2", ("1",), 1, shadow=plan.Shadow("3", 1.0)))
    async with served(folder) as service:
        assert service.info() == {("2", "stable"), ("1", "warm"), ("3", "shadow")}
        assert {each.state for each in service.states().values()} == {"ready"}


async def test_a_canary_that_is_broken_does_not_stop_the_start(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    edit_plan(folder, plan.Plan("1", canary=plan.Canary("2", 50.0)))
    (folder / "sentiment" / "2" / "model.fp32.onnx").write_bytes(b"broken")
    async with served(folder) as service:
        assert (await service.answer(Sender({}, 0.0)))[0] == "1"
        assert service.states()["2"].state == "failed"
        assert "sha256" in service.states()["2"].reason
    assert "goes on as it was" in caplog.text


# ---- what is refused ------------------------------------------------------------------------------------------------


def flip_a_bit(folder: Path) -> None:
    path = folder / "model.fp32.onnx"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (flip_a_bit, "sha256"),
        (lambda path: change_manifest(path, labels=["positive", "negative"]), r"has the labels .* clients rely on it"),
        (lambda path: change_manifest(path, labels=["bad", "good", "so"]), "has the labels"),
        (lambda path: change_manifest(path, multi_label=True), "has the multi_label True"),
        (lambda path: change_file(path, "model.fp32.onnx", b"no graph"), "no graph that ONNX Runtime can run"),
        (lambda path: change_file(path, "tokenizer.json", b"{}"), "tokenizer"),
        (lambda path: (path / "tokenizer.json").unlink(), "missing"),
        (lambda path: change_manifest(path, name="poetry"), "calls itself 'poetry'"),
    ],
)
async def test_a_version_that_is_not_right_leaves_the_old_one_serving(service: Served, harm: Any, message: str) -> None:
    before = await service.answer()
    harm(service.folder / "sentiment" / "2")
    for step in (lambda now: plan.promote(now, "2"), lambda now: plan.canary(now, "2", 50.0)):
        with pytest.raises(BundleError, match=message):
            await service.rollouts.change("sentiment", step)
    assert await service.answer(Sender({}, 0.0)) == before
    assert plan.read(service.folder / "sentiment") == plan.Plan("1", warm=0)
    assert service.states()["2"].state == "failed"
    assert service.states()["2"].reason
    assert service.swaps("refused") == 2


def flip_a_weight(folder: Path) -> None:
    """A bit of a weight flipped before the hashes were written: nothing but the answers can tell."""
    graph = onnx.load(folder / "model.fp32.onnx")
    tensor = max(graph.graph.initializer, key=lambda each: each.ByteSize())
    values = numpy_helper.to_array(tensor).copy()
    values[np.unravel_index(np.abs(values).argmax(), values.shape)] *= -1
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    change_file(folder, "model.fp32.onnx", graph.SerializeToString())


def another_tokenizer(folder: Path) -> None:
    """One of the same size, in which two words have changed places."""
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    words = content["model"]["vocab"]
    words["good"], words["awful"] = words["awful"], words["good"]
    change_file(folder, "tokenizer.json", json.dumps(content).encode())


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (flip_a_weight, "is .* from the expected one"),
        (another_tokenizer, "is .* from the expected one"),
        (lambda path: change_manifest(path, temperature=9.0), "the expected logits come to another answer"),
    ],
)
async def test_golden_rows_that_disagree(
    service: Served, harm: Any, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    version = service.folder / "sentiment" / "2"
    add_golden(version, *({"text": text} for text in ("good", "a great film", "an awful movie", "i love it", "sad")))
    await service.rollouts.verify("sentiment", "2")
    assert "no golden rows" not in caplog.text
    harm(version)
    before = await service.answer()
    with pytest.raises(BundleError, match=message):
        await service.rollouts.change("sentiment", lambda now: plan.promote(now, "2"))
    assert await service.answer() == before
    assert "golden.json" in service.states()["2"].reason


async def test_a_bundle_without_golden_rows_is_said_to_have_none(
    service: Served, caplog: pytest.LogCaptureFixture
) -> None:
    await service.rollouts.change("sentiment", lambda now: plan.promote(now, "2"))
    assert "bundle 'sentiment/2' has no golden rows for fp32: its answers are not checked" in caplog.text


async def test_another_task_under_the_same_name(service: Served) -> None:
    shutil.rmtree(service.folder / "sentiment" / "2")
    make_bundle(service.folder / "sentiment", "qa", name="2")
    change_manifest(service.folder / "sentiment" / "2", name="sentiment")
    with pytest.raises(BundleError, match=r"has the task 'span', and the version that serves 'classification'"):
        await service.rollouts.change("sentiment", lambda now: plan.promote(now, "2"))
    assert service.stable == "1"


async def test_more_memory_than_there_is(service: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitness.memory, "available", lambda: 1000.0)
    with pytest.raises(BundleError, match="0 MB of memory are left"):
        await service.rollouts.change("sentiment", lambda now: plan.promote(now, "2"))
    assert service.stable == "1"


async def test_memory_for_each_process(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = loading.find(folder)[0]
    most = max(path.stat().st_size for path in bundle.folder.glob("*.onnx"))
    monkeypatch.setattr(fitness.memory, "available", lambda: 2.5 * fitness.MEMORY_FACTOR * most)
    fitness.check_memory(bundle, 2)
    with pytest.raises(BundleError, match="memory are left"):
        fitness.check_memory(bundle, 3)


@pytest.mark.parametrize(
    ("error", "message"), [(MemoryError(), "no memory"), (OSError(28, "No space left on device"), "No space left")]
)
async def test_a_session_that_gets_no_memory_or_disk(folder: Path, error: Exception, message: str) -> None:
    def open_bundle(*_: Any) -> Any:
        raise error

    async with served(folder) as service:
        service.rollouts._open_bundle = open_bundle
        with pytest.raises(BundleError, match=f"'sentiment/2' cannot be loaded: .*{message}"):
            await service.rollouts.change("sentiment", lambda now: plan.promote(now, "2"))
        assert message in service.states()["2"].reason
        assert (await service.answer())[0] == "1"


async def test_the_watch_outlives_what_nobody_foresaw(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with served(folder, watch_seconds=0.02) as service:
        opens = service.rollouts._open_bundle

        def open_bundle(*_: Any) -> Any:
            raise RuntimeError("a surprise")

        service.rollouts._open_bundle = open_bundle
        edit_plan(folder, plan.Plan("2", warm=0))
        await until(lambda: "a surprise" in caplog.text)
        service.rollouts._open_bundle = opens
        edit_plan(folder, plan.Plan("3", warm=0))
        await until(lambda: service.stable == "3")


async def test_a_plan_that_cannot_be_written(service: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(plan.os, "replace", no_space)
    with pytest.raises(BundleError, match="No space left"):
        await service.rollouts.change("sentiment", lambda now: plan.promote(now, "2"))
    assert (await service.answer())[0] == "1"


async def test_two_admins_at_once(service: Served) -> None:
    """In one process they wait for one another; in two, the second hears that the plan is not what it has seen."""
    promote = service.rollouts.change("sentiment", lambda now: plan.promote(now, "2"))
    again = service.rollouts.change("sentiment", lambda now: plan.promote(now, "3"))
    await asyncio.gather(promote, again)
    assert plan.read(service.folder / "sentiment") == plan.Plan("3", ("2", "1"), 0)

    def step(now: plan.Plan) -> plan.Plan:
        edit_plan(service.folder, plan.rollback(now))  # the other process
        return plan.promote(now, "1")

    with pytest.raises(RolloutError, match="changed meanwhile"):
        await service.rollouts.change("sentiment", step)
    assert service.stable == "3"
    assert plan.read(service.folder / "sentiment").stable == "2"


async def test_who_asked_may_go(service: Served) -> None:
    asked = asyncio.create_task(service.rollouts.change("sentiment", lambda now: plan.promote(now, "2")))
    await asyncio.sleep(0)
    asked.cancel()
    await until(lambda: service.stable == "2")
    assert plan.read(service.folder / "sentiment").stable == "2"


@pytest.mark.parametrize("name", ["poetry", "../sentiment", ""])
async def test_a_model_that_is_not_there(service: Served, name: str) -> None:
    with pytest.raises(UnknownModel):
        await service.rollouts.change(name, plan.rollback)
    assert service.rollouts.describe(name) == []


async def test_a_model_that_is_not_to_be_served(folder: Path) -> None:
    make_bundle(folder, "nli")
    async with served(folder, models=("sentiment",)) as service:
        with pytest.raises(UnknownModel):
            await service.rollouts.apply("nli")


async def test_a_device_where_nothing_runs(service: Served) -> None:
    schedulers = service.predictor.schedulers
    service.predictor.schedulers = {}
    with pytest.raises(BundleError, match="restart the service"):
        await service.rollouts.change("sentiment", lambda now: plan.promote(now, "2"))
    service.predictor.schedulers = schedulers
    assert service.stable == "1"


# ---- the folder -----------------------------------------------------------------------------------------------------


async def test_add_verify_and_remove(service: Served, tmp_path: Path) -> None:
    source = make_version(tmp_path / "new", "sentiment", "x", temperature=4.0)
    change_manifest(source, name="sentiment")
    assert await service.rollouts.add("sentiment", str(source)) == "4"
    assert service.stable == "1"
    assert service.states()["4"].state == "available"
    await service.rollouts.verify("sentiment", "4")
    assert service.states()["4"].state == "available"
    await service.rollouts.remove("sentiment", "4")
    assert "4" not in service.states()
    with pytest.raises(RolloutError, match="is stable"):
        await service.rollouts.remove("sentiment", "1")
    with pytest.raises(BertieError, match="no version '7'"):
        await service.rollouts.verify("sentiment", "7")


async def test_a_version_from_elsewhere(folder: Path, tmp_path: Path) -> None:
    source = make_version(tmp_path / "new", "sentiment", "x", temperature=4.0)
    async with served(folder, cache_dir=tmp_path / "cache") as service:
        assert await service.rollouts.add("sentiment", f"file://{source}", "remote") == "remote"
        await service.rollouts.change("sentiment", lambda now: plan.promote(now, "remote"))
        assert (await service.answer())[0] == "remote"
        with pytest.raises(BundleError, match="nowhere"):
            await service.rollouts.add("sentiment", f"file://{tmp_path}/nowhere")


async def test_models_by_reference_have_no_folder(folder: Path, tmp_path: Path) -> None:
    """They serve, and change when the settings do."""
    source = make_bundle(tmp_path / "new", "sentiment")
    models = (f"sentiment=file://{source}",)
    async with served(folder, models=models, cache_dir=tmp_path / "cache", watch_seconds=0.02) as service:
        assert service.stable == installing.files.digest((source / "manifest.json").read_bytes())
        await asyncio.sleep(0.1)
        with pytest.raises(UnknownModel):
            await service.rollouts.change("sentiment", lambda now: plan.promote(now, "2"))


async def test_the_first_version_that_is_added_does_not_serve(tmp_path: Path) -> None:
    """A folder without a plan serves the last in order; to add one is not to promote it."""
    make_bundle(tmp_path / "models", "sentiment")
    async with served(tmp_path / "models", watch_seconds=0.02) as service:
        digest = service.stable
        source = make_version(tmp_path / "new", "sentiment", "x", temperature=2.0)
        assert await service.rollouts.add("sentiment", str(source)) == "1"
        await asyncio.sleep(0.2)
        assert service.stable == digest
        assert plan.read(service.folder / "sentiment").stable == digest


async def test_the_folder_is_watched(folder: Path) -> None:
    async with served(folder, watch_seconds=0.02) as service:
        edit_plan(folder, plan.Plan("2", ("1",), 0))
        await until(lambda: service.stable == "2")
        make_bundle(folder, "nli")
        await until(lambda: "nli" in service.predictor.models)  # a model that is new


async def test_without_a_plan_a_new_version_serves(folder: Path, tmp_path: Path) -> None:
    (folder / "sentiment" / plan.PLAN).unlink()
    async with served(folder, watch_seconds=0.02) as service:
        assert service.stable == "3"
        copy = make_version(tmp_path / "copy", "sentiment", ".incoming", temperature=9.0)
        shutil.copytree(copy, folder / "sentiment" / ".half")
        await asyncio.sleep(0.1)
        assert set(service.states()) == {"1", "2", "3"}
        os.rename(folder / "sentiment" / ".half", folder / "sentiment" / "10")
        await until(lambda: service.stable == "10")


async def test_what_is_refused_is_not_tried_again_and_again(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with served(folder, watch_seconds=0.02) as service:
        flip_a_bit(folder / "sentiment" / "2")
        edit_plan(folder, plan.Plan("2", warm=0))
        await until(lambda: service.swaps("refused"))
        await asyncio.sleep(0.2)
        assert (service.swaps("refused"), service.stable) == (1, "1")
        edit_plan(folder, plan.Plan("3", warm=0))
        await until(lambda: service.stable == "3")


async def test_a_folder_that_is_away_changes_nothing(folder: Path) -> None:
    async with served(folder, watch_seconds=0.02) as service:
        os.rename(folder, folder.with_name("away"))
        await asyncio.sleep(0.1)
        assert (await service.answer())[0] == "1"
        assert {each.version for each in service.rollouts.describe("sentiment")} == {"1"}
        os.rename(folder.with_name("away"), folder)
        edit_plan(folder, plan.Plan("2", warm=0))
        await until(lambda: service.stable == "2")


async def test_a_root_bundle_that_is_replaced(tmp_path: Path) -> None:
    """Its version is its content, so another content is another version."""
    folder = make_bundle(tmp_path / "models", "sentiment")
    async with served(tmp_path / "models") as service:
        before = service.stable
        change_manifest(folder, temperature=2.0)
        await service.rollouts.apply("sentiment")
        assert service.stable != before
        assert installing.files.digest((folder / "manifest.json").read_bytes()) == service.stable


# ---- the end --------------------------------------------------------------------------------------------------------


async def test_a_stop_does_not_wait_for_a_swap(folder: Path) -> None:
    gate = threading.Event()
    async with served(folder) as service:

        def open_bundle(*given: Any) -> Any:
            gate.wait(30)
            return loading.open_bundle(*given)

        service.rollouts._open_bundle = open_bundle
        asked = asyncio.create_task(service.rollouts.change("sentiment", lambda now: plan.promote(now, "2")))
        await until(lambda: service.states()["2"].state == "loading")
        assert not service.rollouts.close()
        with pytest.raises(asyncio.CancelledError):
            await asked
        assert (await service.answer())[0] == "1"
        gate.set()
    assert plan.read(folder / "sentiment").stable == "1"


async def test_nothing_is_left_of_many_swaps(service: Served) -> None:
    names, left = ("1", "2"), []
    for i in range(6):
        serving = service.predictor.models["sentiment"]
        left += [weakref.ref(serving), weakref.ref(serving.runner), weakref.ref(serving.runner.engine)]
        del serving
        await service.rollouts.change("sentiment", lambda now, i=i: plan.promote(now, names[(i + 1) % 2]))
    await until(lambda: all(each.state != "draining" for each in service.states().values()))
    gc.collect()
    assert [each() for each in left] == [None] * 18


async def test_what_happened_is_logged(service: Served, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    await service.rollouts.change("sentiment", lambda now: plan.promote(now, "2"))
    assert "model 'sentiment': stable 2, canary none, beside none" in caplog.text
