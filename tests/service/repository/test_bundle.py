"""A broken bundle is named, with what is wrong with it."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from service.engine.batch import Encoded, pad
from service.engine.session import OrtEngine
from service.errors import BundleError
from service.repository import bundle as bundles
from service.repository import files
from service.repository.bundle import Bundle
from service.repository.files import MAX_MANIFEST
from service.repository.manifest import FORMAT, MANIFEST, WEIGHTS, Graph, Manifest
from tests.bundles import VOCABULARY, change_file, change_manifest

Factory = Callable[..., Path]


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
    assert bundle.digest == bundle.version == hashlib.sha256(content).hexdigest()[:12]
    assert bundle.label == kind
    assert bundle.manifest.format == FORMAT


def test_the_digest_names_the_content(bundle_factory: Factory) -> None:
    folder = bundle_factory("sentiment")
    before = bundles.load(folder).digest
    change_manifest(folder, max_length=63)
    assert bundles.load(folder).digest != before


def test_a_version_has_its_folders_name(bundle_factory: Factory) -> None:
    folder = bundle_factory("sentiment", name="sentiment/3")
    change_manifest(folder, name="sentiment")
    digest = files.digest((folder / MANIFEST).read_bytes())
    bundle = bundles.load(folder, "3")
    assert (bundle.name, bundle.version, bundle.digest, bundle.label) == ("sentiment", "3", digest, "sentiment/3")
    assert bundles.load(folder).version == digest  # where nobody says that it is a version
    (folder / "tokenizer.json").unlink()
    with pytest.raises(BundleError, match=r"^bundle 'sentiment/3': tokenizer\.json is missing"):
        bundles.load(folder, "3")


def test_a_version_must_bear_the_models_name(bundle_factory: Factory) -> None:
    folder = bundle_factory("sentiment", name="mood/3")
    change_manifest(folder, name="sentiment")
    with pytest.raises(
        BundleError, match=r"^bundle 'mood/3' calls itself 'sentiment': move it to sentiment/3, or .*'mood'"
    ):
        bundles.load(folder, "3")


def test_a_bundle_of_its_own_may_have_another_name_than_its_folder(bundle_factory: Factory) -> None:
    folder = bundle_factory("sentiment", name="mood")
    change_manifest(folder, name="sentiment")
    version = bundles.load(folder).digest
    assert bundles.load(folder, version).name == "sentiment"
    assert bundles.load(folder, version).label == "mood"


def test_fields_of_a_later_version_are_passed_over(bundle_factory: Factory) -> None:
    folder = bundle_factory("sentiment")
    change_manifest(folder, colour="green")
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
    change_manifest(folder, files=files | {name: hashlib.sha256(b"secret").hexdigest()})
    refused(folder, ".")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b'"text"', b"\xff\xfe{}"])
def test_a_manifest_that_is_no_json_object_is_refused(bundle_factory: Factory, content: bytes) -> None:
    folder = bundle_factory("sentiment")
    (folder / MANIFEST).write_bytes(content)
    refused(folder, ".")


# ---- graphs ---------------------------------------------------------------------------------------------------------


def bundle_of(*precisions: str) -> Bundle:
    """Of graphs in those precisions, packed where one ends in a star."""
    graphs = tuple(
        Graph(f"model.{precision.replace('*', '.packed')}.onnx", precision.rstrip("*"), packed=precision.endswith("*"))
        for precision in precisions
    )
    manifest = Manifest(
        format=FORMAT,
        name="tiny",
        task="span",
        architecture="bert",
        parameters=1,
        max_length=64,
        graphs=graphs,
        files={},
    )
    return Bundle(Path("models/tiny"), manifest, "0" * 12, "0" * 12)


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
    found = [bundle.graph_for("cpu"), bundle.graph_for("cuda")]
    assert [(graph.precision, graph.packed) for graph in found] == [(cpu, False), (cuda.rstrip("*"), cuda[-1] == "*")]


def test_no_cpu_gets_a_packed_graph() -> None:
    with pytest.raises(BundleError, match=r"'tiny' has fp16 and no graph for cpu"):
        bundle_of("fp16", "fp32*").graph_for("cpu")


def test_no_graph_for_the_provider_says_how_to_export_one() -> None:
    with pytest.raises(BundleError, match=r"'tiny' has fp16 and no graph for cpu .*training export .* int8"):
        bundle_of("fp16").graph_for("cpu")
    with pytest.raises(BundleError, match=r"'tiny' has int8 and no graph for cuda .*training export .* fp16"):
        bundle_of("int8").graph_for("cuda")


# ---- reading -------------------------------------------------------------------------------------------------------


def test_a_file_that_changes_after_the_check_is_refused(bundle_factory: Factory) -> None:
    bundle = bundles.load(bundle_factory("sentiment"))
    (bundle.folder / "tokenizer.json").write_bytes(b"{}")
    with pytest.raises(BundleError, match=r"^bundle 'sentiment': tokenizer\.json has sha256 \w+…, the manifest says"):
        bundle.read("tokenizer.json")


@pytest.mark.parametrize("name", ["model.fp32.onnx", "tokenizer.json", MANIFEST])
def test_what_is_no_file_is_refused_and_named(bundle_factory: Factory, name: str) -> None:
    """A pipe would be waited for for ever."""
    folder = bundle_factory("sentiment")
    (folder / name).unlink()
    os.mkfifo(folder / name)
    refused(folder, f"{name} is no regular file")
    (folder / name).unlink()
    (folder / name).mkdir()
    refused(folder, f"Is a directory: .*{name}")


def test_a_manifest_without_end_is_refused(bundle_factory: Factory) -> None:
    folder = bundle_factory("sentiment")
    with open(folder / MANIFEST, "ab") as file:
        file.truncate(MAX_MANIFEST + 1)
    refused(folder, "manifest.json has 4194305 bytes; the most is 4194304")


# ---- the copy that is opened ----------------------------------------------------------------------------------------


BATCH = pad([Encoded(np.array([VOCABULARY.index("good")] * 5), np.zeros(5, np.int64))], 0)


def opened(path: Path) -> OrtEngine:
    return OrtEngine(path, provider="cpu", workers=1, intra_op_threads=1)


@pytest.mark.parametrize("change", ["overwrite", "truncate", "delete"])
def test_a_session_answers_right_whatever_becomes_of_the_bundles_files(bundle_factory: Factory, change: str) -> None:
    """ONNX Runtime maps the weights: a file that is cut short under the map kills the process."""
    bundle = bundles.load(bundle_factory("sentiment", external=True))
    expected = opened(bundle.folder / "model.fp32.onnx").run(BATCH)[0].tolist()
    with bundle.private_copy(bundle.graph_for("cpu")) as path:
        assert path.parent != bundle.folder
        assert sorted(each.name for each in path.parent.iterdir()) == ["model.fp32.onnx", WEIGHTS]
        engine = opened(path)
    assert not path.parent.exists()
    weights = bundle.folder / WEIGHTS
    match change:
        case "overwrite":
            with open(weights, "r+b") as file:
                file.write(b"\xff" * weights.stat().st_size)
        case "truncate":
            os.truncate(weights, 0)
        case "delete":
            weights.unlink()
    for _ in range(3):
        assert engine.run(BATCH)[0].tolist() == expected


def test_weights_that_the_manifest_does_not_name_are_not_opened(bundle_factory: Factory) -> None:
    folder = bundle_factory("sentiment", external=True)
    files = json.loads((folder / MANIFEST).read_text())["files"]
    change_manifest(folder, files={name: sha for name, sha in files.items() if name != WEIGHTS})
    bundle = bundles.load(folder)
    with (
        bundle.private_copy(bundle.graph_for("cpu")) as path,
        pytest.raises(BundleError, match=r"model\.fp32\.onnx is no graph that ONNX Runtime can run"),
    ):
        opened(path)
    assert not path.parent.exists()


def test_weights_that_are_not_what_the_manifest_says_are_not_copied(bundle_factory: Factory) -> None:
    bundle = bundles.load(bundle_factory("sentiment", external=True))
    os.truncate(bundle.folder / WEIGHTS, 0)
    with (
        pytest.raises(BundleError, match=r"'sentiment': weights\.bin has sha256"),
        bundle.private_copy(bundle.graph_for("cpu")),
    ):
        pytest.fail("it was copied")
    change_file(bundle.folder, WEIGHTS, b"")
    with bundles.load(bundle.folder).private_copy(bundle.graph_for("cpu")):
        pass  # it has the manifest's hash: that it makes no graph is for the engine to say
