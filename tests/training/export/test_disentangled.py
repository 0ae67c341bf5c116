"""DeBERTa's graph: what its attention makes of distances, in every form that a config can ask for."""

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from transformers.models.deberta_v2.modeling_deberta_v2 import build_relative_position

from tests.training.tiny import differences, rows, session, tiny, torch_logits
from training.checkpoints import families
from training.export import packing
from training.export.graph import UnsupportedArchitecture, build, fused_attention_count
from training.export.quantize import FLOAT16, INT8, W8A16

FORMS: dict[str, dict[str, Any]] = {
    "v3": {},
    "v3, both ways told apart": {"share_att_key": False},
    "v2-xlarge": {"conv_kernel_size": 3, "conv_act": "gelu", "attention_head_size": 8},
    "a wide convolution": {"conv_kernel_size": 5, "num_hidden_layers": 1},
    "no buckets": {"position_buckets": -1},
    "few distances": {"position_buckets": -1, "max_relative_positions": 10, "norm_rel_ebd": "none"},
    "few buckets": {"position_buckets": 8},
    "c2p alone": {"pos_att_type": ["c2p"]},
    "p2c alone": {"pos_att_type": ["p2c"], "share_att_key": False},
    "places in the embeddings": {"position_biased_input": True, "type_vocab_size": 2},
    "only there": {"relative_attention": False, "norm_rel_ebd": "none", "position_biased_input": True},
    "narrow embeddings": {"embedding_size": 16, "type_vocab_size": 1},
}


def made(head: str = "SequenceClassification", **more: Any) -> Any:
    return tiny("DebertaV2", head, **more)


@pytest.mark.parametrize("head", ["SequenceClassification", "QuestionAnswering"])
@pytest.mark.parametrize("form", FORMS)
def test_logits_equal_torch(form: str, head: str) -> None:
    model = made(head, **FORMS[form])
    graph = build(model)
    onnx.checker.check_model(graph)
    assert max(differences(model, graph)) < 1e-4
    assert max(differences(model, packing.for_cpu(build(model, packed=True)))) < 1e-4
    assert fused_attention_count(graph) == model.config.num_hidden_layers


@pytest.mark.parametrize("encoding", [FLOAT16, INT8, W8A16])
@pytest.mark.parametrize("form", FORMS)
def test_encoded_logits_stay_close_to_torch(form: str, encoding: Any) -> None:
    model = made(**FORMS[form])
    batch = rows(model, 16, 24)
    (actual,) = session(build(model, encoding=encoding)).run(None, batch)
    assert np.corrcoef(torch_logits(model, batch)[0].ravel(), actual.ravel())[0, 1] > 0.99


@pytest.mark.parametrize("tokens", [2, 100, 129, 300, 512])
def test_near_and_far_distances(tokens: int) -> None:
    """To 128 each has its row of the table; farther ones share rows, more and more of them."""
    model = made("QuestionAnswering")
    graph = build(model)
    batch = rows(model, 2, tokens)
    real = batch["attention_mask"] == 1
    for expected, actual in zip(torch_logits(model, batch), session(graph).run(None, batch), strict=True):
        assert np.abs(expected - actual)[real].max() < 1e-4


@pytest.mark.parametrize("form", ["v3", "no buckets", "few distances", "few buckets"])
def test_rows_are_torchs(form: str) -> None:
    config = made(**FORMS[form]).config
    found = families.of(config).disentangled(config).rows
    buckets, span = config.position_buckets, max(config.max_relative_positions, config.position_buckets)
    span = config.max_position_embeddings if span < 1 else span
    farthest = config.max_relative_positions if config.max_relative_positions > 0 else config.max_position_embeddings
    one = torch.zeros(config.max_position_embeddings, 1)
    expected = (build_relative_position(one, one, buckets, farthest)[0] + span).clamp(0, 2 * span - 1).numpy()
    distances = np.arange(len(one))[:, None] - np.arange(len(one))
    assert np.array_equal(found[distances + len(one) - 1], expected)


@pytest.mark.parametrize("module", ["rel_embeddings", "LayerNorm", "layer.0.attention.self.pos_query_proj"])
def test_every_part_of_it_counts(module: str) -> None:
    """Or equal logits would prove less."""
    model = made(share_att_key=False)
    batch = rows(model, 4, 20)
    before = torch_logits(model, batch)[0]
    model.deberta.encoder.get_submodule(module).weight.data.add_(0.3 * torch.randn(32))
    (after,) = session(build(model)).run(None, batch)
    assert np.abs(before - after).max() > 1e-2
    assert np.abs(torch_logits(model, batch)[0] - after).max() < 1e-4


def test_a_batch_is_multiplied_by_the_rows_that_it_has_distances_for() -> None:
    """And those are found once, whatever the layers; no table is projected as a batch runs."""
    model = made(num_hidden_layers=4)
    graph = build(model)
    seen = ["distances.from_query", "layer.2.c2p.all", "layer.2.p2c.turned.all"]
    graph.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.INT32 if i == 0 else TensorProto.FLOAT, None)
        for i, name in enumerate(seen)
    )
    index, *products = session(graph).run(seen, rows(model, 3, 20))
    assert index.shape == (3, 4, 20, 20)
    assert index[0, 0, 0].tolist() == list(range(19, -1, -1))
    assert [each.shape for each in products] == [(3, 4, 20, 39)] * 2
    kinds = [node.op_type for node in build(model).graph.node]
    assert (kinds.count("Expand"), kinds.count("GatherElements")) == (2, 8)


@pytest.mark.parametrize("encoding", [FLOAT16, INT8, W8A16])
def test_the_runtime_folds_the_tables(encoding: Any, tmp_path: Any) -> None:
    """As it loads the graph; else each call would project them again."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    graph = build(made(), encoding=encoding)
    onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    left = onnx.load(tmp_path / "optimized.onnx").graph
    assert not [node.name for node in left.node if ".table" in node.output[0] or "distances.states" in node.output[0]]


@pytest.mark.parametrize("form", ["v3", "v3, both ways told apart", "v2-xlarge"])
@pytest.mark.parametrize("head", ["SequenceClassification", "QuestionAnswering"])
def test_int8_row_does_not_feel_its_neighbours(form: str, head: str) -> None:
    """To the bit, over lengths that differ in the rows of the table that their batches meet."""
    model = made(head, hidden_size=64, intermediate_size=128, **(FORMS[form] | {"attention_head_size": 16}))
    runtime = session(build(model, encoding=INT8))
    batch = rows(model, 50, 150)
    together = runtime.run(None, batch)
    for i, length in enumerate(batch["attention_mask"].sum(axis=1)):
        alone = runtime.run(None, {name: value[i : i + 1, :length] for name, value in batch.items()})
        for one, many in zip(alone, together, strict=True):
            assert np.array_equal(one, many[i : i + 1, :length] if head == "QuestionAnswering" else many[i : i + 1])


@pytest.mark.parametrize(
    ("more", "named"),
    [
        ({"pos_att_type": ["c2p", "p2p"]}, "pos_att_type 'p2p' is not one of c2p, p2c"),
        ({"pos_att_type": []}, "relative_attention without pos_att_type"),
        ({"norm_rel_ebd": "batch_norm"}, "norm_rel_ebd 'batch_norm'"),
        ({"relative_attention": False}, "norm_rel_ebd 'layer_norm' without relative_attention"),
        ({"conv_kernel_size": 3, "conv_groups": 2}, "conv_groups 2"),
        ({"conv_kernel_size": 2}, "conv_kernel_size 2"),
        ({"conv_kernel_size": 3, "conv_act": "silu"}, "silu"),
        ({"attention_head_size": 4}, "attention_head_size 4"),
        ({"pooler_hidden_act": "silu"}, "silu"),
    ],
)
def test_refuses_what_it_would_compute_wrongly(more: dict[str, Any], named: str) -> None:
    config = made().config
    for name, value in more.items():
        setattr(config, name, value)
    with pytest.raises(UnsupportedArchitecture, match=named):
        families.check(config)
