"""Encodings keep the answers, the file small, and rows independent of one another."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from service.engine.session import SEVEN_BITS
from tests.training.tiny import FAMILIES, PAIRS, rows, session, tiny, torch_logits
from training.checkpoints import families
from training.export.graph import build, fused_attention_count
from training.export.quantize import FLOAT16, INT8, W8A16, Encoding, symmetric


def test_symmetric_codes_are_within_half_a_step() -> None:
    values = np.random.default_rng(0).normal(size=(5, 7, 64)).astype(np.float32)
    codes, scales = symmetric(values)
    assert codes.dtype == np.int8
    assert scales.shape == (5, 7, 1)
    assert np.abs(codes * scales - values).max() <= scales.max() / 2 * 1.001
    assert (np.abs(codes).max(axis=-1) == 127).all()


def test_symmetric_keeps_zeros() -> None:
    codes, scales = symmetric(np.zeros((3, 8), np.float32))
    assert not codes.any()
    assert np.isfinite(scales).all()


@pytest.mark.parametrize("encoding", [FLOAT16, INT8, W8A16])
@pytest.mark.parametrize(("family", "head"), PAIRS)
def test_logits_stay_close_to_torch(family: str, head: str, encoding: Encoding) -> None:
    model = tiny(family, head)
    graph = build(model, encoding=encoding)
    onnx.checker.check_model(graph)
    assert fused_attention_count(graph) == families.of(model.config).attentions(model.config)
    batch = rows(model, 16, 24)
    read = batch["attention_mask"] == 1 if head == "QuestionAnswering" else ...
    for expected, actual in zip(torch_logits(model, batch), session(graph).run(None, batch), strict=True):
        assert actual.dtype == np.float32
        assert np.corrcoef(expected[read].ravel(), actual[read].ravel())[0, 1] > 0.99


MEAN = {"classifier_pooling": "mean"}


@pytest.mark.parametrize(
    ("family", "more"),
    [("Bert", {}), ("DistilBert", {}), ("MPNet", {}), ("ModernBert", {}), ("ModernBert", MEAN), ("Bart", {})],
)
@pytest.mark.parametrize("head", ["SequenceClassification", "QuestionAnswering"])
def test_int8_row_does_not_feel_its_neighbours(family: str, more: dict[str, str], head: str) -> None:
    """To the bit: one rounding that depends on the padding can flip a code, and move a real model's logits by 1e-3."""
    model = tiny(family, head, hidden_size=64, intermediate_size=128, **more)
    runtime = session(build(model, encoding=INT8))
    batch = rows(model, 400, 60)
    together = runtime.run(None, batch)
    for i, length in enumerate(batch["attention_mask"].sum(axis=1)):
        alone = runtime.run(None, {name: value[i : i + 1, :length] for name, value in batch.items()})
        for one, many in zip(alone, together, strict=True):
            same = many[i : i + 1, :length] if head == "QuestionAnswering" else many[i : i + 1]
            assert np.array_equal(one, same)


def test_int8_survives_a_token_of_zeros() -> None:
    """relu can leave a token nothing but zeros, which have no scale of their own."""
    model = tiny("Bert", "SequenceClassification", hidden_act="relu")
    for layer in model.bert.encoder.layer:
        layer.intermediate.dense.bias.data.fill_(-1e3)
    (logits,) = session(build(model, encoding=INT8)).run(None, rows(model, 2, 8))
    assert np.isfinite(logits).all()


def test_file_sizes() -> None:
    for family in ("Bert", "Albert"):
        model = tiny(family, "SequenceClassification", hidden_size=256, intermediate_size=1024, vocab_size=2000)
        weights = model.num_parameters()
        assert build(model, encoding=FLOAT16).ByteSize() <= 1.05 * 2 * weights
        assert build(model, encoding=INT8).ByteSize() <= 1.1 * weights  # small models: biases and norms show


@pytest.mark.parametrize("family", FAMILIES)
def test_int8_in_seven_bits_is_what_its_parameters_say(family: str) -> None:
    """No optimiser has taken the defaults for constants: the same as a graph of those values, to the bit."""
    model = tiny(family, "SequenceClassification")
    graph, written = (build(model, encoding=INT8) for _ in range(2))
    stored = {tensor.name: tensor for tensor in written.graph.initializer}
    for name, value in SEVEN_BITS.items():
        assert numpy_helper.to_array(stored[name]).dtype == value.dtype
        stored[name].CopyFrom(numpy_helper.from_array(np.array(value), name))
    del written.graph.input[3:]  # constants now
    batch = rows(model, 16, 24)
    asked = session(graph).run(None, batch | {name: np.array(value) for name, value in SEVEN_BITS.items()})
    (expected,) = torch_logits(model, batch)
    assert np.array_equal(asked[0], session(written).run(None, batch)[0])
    assert np.corrcoef(expected.ravel(), asked[0].ravel())[0, 1] > 0.99


def test_int8_has_its_defaults() -> None:
    graph = build(tiny("Albert", "SequenceClassification"), encoding=INT8).graph
    stored = {tensor.name: numpy_helper.to_array(tensor).item() for tensor in graph.initializer if not tensor.dims}
    assert [stored[name] for name in SEVEN_BITS] == [127, 128]
    assert [each.name for each in graph.input][3:] == list(SEVEN_BITS)
