"""Weights beside the graphs: each once, found again, and shared by graphs of the same codes."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from service.engine.session import OrtEngine
from service.errors import BundleError
from tests.training.tiny import Session, rows, session, tiny
from training.export import external
from training.export.graph import build
from training.export.quantize import FLOAT32, INT8, W8A16


@pytest.mark.parametrize("encoding", [FLOAT32, INT8, W8A16])
@pytest.mark.parametrize("family", ["Bert", "Albert"])
def test_answers_are_those_of_the_graph_in_one_file(tmp_path: Path, family: str, encoding: object) -> None:
    model = tiny(family, "SequenceClassification")
    batch = rows(model, 3, 20)
    expected = session(build(model, encoding=encoding)).run(None, batch)  # type: ignore[arg-type]
    graph = build(model, encoding=encoding)  # type: ignore[arg-type]
    external.save({tmp_path / "model.onnx": graph}, tmp_path / "weights.bin")
    for ours, theirs in zip(Session(tmp_path / "model.onnx").run(None, batch), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_graphs_of_the_same_codes_share_them(tmp_path: Path) -> None:
    """A bundle for CPUs and GPUs is hardly larger than one for CPUs alone: at most 1.3 times is wanted."""
    model = tiny("Bert", "SequenceClassification", hidden_size=256, intermediate_size=1024, vocab_size=2000)
    external.save({tmp_path / "int8.onnx": build(model, encoding=INT8)}, tmp_path / "one.bin")
    graphs = {tmp_path / f"{name}.onnx": build(model, encoding=e) for name, e in (("int8", INT8), ("w8a16", W8A16))}
    external.save(graphs, tmp_path / "both.bin")
    one, both = ((tmp_path / name).stat().st_size for name in ("one.bin", "both.bin"))
    assert both <= 1.02 * one
    batch = rows(model, 3, 20)
    int8, w8a16 = (Session(path).run(None, batch)[0] for path in graphs)
    assert np.corrcoef(int8.ravel(), w8a16.ravel())[0, 1] > 0.99


def test_a_shared_layer_is_stored_once(tmp_path: Path) -> None:
    shape = {"num_hidden_layers": 12, "hidden_size": 256, "intermediate_size": 1024, "vocab_size": 2000}
    model = tiny("Albert", "SequenceClassification", **shape)
    for encoding, width in ((FLOAT32, 4), (INT8, 1)):
        graph = build(model, encoding=encoding)
        external.save({tmp_path / "model.onnx": graph}, tmp_path / "weights.bin")
        assert (tmp_path / "weights.bin").stat().st_size <= 1.05 * width * model.num_parameters()


def test_tensors_begin_at_cache_lines(tmp_path: Path) -> None:
    external.save({tmp_path / "m.onnx": build(tiny("Bert", "SequenceClassification"))}, tmp_path / "weights.bin")
    tensors = onnx.load(tmp_path / "m.onnx", load_external_data=False).graph.initializer
    places = [{entry.key: entry.value for entry in t.external_data} for t in tensors if t.external_data]
    assert len(places) > 10
    assert {place["location"] for place in places} == {"weights.bin"}
    assert all(int(place["offset"]) % external.ALIGNMENT == 0 for place in places)


def test_codes_are_decoded_once_when_the_graph_is_loaded(tmp_path: Path) -> None:
    """Not at every call: then w8a16 would be slower than what it saves on disk is worth."""
    model = tiny("Bert", "SequenceClassification")
    external.save({tmp_path / "model.onnx": build(model, encoding=W8A16)}, tmp_path / "weights.bin")
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), options, providers=["CPUExecutionProvider"])
    optimized = onnx.load(tmp_path / "optimized.onnx").graph
    codes = {tensor.name for tensor in optimized.initializer if tensor.data_type == onnx.TensorProto.INT8}
    assert codes == {name for name in codes if "embeddings" in name}  # rows of these are taken first, then decoded


def test_weights_that_are_missing_are_told(tmp_path: Path) -> None:
    external.save({tmp_path / "model.onnx": build(tiny("Bert", "SequenceClassification"))}, tmp_path / "weights.bin")
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(BundleError, match=r"model\.onnx is no graph that ONNX Runtime can run.*weights\.bin"):
        OrtEngine(tmp_path / "model.onnx", provider="cpu", workers=1, intra_op_threads=1)
