"""The files that are weighed and served."""

from pathlib import Path

import onnx
import pytest
from safetensors.numpy import load_file, save_file

from bench.compare import subjects, weights
from tests.bench.compare.shapes import tiny
from tests.training.samples import save_checkpoint
from training.errors import CheckpointError

WORDS = "bert.embeddings.word_embeddings.weight"


def prepare(folder: Path, checkpoint: Path) -> dict[str, object]:
    folder.mkdir()
    subjects.choose((), {"mine": checkpoint})[-1].config.save_pretrained(folder)
    return {"folder": str(folder), "checkpoint": str(checkpoint), "precisions": ["fp32"]}


def test_a_checkpoint_s_weights_are_in_the_graph(tmp_path: Path) -> None:
    """Of another head, too: the encoder is what is compared."""
    checkpoint = save_checkpoint(tmp_path / "mine", "ForQuestionAnswering", seed=7)
    sizes = weights.write(prepare(tmp_path / "work", checkpoint))
    graph = onnx.load(weights.graph_path(tmp_path / "work", "fp32"))
    assert [output.name for output in graph.graph.output] == ["logits"]
    words = load_file(checkpoint / "model.safetensors")[WORDS]
    stored = [onnx.numpy_helper.to_array(tensor) for tensor in graph.graph.initializer]
    assert any(array.shape == words.shape and (array == words).all() for array in stored)
    files = ["config.json", "model.fp32.onnx", "weights.fp32.bin"]
    assert sorted(path.name for path in (tmp_path / "work").iterdir()) == files
    assert sizes["fp32"] == sum((tmp_path / "work" / name).stat().st_size for name in files[1:])


def test_shared_layers_are_in_the_file_once(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    tiny()["albert-base"].config.save_pretrained(tmp_path / "work")
    request = {"folder": str(tmp_path / "work"), "checkpoint": None, "precisions": ["fp32", "int8"]}
    first, again = weights.write(request), weights.write(request)
    assert first == again
    graph = onnx.load(weights.graph_path(tmp_path / "work", "fp32"))
    wide = [tensor for tensor in graph.graph.initializer if list(tensor.dims) == [32, 128]]  # hidden to intermediate
    assert len(wide) == 1


def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    checkpoint = save_checkpoint(tmp_path / "mine")
    tensors = load_file(checkpoint / "model.safetensors")
    name = WORDS.removeprefix("bert.")
    save_file(tensors | {name: tensors[name][:-1]}, checkpoint / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="do not have the shapes"):
        weights.write(prepare(tmp_path / "work", checkpoint))
