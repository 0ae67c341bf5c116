"""A manifest is believed where it makes sense; where not, one line names the field."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from service.repository.bundle import load
from service.repository.manifest import FORMAT, MANIFEST, Manifest, parse
from tests.bundles import change_manifest

Factory = Callable[..., Path]
SHA = "0" * 64
PLAIN = {
    "format": FORMAT,
    "name": "tiny",
    "task": "classification",
    "architecture": "bert",
    "parameters": 1,
    "max_length": 64,
    "labels": ["no", "yes"],
    "graphs": [{"file": "model.onnx", "precision": "fp32"}],
    "files": {"model.onnx": SHA, "tokenizer.json": SHA},
}


def parsed(**fields: Any) -> Manifest:
    """A manifest with these fields changed; None takes one out."""
    values = {key: value for key, value in (PLAIN | fields).items() if value is not None}
    return parse(json.dumps(values).encode())


def test_what_is_not_said_has_its_default() -> None:
    manifest = parsed()
    assert (manifest.temperature, manifest.doc_stride, manifest.calibration, manifest.data) == (1.0, 0, None, {})
    assert manifest.labels == ("no", "yes")
    assert not manifest.graphs[0].packed


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", None),
        ("name", 7),
        ("name", ""),
        ("name", "a\nb"),
        ("name", "a/b"),
        ("name", "a\x1b[31m"),
        ("name", "n" * 101),
        ("task", None),
        ("task", 3),
        ("architecture", None),
        ("architecture", "a\nb"),
        ("parameters", None),
        ("parameters", -1),
        ("max_length", None),
        ("max_length", "long"),
        ("max_length", 10**9),
        ("max_length", 0),
        ("max_length", -64),
        ("max_length", 1.5),
        ("max_length", float("inf")),
        ("max_length", 10**400),
        ("labels", 3),
        ("labels", [""]),
        ("labels", ["l" * 501]),
        ("labels", [["nested"]]),
        ("doc_stride", 10**9),
        ("doc_stride", -1),
        ("temperature", 0.0),
        ("temperature", -1.0),
        ("temperature", float("nan")),
        ("temperature", float("inf")),
        ("temperature", "warm"),
        ("label_threshold", 2.0),
        ("label_threshold", float("nan")),
        ("no_answer_threshold", float("nan")),
        ("no_answer", "perhaps"),
        ("graphs", []),
        ("graphs", {}),
        ("graphs", ["model.onnx"]),
        ("graphs", [{"precision": "fp32"}]),
        ("graphs", [{"file": "../model.onnx", "precision": "fp32"}]),
        ("graphs", [{"file": "model.onnx", "precision": "fp32", "scores": {"dev": {"f1": "high"}}}]),
        ("files", None),
        ("files", []),
        ("files", {"tokenizer.json": "0"}),
        ("files", {"tokenizer.json": SHA.upper().replace("0", "A")}),
        ("files", {"../outside": SHA}),
        ("files", {".hidden": SHA}),
        ("files", {"a\nb": SHA}),
        ("files", {"x" * 5000: SHA}),
        ("files", {"": SHA}),
        ("calibration", {"rows": 3}),
        ("data", {"train": 3}),
        ("versions", []),
    ],
)
def test_a_field_that_makes_no_sense_is_named_in_one_line(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^manifest\.json: {field}\b") as error:
        parsed(**{field: value})
    message = str(error.value)
    assert message.isprintable()
    assert len(message) <= 300


def test_two_labels_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^manifest\.json: .*two labels are the same"):
        parsed(labels=["yes", "yes"])


@pytest.mark.parametrize("value", [None, 0, 2, "1", [], float("nan")])
def test_another_format_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match=r"^manifest\.json is not of format 1; export the bundle again"):
        parsed(format=value)


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"files": {}}, "tokenizer.json"),
        ({"files": {"model.onnx": SHA}}, "tokenizer.json"),
        ({"graphs": [{"file": "other.onnx", "precision": "fp32"}]}, "other.onnx"),
    ],
)
def test_what_is_served_has_a_hash(fields: dict[str, Any], name: str) -> None:
    with pytest.raises(ValueError, match=f"has no sha256 of {name}"):
        parsed(**fields)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b'"text"', b"\xff\xfe{}", b"[" * 100_000, b"9" * 5000])
def test_what_is_no_json_object_is_refused(content: bytes) -> None:
    with pytest.raises((ValueError, RecursionError)):
        parse(content)


@pytest.mark.parametrize("kind", ["qa", "choice"])
def test_a_bundle_of_another_task_needs_no_labels(bundle_factory: Factory, kind: str) -> None:
    assert load(bundle_factory(kind)).manifest.labels == ()


def test_a_bundle_from_before_multi_label_models_has_one_label_a_text(bundle_factory: Factory) -> None:
    folder = bundle_factory("sentiment")
    change_manifest(folder, multi_label=None, label_threshold=None)
    assert not load(folder).manifest.multi_label


def test_packed_graphs_are_read_as_they_were_written(bundle_factory: Factory) -> None:
    folder = bundle_factory("sentiment")
    before = load(folder).manifest
    assert not any(graph.packed for graph in before.graphs)
    packed = dataclasses.replace(before.graphs[0], packed=True)
    manifest = dataclasses.replace(before, graphs=(*before.graphs, packed))
    (folder / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    assert load(folder).manifest == manifest


def test_a_graph_from_before_packed_ones_is_not_packed(bundle_factory: Factory) -> None:
    folder = bundle_factory("sentiment")
    graphs = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["graphs"]
    assert all(graph.pop("packed") is False for graph in graphs)
    change_manifest(folder, graphs=graphs)
    assert [graph.packed for graph in load(folder).manifest.graphs] == [False] * len(graphs)
