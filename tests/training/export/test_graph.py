"""The written graph computes what torch does, for every family and head, and stores each weight once."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from tests.training.tiny import FAMILIES, HEADS, differences, rows, session, tiny, torch_logits
from training.export import external, quantize
from training.export.graph import (
    UnsupportedArchitecture,
    build,
    fused_attention_count,
    layer_names,
    unique_weight_count,
)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_equal_torch(family: str, head: str) -> None:
    model = tiny(family, head)
    graph = build(model)
    onnx.checker.check_model(graph)
    assert max(differences(model, graph)) < 1e-4
    assert fused_attention_count(graph) == len(layer_names(model.config))


@pytest.mark.parametrize("labels", [1, 700])
@pytest.mark.parametrize("family", FAMILIES)
def test_one_label_and_many_equal_torch(family: str, labels: int) -> None:
    model = tiny(family, "SequenceClassification", num_labels=labels)
    assert max(differences(model, build(model))) < 1e-4
    quantised = max(differences(model, build(model, encoding=quantize.INT8)))
    spread = float(torch_logits(model, rows(model, 4, 32))[0].std())
    assert quantised < 0.5 * spread


def test_tiny_logits_are_worth_comparing() -> None:
    model = tiny("Bert", "SequenceClassification")
    logits = torch_logits(model, rows(model, 4, 32))[0]
    assert logits.std(axis=0).min() > 0.1


@pytest.mark.parametrize("name", ["gelu_new", "gelu_pytorch_tanh", "relu", "tanh"])
def test_activations(name: str) -> None:
    model = tiny("Bert", "SequenceClassification", hidden_act=name)
    assert max(differences(model, build(model))) < 1e-4


def test_electra_without_projection_and_roberta_with_types() -> None:
    for family, more in (("Electra", {"embedding_size": 32}), ("Roberta", {"type_vocab_size": 2})):
        model = tiny(family, "QuestionAnswering", **more)
        assert max(differences(model, build(model))) < 1e-4


def test_electra_summary_activation() -> None:
    model = tiny("Electra", "MultipleChoice", summary_activation="tanh")
    assert max(differences(model, build(model))) < 1e-4


def test_mpnet_knows_distances_as_torch_does() -> None:
    """Beyond the farthest that are told apart, too; and one bias serves all layers."""
    model = tiny("MPNet", "QuestionAnswering")
    graph = build(model)
    batch = rows(model, 2, 300)
    real = batch["attention_mask"] == 1
    for expected, actual in zip(torch_logits(model, batch), session(graph).run(None, batch), strict=True):
        assert np.abs(expected - actual)[real].max() < 1e-4
    attentions = [node for node in graph.graph.node if node.op_type == "MultiHeadAttention"]
    assert [node.input[5] for node in attentions] == ["bias", "bias"]
    model.mpnet.encoder.relative_attention_bias.weight.data.zero_()
    without = session(build(model)).run(None, batch)
    assert np.abs(without[0] - session(graph).run(None, batch)[0])[real].max() > 1e-3


@pytest.mark.parametrize(
    ("more", "named"), [({"pad_token_id": 0}, "pad_token_id 0"), ({"relative_attention_num_buckets": 64}, "64")]
)
def test_refuses_an_mpnet_that_torch_reads_otherwise(more: dict[str, int], named: str) -> None:
    with pytest.raises(UnsupportedArchitecture, match=named):
        build(tiny("MPNet", "SequenceClassification", **more))


def test_albert_groups_run_in_torchs_order() -> None:
    model = tiny("Albert", "QuestionAnswering", num_hidden_layers=4, num_hidden_groups=2, inner_group_num=2)
    graph = build(model)
    assert max(differences(model, graph)) < 1e-4
    assert fused_attention_count(graph) == 8


def test_interface_is_the_same_for_every_family() -> None:
    for family in FAMILIES:
        runtime = session(build(tiny(family, "QuestionAnswering")))
        assert [(each.name, each.type, each.shape) for each in runtime.get_inputs()] == [
            (name, "tensor(int64)", ["rows", "tokens"]) for name in ("input_ids", "attention_mask", "token_type_ids")
        ]
        assert [(each.name, each.type, each.shape) for each in runtime.get_outputs()] == [
            (name, "tensor(float)", ["rows", "tokens"]) for name in ("start_logits", "end_logits")
        ]
    assert session(build(tiny("Bert", "SequenceClassification"))).get_outputs()[0].shape == ["rows", 3]
    assert session(build(tiny("Bert", "MultipleChoice"))).get_outputs()[0].shape == ["rows", 1]


def test_single_type_family_ignores_token_types() -> None:
    model = tiny("Roberta", "SequenceClassification")
    runtime = session(build(model))
    batch = rows(model, 2, 8)
    (zeros,) = runtime.run(None, batch)
    (ones,) = runtime.run(None, batch | {"token_type_ids": np.ones((2, 8), np.int64)})
    assert np.array_equal(zeros, ones)


def test_albert_stores_its_shared_layer_once(tmp_path: Path) -> None:
    model = tiny("Albert", "SequenceClassification", num_hidden_layers=12, hidden_size=128, intermediate_size=512)
    graph = build(model)
    assert fused_attention_count(graph) == 12
    assert unique_weight_count(graph) <= 1.01 * model.num_parameters()
    assert graph.ByteSize() <= 1.05 * 4 * model.num_parameters()

    # ... and the runtime's own optimisers leave it so.
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    assert (tmp_path / "optimized.onnx").stat().st_size <= 1.05 * 4 * model.num_parameters()


@pytest.mark.parametrize("family", FAMILIES)
def test_files_are_as_large_as_their_weights(family: str, tmp_path: Path) -> None:
    """Of a width at which weights are most of the file: a scale and a bias an output are little beside its weights."""
    model = tiny(family, "SequenceClassification", vocab_size=4000, hidden_size=512, intermediate_size=2048)
    for encoding, size in ((quantize.FLOAT32, 4), (quantize.FLOAT16, 2), (quantize.INT8, 1), (quantize.W8A16, 1)):
        proto = build(model, encoding=encoding)
        external.save({tmp_path / "model.onnx": proto}, tmp_path / "weights.bin")
        written = sum((tmp_path / name).stat().st_size for name in ("model.onnx", "weights.bin"))
        assert 0.99 * size * model.num_parameters() < written < 1.05 * size * model.num_parameters()


@pytest.mark.parametrize(
    ("more", "named"),
    [
        ({"position_embedding_type": "relative_key"}, "relative_key"),
        ({"hidden_act": "silu"}, "silu"),
        ({"is_decoder": True}, "is_decoder"),
        ({"add_cross_attention": True}, "add_cross_attention"),
        ({"model_type": "xlnet"}, "xlnet"),
    ],
)
def test_refuses_what_it_would_compute_wrongly(more: dict[str, object], named: str) -> None:
    model = tiny("Bert", "SequenceClassification")
    for name, value in more.items():
        setattr(model.config, name, value)
    with pytest.raises(UnsupportedArchitecture, match=named):
        build(model)


@pytest.mark.parametrize("head", ["TokenClassification", "MaskedLM"])
def test_refuses_heads_it_does_not_know(head: str) -> None:
    with pytest.raises(UnsupportedArchitecture, match=f"BertFor{head}"):
        build(tiny("Bert", head))


def test_refuses_span_heads_of_another_width() -> None:
    with pytest.raises(UnsupportedArchitecture, match="3"):
        build(tiny("Bert", "QuestionAnswering", num_labels=3))


def test_refuses_electra_summaries_it_does_not_write() -> None:
    with pytest.raises(UnsupportedArchitecture, match="mean"):
        build(tiny("Electra", "MultipleChoice", summary_type="mean"))
