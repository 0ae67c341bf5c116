"""Packed graphs: what their operators mean, that they answer as padded graphs do, and that no work is on padding."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from service.engine.session import OrtEngine
from service.errors import BundleError
from tests.training.tiny import FAMILIES, HEADS, PAIRS, differences, rows, session, tiny
from training.checkpoints.families import layer_names
from training.export import external, packing
from training.export.builder import IR_VERSION, OPSET
from training.export.graph import UnsupportedArchitecture, build, fused_attention_count, unique_weight_count
from training.export.quantize import FLOAT16, FLOAT32, INT8, W8A16, Encoding

PACKED = [(family, head) for family, head in PAIRS if family != "Bart"]
LENGTHS = np.array([1, 2, 4], dtype=np.int32)
"""The example of docs/ContribOperators.md."""
PLACES = [[0, 4, 5, 8], [9, 10, 11, 1], [2, 3, 6, 7]]


def run(op: str, inputs: dict[str, np.ndarray], outputs: list[str], **attributes: int) -> list[np.ndarray]:
    """What one of the operators gives, in the form that CPUs run."""
    kinds = {name: helper.np_dtype_to_tensor_dtype(value.dtype) for name, value in inputs.items()}
    floats = next(kind for kind in kinds.values() if kind != TensorProto.INT32)
    node = helper.make_node(op, list(inputs), outputs, domain="com.microsoft", **attributes)
    graph = helper.make_graph(
        [node],
        op,
        [helper.make_tensor_value_info(name, kind, inputs[name].shape) for name, kind in kinds.items()],
        [
            helper.make_tensor_value_info(name, TensorProto.INT32 if i else floats, None)
            for i, name in enumerate(outputs)
        ],
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("com.microsoft", 1)]
    model = packing.for_cpu(helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION))
    return session(model).run(None, inputs)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_padding_is_removed_and_restored_as_documented(dtype: type[np.floating[Any]]) -> None:
    x = np.arange(1, 3 * 4 * 5 + 1, dtype=dtype).reshape(3, 4, 5)
    outputs = ["packed", "token_offset", "cumulated_seq_len", "max_seq_len"]
    packed, places, row_starts, longest = run("RemovePadding", {"x": x, "lengths": LENGTHS}, outputs)
    assert packed.dtype == dtype
    assert np.array_equal(packed, x.reshape(12, 5)[[0, 4, 5, 8, 9, 10, 11]])
    assert places.tolist() == PLACES
    assert (row_starts.tolist(), longest.tolist()) == ([0, 1, 3, 7], [4])

    (restored,) = run("RestorePadding", {"packed": packed, "token_offset": places}, ["restored"])
    real = np.arange(4) < LENGTHS[:, None]
    assert restored.dtype == dtype
    assert np.array_equal(restored, np.where(real[..., None], x, 0))


def test_attention_is_within_rows() -> None:
    """Against softmax(q k / sqrt(d)) v (Vaswani et al. 2017, section 3.2.1), a row at a time."""
    chance = np.random.default_rng(0)
    query, key, value = chance.normal(size=(3, 7, 6)).astype(np.float32)
    bias = chance.normal(size=18).astype(np.float32)
    inputs = {
        "query": query, "key": key, "value": value, "bias": bias,
        "token_offset": np.array(PLACES, dtype=np.int32), "row_starts": np.array([0, 1, 3, 7], dtype=np.int32),
    }  # fmt: skip
    (attended,) = run("PackedMultiHeadAttention", inputs, ["attended"], num_heads=2)
    expected = np.zeros_like(query)
    q, k, v = (part + bias[i * 6 : i * 6 + 6] for i, part in enumerate((query, key, value)))
    for row in (slice(0, 1), slice(1, 3), slice(3, 7)):
        for head in (slice(0, 3), slice(3, 6)):
            weights = np.exp(q[row, head] @ k[row, head].T / np.sqrt(3))
            expected[row, head] = weights / weights.sum(axis=1, keepdims=True) @ v[row, head]
    assert np.abs(attended - expected).max() < 1e-5


def mixed(model: Any) -> dict[str, np.ndarray]:
    """A full row, one of a single token, one of two, and one between."""
    batch = rows(model, 4, 32)
    batch["input_ids"] = np.where(batch["input_ids"] == model.config.pad_token_id, 5, batch["input_ids"])
    real = np.arange(32) < np.array([32, 1, 2, 17])[:, None]
    ids = np.where(real, batch["input_ids"], model.config.pad_token_id)
    return {"input_ids": ids, "attention_mask": real.astype(np.int64), "token_type_ids": batch["token_type_ids"] * real}


def apart(model: Any, encoding: Encoding) -> float:
    """Largest |difference| between the logits of the padded and the packed graph, where they mean anything."""
    batch = mixed(model)
    span = model.config.num_labels == 2
    padded = session(build(model, encoding=encoding)).run(None, batch)
    packed = session(packing.for_cpu(build(model, encoding=encoding, packed=True))).run(None, batch)
    read = batch["attention_mask"] == 1 if span else ...
    for ours, theirs in zip(packed, padded, strict=True):
        assert ours.shape == theirs.shape
        assert np.ptp(theirs[read], axis=0).min() > 0.1, "rows that answer alike prove nothing"
    return max(float(np.abs(a - b)[read].max()) for a, b in zip(padded, packed, strict=True))


@pytest.mark.parametrize(("family", "head"), PACKED)
def test_packed_logits_are_those_of_the_padded_graph(family: str, head: str) -> None:
    model = tiny(family, head)
    assert apart(model, FLOAT32) < 1e-5
    graph = build(model, packed=True)
    onnx.checker.check_model(graph)
    onnx.checker.check_model(packing.for_cpu(graph))
    assert max(differences(model, packing.for_cpu(graph))) < 1e-4  # torch's


@pytest.mark.parametrize("encoding", [FLOAT16, W8A16])
@pytest.mark.parametrize("head", HEADS)
def test_in_half_precision(head: str, encoding: Encoding) -> None:
    assert apart(tiny("Bert", head), encoding) < 5e-3


@pytest.mark.parametrize(("family", "head"), PACKED)
def test_no_work_is_on_padding(family: str, head: str) -> None:
    model = tiny(family, head)
    graph = packing.for_cpu(build(model, packed=True))
    layers = [f"layer.{i}" for i in range(len(layer_names(model.config)))]
    seen = ["packed", *(f"{layer}{part}" for layer in layers for part in (".query", ".attention", ".wide", ""))]
    seen += ["embeddings.projected"] if "embedding_size" in FAMILIES[family][1] else []
    seen += ["span_logits"] if head == "QuestionAnswering" else []
    graph.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in seen)
    runtime = session(graph)
    batch = mixed(model)
    found = dict(zip(seen, runtime.run(seen, batch), strict=True))
    firsts_alone = {f"{layers[-1]}.wide", layers[-1]} if head != "QuestionAnswering" else set()
    for name, array in found.items():
        assert array.ndim == 2
        assert len(array) == (4 if name in firsts_alone else 32 + 1 + 2 + 17), name


@pytest.mark.parametrize("head", HEADS)
def test_every_attention_is_packed(head: str) -> None:
    model = tiny("Albert", head)
    graph = build(model, packed=True)
    kinds = [node.op_type for node in graph.graph.node]
    assert kinds.count("PackedMultiHeadAttention") == fused_attention_count(graph) == 3
    assert "MultiHeadAttention" not in kinds
    assert kinds.count("RemovePadding") == 1
    assert kinds.count("RestorePadding") == (head == "QuestionAnswering")
    assert not graph.functions, "these are for CPUs"
    assert {node.domain for node in packing.for_cpu(graph).graph.node} == {"", "com.microsoft", packing.DOMAIN}
    assert {node.domain for node in graph.graph.node} == {"", "com.microsoft"}, "the graph itself is left as it is"


@pytest.mark.parametrize("encoding", [FLOAT32, FLOAT16, W8A16])
@pytest.mark.parametrize("family", ["Bert", "Albert"])
def test_weights_are_those_of_the_padded_graph(tmp_path: Path, family: str, encoding: Encoding) -> None:
    model = tiny(family, "SequenceClassification", num_hidden_layers=4, hidden_size=128, intermediate_size=512)
    padded, packed = (build(model, encoding=encoding, packed=packed) for packed in (False, True))
    names = [tensor.name for tensor in packed.graph.initializer]
    assert len(set(names)) == len(names)
    assert unique_weight_count(packed) == pytest.approx(unique_weight_count(padded), abs=10)  # but for constants
    external.save({tmp_path / "padded.onnx": build(model, encoding=encoding)}, tmp_path / "one.bin")
    external.save({tmp_path / "padded.onnx": padded, tmp_path / "packed.onnx": packed}, tmp_path / "both.bin")
    assert (tmp_path / "both.bin").stat().st_size == (tmp_path / "one.bin").stat().st_size
    assert (tmp_path / "packed.onnx").stat().st_size < 0.2 * (tmp_path / "both.bin").stat().st_size


def test_a_decoder_is_not_packed() -> None:
    with pytest.raises(UnsupportedArchitecture, match="A BART has a decoder, which is not packed"):
        build(tiny("Bart", "SequenceClassification"), packed=True)


def test_int8_is_for_cpus() -> None:
    with pytest.raises(ValueError, match="int8 graphs are for CPUs, which have no kernels for packed ones"):
        build(tiny("Bert", "SequenceClassification"), encoding=INT8, packed=True)


def test_no_cpu_runs_a_packed_graph_as_it_is(tmp_path: Path) -> None:
    """Where this fails, ONNX Runtime has got kernels, and `service.repository.bundle.SUITS` may want another look."""
    onnx.save(build(tiny("Bert", "SequenceClassification"), packed=True), tmp_path / "model.onnx")
    with pytest.raises(BundleError, match="NOT_IMPLEMENTED"):
        OrtEngine(tmp_path / "model.onnx", provider="cpu", workers=1, intra_op_threads=1)
