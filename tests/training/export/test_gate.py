"""The gate lets no graph pass that does not answer as its checkpoint does."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from transformers import PreTrainedModel

from service.errors import BundleError
from tests.training.samples import make_model
from training.errors import GateError
from training.export import gate, graph, graphs


def written(model: PreTrainedModel, folder: Path) -> Path:
    path = folder / "model.onnx"
    onnx.save(graph.build(model), path)
    return path


def halves(model: PreTrainedModel, folder: Path, precision: str) -> tuple[Path, Path]:
    """The graph in that precision, and the one of the same weights that computes in fp32."""
    made = {"half": graphs.ENCODINGS[precision], "exact": graphs.SAME_IN_FP32[precision]}
    for name, encoding in made.items():
        onnx.save(graph.build(model, encoding=encoding), folder / f"{name}.onnx")
    return folder / "half.onnx", folder / "exact.onnx"


def tampered(path: Path, name: str, by: float) -> Path:
    """The graph with `by` added to one number of the weight whose name has `name` in it."""
    proto = onnx.load(path)
    tensor = next(tensor for tensor in proto.graph.initializer if name in tensor.name)
    values = numpy_helper.to_array(tensor).copy()
    values.flat[0] += by
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    onnx.save(proto, path)
    return path


@pytest.mark.parametrize(
    ("family", "head"),
    [("Bert", "ForSequenceClassification"), ("Bert", "ForQuestionAnswering"), ("Albert", "ForSequenceClassification")],
)
def test_parity_of_a_true_graph(tmp_path: Path, family: str, head: str) -> None:
    model = make_model(head, family, max_position_embeddings=400)
    assert gate.parity(model, written(model, tmp_path), 400) <= gate.FP32_TOLERANCE


def test_parity_of_roberta_and_its_positions(tmp_path: Path) -> None:
    model = make_model("ForQuestionAnswering", "Roberta", pad_token_id=1, type_vocab_size=1, max_position_embeddings=66)
    assert gate.parity(model, written(model, tmp_path), 64) <= gate.FP32_TOLERANCE


@pytest.mark.parametrize(
    "weight", ["classifier.bias", "layer.1.output.dense.bias", "embeddings.position", "embeddings.type"]
)
def test_parity_fails_for_a_tampered_graph(tmp_path: Path, weight: str) -> None:
    model = make_model("ForSequenceClassification")
    with pytest.raises(GateError, match=r"logits differ from torch's by .* at \[.*\]; the limit is 1e-04"):
        gate.parity(model, tampered(written(model, tmp_path), weight, 3.0), 80)


def test_parity_sees_the_mask(tmp_path: Path) -> None:
    """A graph that attends to padding agrees on full rows alone, and must not pass."""
    model = make_model("ForSequenceClassification")
    path = written(model, tmp_path)
    proto = onnx.load(path)
    for node in proto.graph.node:
        if node.op_type == "MultiHeadAttention":
            node.input[4] = ""
    onnx.save(proto, path)
    with pytest.raises(GateError, match="logits differ"):
        gate.parity(model, path, 80)


def test_parity_fails_for_what_is_not_a_number(tmp_path: Path) -> None:
    model = make_model("ForSequenceClassification")
    with pytest.raises(GateError, match="by nan"):
        gate.parity(model, tampered(written(model, tmp_path), "classifier.bias", float("nan")), 80)
    with torch.no_grad():  # in the checkpoint itself, so that both sides agree on it
        model.classifier.bias[0] = float("nan")
    with pytest.raises(GateError, match="by nan"):
        gate.parity(model, written(model, tmp_path), 80)


@pytest.mark.parametrize("precision", ["fp16", "w8a16"])
@pytest.mark.parametrize(
    ("family", "head"), [("Bert", "ForQuestionAnswering"), ("Albert", "ForSequenceClassification")]
)
def test_half_precision_is_near(tmp_path: Path, precision: str, family: str, head: str) -> None:
    model = make_model(head, family, max_position_embeddings=400)
    half, exact = halves(model, tmp_path, precision)
    found = gate.half(model, half, exact, 400, precision)
    assert found is not None
    assert 0 < found < gate.HALF_TOLERANCE / 10


@pytest.mark.parametrize("precision", ["fp16", "w8a16"])
def test_half_precision_that_is_off(tmp_path: Path, precision: str) -> None:
    model = make_model("ForSequenceClassification")
    half, exact = halves(model, tmp_path, precision)
    with pytest.raises(GateError, match=f"the {precision} graph's logits differ from those of its weights in fp32 by "):
        gate.half(model, tampered(half, "classifier.bias", 0.2), exact, 80, precision)
    with torch.no_grad():  # beyond fp16, and not beyond fp32
        model.bert.encoder.layer[0].output.dense.bias[0] = 1e6
    with pytest.warns(RuntimeWarning, match="overflow"):
        half, exact = halves(model, tmp_path, precision)
    with pytest.raises(GateError, match="by nan"):
        gate.half(model, half, exact, 80, precision)


def test_half_precision_without_kernels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model = make_model("ForSequenceClassification")
    half, exact = halves(model, tmp_path, "fp16")

    def refuse(*given: object, **options: object) -> None:
        raise BundleError(f"no graph that ONNX Runtime can run: {said}")

    monkeypatch.setattr(gate, "OrtEngine", refuse)
    said = "[ONNXRuntimeError] : 9 : NOT_IMPLEMENTED : no kernel for MatMul"
    assert gate.half(model, half, exact, 80, "fp16") is None
    assert "the fp16 graph was not compared: " in caplog.text
    said = "[ONNXRuntimeError] : 10 : INVALID_GRAPH"
    with pytest.raises(BundleError, match="INVALID_GRAPH"):
        gate.half(model, half, exact, 80, "fp16")


def test_attention_count() -> None:
    model = make_model("ForSequenceClassification", num_hidden_layers=3)
    proto = graph.build(model)
    assert gate.attention(model, proto) == 3
    node = next(node for node in proto.graph.node if node.op_type == "MultiHeadAttention")
    proto.graph.node.remove(node)
    with pytest.raises(GateError, match="2 of 3 attentions are fused"):
        gate.attention(model, proto)


def test_scores_may_lose_half_a_point() -> None:
    labels, spans = {"a": {"accuracy": 91.0, "rows": 10}}, {"b": {"exact": 80.0, "f1": 88.0}}
    gate.scores(labels, {"a": {"accuracy": 90.5}}, "int8", "accuracy")
    gate.scores(spans, {"b": {"exact": 70.0, "f1": 87.6}}, "int8", "f1")
    gate.scores(labels, {"a": {"accuracy": 99.0}}, "int8", "accuracy")
    gate.scores(spans, {"b": {"f1": 99.0}}, "int8", "f1")
    with pytest.raises(GateError, match=r"the int8 graph's accuracy on a is 90.40, 0.60 points below fp32"):
        gate.scores(labels, {"a": {"accuracy": 90.4}}, "int8", "accuracy")
    with pytest.raises(GateError, match=r"the int8 graph's f1 on b is 87.00, 1.00 points below fp32"):
        gate.scores(spans, {"b": {"f1": 87.0}}, "int8", "f1")


def test_answers_that_do_not_fit_the_data() -> None:
    gate.chance("d/dev.tsv", "int8", "")
    with pytest.raises(
        GateError, match=r"the int8 graph's answers on d/dev\.tsv do not fit the data: they are guesses"
    ):
        gate.chance("d/dev.tsv", "int8", "they are guesses")


def test_random_rows_hold_no_padding_id() -> None:
    assert gate._without(np.array([[0, 1, 5]]), 1).tolist() == [[0, 2, 5]]
