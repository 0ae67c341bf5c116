"""A broken bundle is named, with what is wrong with it."""

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from service.errors import BundleError
from service.repository import bundle as bundles
from service.repository.bundle import FORMAT, MANIFEST, Bundle, Graph, Manifest

Factory = Callable[..., Path]


def change(folder: Path, **fields: Any) -> None:
    """Replaces fields of the manifest on disk; None takes one out."""
    path = folder / MANIFEST
    values = json.loads(path.read_text(encoding="utf-8")) | fields
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not None}), encoding="utf-8")


def refused(folder: Path, match: str) -> None:
    with pytest.raises(BundleError, match=match) as error:
        bundles.load(folder)
    assert f"bundle {folder.name!r}" in error.value.detail


@pytest.mark.parametrize("kind", ["sentiment", "nli", "qa", "choice"])
def test_a_whole_bundle_is_read_as_it_was_written(bundle_factory: Factory, kind: str) -> None:
    folder = bundle_factory(kind)
    bundle = bundles.load(folder)
    content = (folder / MANIFEST).read_bytes()
    assert bundle.name == kind
    assert bundle.folder == folder
    assert bundle.manifest.to_json().encode() == content
    assert bundle.version == hashlib.sha256(content).hexdigest()[:12]
    assert bundle.manifest.format == FORMAT


def test_the_version_names_the_content(bundle_factory: Factory) -> None:
    folder = bundle_factory("sentiment")
    before = bundles.load(folder).version
    change(folder, max_length=63)
    assert bundles.load(folder).version != before


def test_fields_of_a_later_version_are_passed_over(bundle_factory: Factory) -> None:
    folder = bundle_factory("sentiment")
    change(folder, colour="green")
    assert bundles.load(folder).name == "sentiment"


@pytest.mark.parametrize("name", ["model.fp32.onnx", "tokenizer.json"])
def test_a_changed_file_is_refused(bundle_factory: Factory, name: str) -> None:
    folder = bundle_factory("sentiment")
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    refused(folder, f"{name} has sha256")


@pytest.mark.parametrize("name", ["model.fp32.onnx", "tokenizer.json", MANIFEST])
def test_a_missing_file_is_named(bundle_factory: Factory, name: str) -> None:
    folder = bundle_factory("sentiment")
    (folder / name).unlink()
    refused(folder, f"{name} is missing")


@pytest.mark.parametrize("name", ["../outside", "sub/file", "/etc/hostname", "..", "", "a\x00b"])
def test_a_file_outside_the_folder_is_refused(bundle_factory: Factory, name: str) -> None:
    folder = bundle_factory("sentiment")
    (folder.parent / "outside").write_bytes(b"secret")
    files = json.loads((folder / MANIFEST).read_text())["files"]
    change(folder, files=files | {name: hashlib.sha256(b"secret").hexdigest()})
    refused(folder, ".")


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"format": 2}, "not of format 1"),
        ({"format": None}, "not of format 1"),
        ({"name": None}, "no 'name' of type str"),
        ({"name": 7}, "no 'name' of type str"),
        ({"task": "poetry"}, "the task 'poetry', which this version does not serve"),
        ({"labels": []}, "no labels"),
        ({"labels": ["only"]}, "no labels"),
        ({"labels": None}, "no labels"),
        ({"labels": 3}, "int"),
        ({"max_length": "long"}, "no 'max_length' of type int"),
        ({"files": []}, "no 'files' of type dict"),
        ({"files": {}}, "no sha256 of tokenizer.json"),
        ({"graphs": {}}, "no 'graphs' of type list"),
        ({"graphs": [{"file": "other.onnx", "precision": "fp32"}]}, "no sha256 of other.onnx"),
        ({"graphs": [{"precision": "fp32"}]}, "file"),
        ({"graphs": ["model.fp32.onnx"]}, "."),
        ({"architecture": None}, "architecture"),
        ({"temperature": 0.0}, "the temperature 0.0"),
        ({"temperature": float("nan")}, "the temperature nan"),
        ({"temperature": "warm"}, "<"),
        ({"calibration": {"rows": 3}}, "missing"),
    ],
)
def test_a_manifest_that_makes_no_sense_is_refused(bundle_factory: Factory, fields: dict[str, Any], match: str) -> None:
    folder = bundle_factory("sentiment")
    change(folder, **fields)
    refused(folder, match)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b'"text"', b"\xff\xfe{}"])
def test_a_manifest_that_is_no_json_object_is_refused(bundle_factory: Factory, content: bytes) -> None:
    folder = bundle_factory("sentiment")
    (folder / MANIFEST).write_bytes(content)
    refused(folder, ".")


@pytest.mark.parametrize("kind", ["qa", "choice"])
def test_a_bundle_of_another_task_needs_no_labels(bundle_factory: Factory, kind: str) -> None:
    assert bundles.load(bundle_factory(kind)).manifest.labels == ()


def test_a_bundle_from_before_multi_label_models_has_one_label_a_text(bundle_factory: Factory) -> None:
    folder = bundle_factory("sentiment")
    change(folder, multi_label=None, label_threshold=None)
    assert not bundles.load(folder).manifest.multi_label


def test_packed_graphs_are_read_as_they_were_written(bundle_factory: Factory) -> None:
    folder = bundle_factory("sentiment")
    before = bundles.load(folder).manifest
    assert not any(graph.packed for graph in before.graphs)
    packed = dataclasses.replace(before.graphs[0], packed=True)
    manifest = dataclasses.replace(before, graphs=(*before.graphs, packed))
    (folder / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    assert bundles.load(folder).manifest == manifest


def test_a_graph_from_before_packed_ones_is_not_packed(bundle_factory: Factory) -> None:
    folder = bundle_factory("sentiment")
    graphs = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["graphs"]
    assert all(graph.pop("packed") is False for graph in graphs)
    change(folder, graphs=graphs)
    assert [graph.packed for graph in bundles.load(folder).manifest.graphs] == [False] * len(graphs)


# ---- graphs ---------------------------------------------------------------------------------------------------------


def bundle_of(*precisions: str) -> Bundle:
    """Of graphs in those precisions, packed where one ends in a star."""
    graphs = tuple(
        Graph(f"model.{precision}.onnx", precision.rstrip("*"), packed=precision.endswith("*"))
        for precision in precisions
    )
    manifest = Manifest(FORMAT, "tiny", "span", "bert", 1, 64, graphs, {})
    return Bundle(Path("models/tiny"), manifest, "0" * 12)


@pytest.mark.parametrize(
    ("precisions", "cpu", "cuda"),
    [
        (("fp32",), "fp32", "fp32"),
        (("fp32", "int8"), "int8", "fp32"),
        (("int8", "fp16", "fp32"), "int8", "fp16"),
        (("fp32", "fp16"), "fp32", "fp16"),
    ],
)
def test_each_provider_gets_the_graph_that_suits_it(precisions: tuple[str, ...], cpu: str, cuda: str) -> None:
    bundle = bundle_of(*precisions)
    assert bundle.graph_for("cpu").precision == cpu
    assert bundle.graph_for("cuda").precision == cuda


@pytest.mark.parametrize(
    ("precisions", "cpu", "cuda"),
    [
        (("fp32", "fp32*"), "fp32", "fp32*"),
        (("fp32*", "fp32"), "fp32", "fp32*"),
        (("int8", "w8a16", "fp16", "w8a16*", "fp16*"), "int8", "fp16*"),
        (("int8", "w8a16", "w8a16*"), "int8", "w8a16*"),
        (("int8", "fp16", "fp32*"), "int8", "fp16"),  # a better precision goes first
    ],
)
def test_cuda_gets_the_packed_graph_of_its_precision(precisions: tuple[str, ...], cpu: str, cuda: str) -> None:
    bundle = bundle_of(*precisions)
    assert bundle.graph_for("cpu").file == f"model.{cpu}.onnx"
    assert bundle.graph_for("cuda").file == f"model.{cuda}.onnx"


def test_no_cpu_gets_a_packed_graph() -> None:
    with pytest.raises(BundleError, match=r"'tiny' has fp16 and no graph for cpu"):
        bundle_of("fp16", "fp32*").graph_for("cpu")


def test_no_graph_for_the_provider_says_how_to_export_one() -> None:
    with pytest.raises(BundleError, match=r"'tiny' has fp16 and no graph for cpu .*training export .* int8"):
        bundle_of("fp16").graph_for("cpu")
    with pytest.raises(BundleError, match=r"'tiny' has int8 and no graph for cuda .*training export .* fp16"):
        bundle_of("int8").graph_for("cuda")


# ---- finding --------------------------------------------------------------------------------------------------------


def test_find_all_in_the_order_of_their_names(models_dir: Path) -> None:
    assert [path.name for path in bundles.find(models_dir)] == ["nli", "qa", "sentiment"]


def test_find_those_that_are_named_in_that_order(models_dir: Path) -> None:
    assert [path.name for path in bundles.find(models_dir, ("sentiment", "nli"))] == ["sentiment", "nli"]


def test_find_passes_over_what_is_no_bundle(bundle_factory: Factory) -> None:
    folder = bundle_factory("qa")
    (folder.parent / "notes").mkdir()
    (folder.parent / "README.md").write_text("")
    assert bundles.find(folder.parent) == [folder]


def test_find_says_what_there_is(models_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"no bundle 'poetry' .*nli, qa, sentiment"):
        bundles.find(models_dir, ("qa", "poetry"))
    with pytest.raises(BundleError, match=r"no folder of it has a manifest\.json"):
        bundles.find(tmp_path)
    with pytest.raises(BundleError, match="holds none"):
        bundles.find(tmp_path, ("qa",))
    with pytest.raises(BundleError, match="BERTIE_MODELS_DIR"):
        bundles.find(tmp_path / "absent")


def test_weights_that_the_manifest_does_not_name_are_refused(bundle_factory: Callable[..., Path]) -> None:
    folder = bundle_factory("sentiment")
    (folder / "weights.bin").write_bytes(b"unchecked")
    with pytest.raises(BundleError, match=r"no sha256 of weights\.bin"):
        bundles.load(folder)
