"""What a start opens, and that a bundle that cannot work stops it in one line that names the bundle."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tokenizers
from onnx import helper, numpy_helper

from service.engine.batch import Encoded, pad
from service.engine.session import OrtEngine
from service.errors import BundleError
from service.metrics import Metrics
from service.predictor import Predictor
from service.repository import loading
from service.repository.loading import BATCH_TOKENS, LOW_LATENCY_TOKENS
from service.repository.manifest import MANIFEST, TOKENIZER
from service.settings import Settings
from service.tasks import ClassificationExample
from tests.bundles import change_file, change_manifest

Factory = Callable[..., Path]


@pytest.fixture(autouse=True)
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "cpu_quota", lambda: 2)


async def closed(predictor: Predictor) -> None:
    assert await predictor.drain(5)


# ---- what is opened -------------------------------------------------------------------------------------------------


async def test_load_tells_of_every_model(settings: Settings, metrics: Metrics) -> None:
    predictor = loading.load(settings, metrics)
    assert list(predictor.models) == ["nli", "qa", "sentiment"]
    assert predictor.ready
    for name, model in predictor.models.items():
        labels = {
            "model": name,
            "task": "span" if name == "qa" else "classification",
            "architecture": "bert",
            "precision": "fp32",
            "provider": "cpu",
            "version": model.bundle.version,
        }
        assert metrics.registry.get_sample_value("bertie_model_info", labels) == 1
        assert metrics.registry.get_sample_value("bertie_model_loaded_timestamp_seconds", {"model": name})
        assert metrics.registry.get_sample_value("bertie_queue_rows", {"model": name}) == 0
        assert model.summary["version"] == model.bundle.version
    await closed(predictor)


async def test_load_takes_the_models_that_are_named(settings: Settings, metrics: Metrics) -> None:
    predictor = loading.load(settings.model_copy(update={"models": ("qa",)}), metrics)
    assert list(predictor.models) == ["qa"]
    await closed(predictor)


async def test_all_models_of_a_device_share_one_pool(models_dir: Path, metrics: Metrics) -> None:
    predictor = loading.load(Settings(models_dir=models_dir, low_latency=False), metrics)
    (scheduler,) = {model.scheduler for model in predictor.models.values()}
    assert len(scheduler._workers) == 2  # a core each, of all models together
    await closed(predictor)


async def test_bundles_of_one_encoder_share_a_tokenizer(
    models_dir: Path, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = loading.Tokenizer.from_bytes
    times: list[int] = []
    monkeypatch.setattr(loading.Tokenizer, "from_bytes", lambda content: times.append(1) or read(content))
    predictor = loading.load(Settings(models_dir=models_dir, low_latency=False), metrics)
    assert len(times) == 1
    await closed(predictor)


async def test_each_model_has_a_low_latency_session_of_its_own(models_dir: Path, metrics: Metrics) -> None:
    settings = Settings(models_dir=models_dir, models=("sentiment", "nli"), max_batch_tokens=512)
    predictor = loading.load(settings, metrics)
    batch = pad([Encoded(np.arange(9), np.zeros(9, dtype=np.int64))], 0)
    widths = set()
    for model in predictor.models.values():
        runner = model.runner
        assert (runner.batch_tokens, runner.low_latency_tokens) == (512, LOW_LATENCY_TOKENS)
        assert isinstance(runner.low_latency, OrtEngine)
        assert runner.low_latency is not runner.engine
        assert runner.low_latency._session.get_session_options().intra_op_num_threads == 2
        widths.add(runner.low_latency.run(batch)[0].shape)
    assert widths == {(1, 2), (1, 3)}
    await closed(predictor)


@pytest.mark.parametrize(
    ("cores", "values"),
    [(1, {}), (2, {"low_latency": False}), (2, {"workers": 1}), (2, {"intra_op_threads": 2})],
)
async def test_no_second_copy_of_the_weights_where_it_is_not_wanted(
    models_dir: Path, metrics: Metrics, monkeypatch: pytest.MonkeyPatch, cores: int, values: dict[str, Any]
) -> None:
    monkeypatch.setattr(loading, "cpu_quota", lambda: cores)
    monkeypatch.setattr(loading, "open_low_latency", lambda *_: pytest.fail("a second session was opened"))
    predictor = loading.load(Settings(models_dir=models_dir, models=("sentiment",), **values), metrics)
    assert predictor.models["sentiment"].runner.low_latency is None
    await closed(predictor)


async def test_a_batch_holds_the_longest_row(bundle_factory: Factory, metrics: Metrics) -> None:
    folder = bundle_factory("qa", max_length=BATCH_TOKENS["cpu"] + 1)
    bundle_factory("sentiment")
    predictor = loading.load(Settings(models_dir=folder.parent, low_latency=False), metrics)
    found = {name: model.runner.batch_tokens for name, model in predictor.models.items()}
    assert found == {"qa": BATCH_TOKENS["cpu"] + 1, "sentiment": BATCH_TOKENS["cpu"]}
    await closed(predictor)


async def test_a_model_in_use_outlives_its_bundles_files(bundle_factory: Factory, metrics: Metrics) -> None:
    """A new version that is copied over an old one does no harm to those who run it."""
    folder = bundle_factory("sentiment", external=True)
    predictor = loading.load(Settings(models_dir=folder.parent), metrics)
    for path in folder.iterdir():
        path.write_bytes(b"")
    model = predictor.models["sentiment"]
    done = await predictor.predict(model, model.tasks[0], [ClassificationExample("a great film")])
    assert done.answers[0].label == "positive"
    await closed(predictor)


# ---- what is refused ------------------------------------------------------------------------------------------------


def refused(folder: Path, match: str) -> None:
    """The start stops, and says in one line which bundle is broken and how."""
    with pytest.raises(BundleError, match=match) as error:
        loading.load(Settings(models_dir=folder.parent, device="cpu", workers=1), Metrics())
    assert f"bundle {folder.name!r}" in error.value.detail
    assert "\n" not in error.value.detail


@pytest.mark.parametrize(
    ("kind", "changes", "match"),
    [
        ("qa", {"doc_stride": 40}, "doc_stride of 40 leaves no room"),
        ("sentiment", {"labels": ("only",)}, "two labels or more"),
        ("sentiment", {"labels": ()}, "two labels or more"),
        (
            "sentiment",
            {"task": "poetry"},
            "'poetry' is no task; there are classification, multiple_choice, score, span",
        ),
        ("sentiment", {"labels": ("a", "b", "c")}, r"gives \(2,\) numbers a row where its task and labels want \(3,\)"),
        ("sentiment", {"labels": ("a", "b", "c"), "multi_label": True}, r"gives \(2,\) .* want \(3,\)"),
        ("sentiment", {"task": "span", "doc_stride": 16}, r"gives \(2,\) .* want \(64, 64\)"),
        ("qa", {"task": "multiple_choice"}, r"gives \(64, 64\) .* want \(1,\)"),
        ("nli", {"task": "multiple_choice"}, r"gives \(3,\) .* want \(1,\)"),
    ],
)
def test_what_cannot_work_is_refused(bundle_factory: Factory, kind: str, changes: dict[str, Any], match: str) -> None:
    refused(bundle_factory(kind, **changes), match)


@pytest.mark.parametrize("content", [b"", b"{}", b"no json", b"\xff"])
def test_a_tokenizer_that_is_broken_is_refused(bundle_factory: Factory, content: bytes) -> None:
    folder = bundle_factory("qa")
    change_file(folder, TOKENIZER, content)
    refused(folder, "its tokenizer or task cannot be used")


def test_a_tokenizer_with_more_pieces_than_the_embedding_is_refused(bundle_factory: Factory) -> None:
    folder = bundle_factory("sentiment")
    backend = tokenizers.Tokenizer.from_file(str(folder / TOKENIZER))
    backend.add_tokens(["wurzelbrunft"])
    size = backend.get_vocab_size()
    change_file(folder, TOKENIZER, backend.to_str().encode())
    refused(folder, f"its graph fails on a row of 64 tokens, the last of the tokenizer's {size} pieces among them")


def test_a_longest_row_beyond_the_graphs_positions_is_refused(bundle_factory: Factory) -> None:
    folder = bundle_factory("sentiment")
    limit_positions(folder, 64)
    change_manifest(folder, max_length=65)
    refused(folder, "its graph fails on a row of 65 tokens")


async def test_a_longest_row_of_all_positions_is_not(bundle_factory: Factory, metrics: Metrics) -> None:
    folder = bundle_factory("sentiment")
    limit_positions(folder, 64)
    await closed(loading.load(Settings(models_dir=folder.parent), metrics))


def limit_positions(folder: Path, count: int) -> None:
    """Give a bundle's graph a table of positions, as encoders have one, with rows for so many tokens."""
    path = folder / "model.fp32.onnx"
    model = onnx.load(path)
    graph = model.graph
    constants = {"p.one": np.array(1), "p.zero": np.array(0), "p.table": np.zeros(count, np.int64)}
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    for node in graph.node:
        node.input[:] = ["p.ids" if name == "input_ids" else name for name in node.input]
    nodes = [
        helper.make_node("Shape", ["input_ids"], ["p.shape"]),
        helper.make_node("Gather", ["p.shape", "p.one"], ["p.tokens"]),
        helper.make_node("Range", ["p.zero", "p.tokens", "p.one"], ["p.places"]),
        helper.make_node("Gather", ["p.table", "p.places"], ["p.positions"]),
        helper.make_node("Add", ["input_ids", "p.positions"], ["p.ids"]),
    ]
    for i, node in enumerate(nodes):
        graph.node.insert(i, node)
    change_file(folder, path.name, model.SerializeToString())


async def test_two_bundles_of_one_name_are_refused(bundle_factory: Factory) -> None:
    bundle_factory("qa", name="first")
    change_manifest(second := bundle_factory("qa", name="second"), name="first")
    refused(second, "'second' calls itself 'first'")


def test_a_label_that_is_none_is_no_label(bundle_factory: Factory) -> None:
    folder = bundle_factory("sentiment")
    values = json.loads((folder / MANIFEST).read_text())
    change_manifest(folder, labels=[*values["labels"], None])
    refused(folder, r"manifest\.json: labels\.2")
