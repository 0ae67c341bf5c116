"""Layers with norms before, turned queries and keys, windows and gates: as torch computes them."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from tests.training.tiny import differences, rows, session, tiny, torch_logits
from training.checkpoints import families
from training.export import packing
from training.export.graph import UnsupportedArchitecture, build
from training.export.quantize import FLOAT16, FLOAT32, INT8, Encoding

MEAN = {"classifier_pooling": "mean"}


@pytest.mark.parametrize("head", ["SequenceClassification", "MultipleChoice"])
def test_the_mean_of_a_row(head: str) -> None:
    model = tiny("ModernBert", head, **MEAN)
    graph = build(model)
    onnx.checker.check_model(graph)
    assert max(differences(model, graph)) < 1e-4
    assert max(differences(model, packing.for_cpu(build(model, packed=True)))) < 1e-4
    first, mean = (session(build(tiny("ModernBert", head, **more))) for more in ({}, MEAN))
    batch = rows(model, 3, 20)
    assert np.abs(first.run(None, batch)[0] - mean.run(None, batch)[0]).max() > 0.1


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("tokens", [2, 64, 65, 66, 130, 600])
def test_the_window_is_torchs(tokens: int, attention: str) -> None:
    """Of its usual size, on rows that are shorter, as long to a token, and longer."""
    model = tiny("ModernBert", "QuestionAnswering", local_attention=128, max_position_embeddings=1024)
    model.set_attn_implementation(attention)
    batch = rows(model, 2, tokens)
    real = batch["attention_mask"] == 1
    for expected, actual in zip(torch_logits(model, batch), session(build(model)).run(None, batch), strict=True):
        assert np.abs(expected - actual)[real].max() < 1e-4
    wide = build(tiny("ModernBert", "QuestionAnswering", local_attention=4096, max_position_embeddings=1024))
    apart = np.abs(session(wide).run(None, batch)[0] - session(build(model)).run(None, batch)[0])[real].max()
    assert (apart > 1e-3) == (tokens > 65)  # up to there it leaves nothing out


def test_positions_are_computed_once_and_shared() -> None:
    graph = build(tiny("ModernBert", "SequenceClassification", num_hidden_layers=6)).graph
    kinds = [node.op_type for node in graph.node]
    assert (kinds.count("Cos"), kinds.count("Sin"), kinds.count("Where")) == (2, 2, 1)
    attentions = [node for node in graph.node if node.op_type == "MultiHeadAttention"]
    assert [node.input[5] if len(node.input) > 5 else "" for node in attentions] == [
        "", "places.1.bias", "places.1.bias", "", "places.1.bias", "layer.5.bias",
    ]  # fmt: skip
    assert kinds.count("RotaryEmbedding") == 12


def test_int8_multiplies_narrow_tables_in_place_of_wide_tokens() -> None:
    """Of a layer's seven products four are rescaled: queries, keys and the gate are not."""
    graph = build(tiny("ModernBert", "QuestionAnswering"), encoding=INT8).graph
    scaled = {node.input[0] for node in graph.node if node.op_type == "Mul"}
    products = [node.output[0] for node in graph.node if node.op_type == "MatMulIntegerToFloat"]
    layers = [name.removeprefix("layer.1.") for name in products if name.startswith("layer.1.")]
    assert layers == ["query", "key", "value", "mix.product", "widen", "gate", "narrow"]
    assert {name for name in layers if f"layer.1.{name}" in scaled} == {"value", "mix.product", "widen", "narrow"}


@pytest.mark.parametrize("encoding", [FLOAT32, FLOAT16, INT8])
def test_frequencies_are_kept_in_fp32(encoding: Encoding) -> None:
    """In half precision the angle of a position beyond 2,048 would be another."""
    model = tiny("ModernBert", "SequenceClassification", num_attention_heads=1, hidden_size=64)
    stored = {each.name: numpy_helper.to_array(each) for each in build(model, encoding=encoding).graph.initializer}
    rotary = model.model.rotary_emb
    for i, kind in enumerate(("full_attention", "sliding_attention")):
        assert stored[f"places.{i}.frequencies"].dtype == np.float32
        assert np.array_equal(stored[f"places.{i}.frequencies"][0], getattr(rotary, f"{kind}_inv_freq").numpy())


def test_every_nth_layer_sees_its_whole_row() -> None:
    config = tiny("ModernBert", "SequenceClassification", num_hidden_layers=5, global_attn_every_n_layers=2).config
    assert [kind.window for kind in families.of(config).rotary(config)] == [None, 8, None, 8, None]


def test_a_head_with_a_bias() -> None:
    for head in ("SequenceClassification", "QuestionAnswering"):
        model = tiny(
            "ModernBert", head, classifier_bias=True, classifier_activation="gelu_new", hidden_activation="relu"
        )
        assert max(differences(model, build(model))) < 1e-4


@pytest.mark.parametrize(
    ("more", "named"),
    [
        ({"attention_bias": True}, "attention_bias is set"),
        ({"mlp_bias": True}, "mlp_bias is set"),
        ({"norm_bias": True}, "norm_bias is set"),
        ({"hidden_activation": "silu"}, "silu"),
        ({"classifier_activation": "silu"}, "silu"),
        ({"rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 2.0}}}, "rope_type 'linear'"),
    ],
)
def test_refuses_what_it_would_compute_wrongly(more: dict[str, object], named: str) -> None:
    with pytest.raises(UnsupportedArchitecture, match=named):
        build(tiny("ModernBert", "SequenceClassification", **more))
