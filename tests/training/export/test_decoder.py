"""An encoder with a decoder behind it: what it computes is torch's, and of its last layer only what is read."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper

from tests.training.samples import make_model
from tests.training.tiny import differences, rows, session, tiny, torch_logits
from training.checkpoints import families
from training.checkpoints.configs import load_config, max_positions
from training.errors import CheckpointError
from training.export import runner as export
from training.export.graph import UnsupportedArchitecture, build
from training.export.quantize import FLOAT32, INT8, Encoding
from training.export.runner import Request

SEQUENCE, SPAN = "SequenceClassification", "QuestionAnswering"


@pytest.mark.parametrize("head", [SEQUENCE, SPAN])
def test_scaled_embeddings_and_other_shapes_of_the_decoder(head: str) -> None:
    more = {"scale_embedding": True, "decoder_layers": 3, "decoder_attention_heads": 2, "decoder_ffn_dim": 80}
    model = tiny("Bart", head, decoder_start_token_id=7, activation_function="relu", **more)
    assert max(differences(model, build(model))) < 1e-4


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_long_rows(attention: str) -> None:
    model = tiny("Bart", SEQUENCE, max_position_embeddings=600)
    model.set_attn_implementation(attention)
    batch = rows(model, 3, 600)
    (ours,), (theirs,) = session(build(model)).run(None, batch), torch_logits(model, batch)
    assert np.abs(ours - theirs).max() < 1e-4
    assert max_positions(model.config) == 600
    assert len(model.model.encoder.embed_positions.weight) == 602


@pytest.mark.parametrize("encoding", [FLOAT32, INT8])
def test_the_last_layer_computes_the_ends_alone(encoding: Encoding) -> None:
    """Of a classifier; an answer's span is read everywhere."""
    for head, tokens in ((SEQUENCE, 1), (SPAN, 20)):
        model = tiny("Bart", head)
        graph = build(model, encoding=encoding)
        seen = {"decoder.0.wide": 20, "decoder.1.mixed": tokens, "decoder.1.across.query": tokens, "decoder.1": tokens}
        graph.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in seen)
        found = session(graph).run(list(seen), rows(model, 3, 20))
        assert [array.shape[:2] for array in found] == [(3, count) for count in seen.values()]
        asked = [node for node in graph.graph.node if node.op_type == "MultiHeadAttention"]
        causal = [bool(each.i) for node in asked for each in node.attribute if each.name == "unidirectional"]
        assert causal == [True, tokens > 1]


def test_a_token_sees_none_that_follow() -> None:
    """In the decoder alone: were its scores not masked, they would be torch's in no shape."""
    model = tiny("Bart", SPAN)
    for parameter in model.model.decoder.layers[0].encoder_attn.out_proj.parameters():
        parameter.data.zero_()
    del model.model.decoder.layers[1]
    model.config.decoder_layers = 1
    batch = rows(model, 1, 12)
    changed = batch | {"input_ids": np.concatenate([batch["input_ids"][:, :8], batch["input_ids"][:, 8:] - 1], axis=1)}
    runtime = session(build(model))
    before, after = (runtime.run(None, each)[0][0] for each in (batch, changed))
    assert np.array_equal(before[:9], after[:9])  # the decoder's row is a token late
    assert np.abs(before[9:] - after[9:]).min() > 1e-3


def test_words_are_stored_once() -> None:
    model = tiny("Bart", SEQUENCE, vocab_size=4000)
    assert build(model).ByteSize() < 1.05 * 4 * model.num_parameters() + 40_000  # nodes are a part of a tiny graph


@pytest.mark.parametrize(
    ("more", "named"),
    [
        ({"normalize_before": True}, "normalize_before True: a BART has False"),
        ({"add_final_layer_norm": True}, "add_final_layer_norm"),
        ({"normalize_embedding": False}, "normalize_embedding"),
        ({"static_position_embeddings": True}, "static_position_embeddings"),
        ({"activation_function": "silu"}, "silu"),
        ({"eos_token_id": [2, 3]}, "eos_token_id"),
    ],
)
def test_refuses_what_it_would_compute_wrongly(more: dict[str, object], named: str) -> None:
    config = tiny("Bart", SEQUENCE).config
    for name, value in more.items():
        setattr(config, name, value)
    with pytest.raises(UnsupportedArchitecture, match=named):
        families.check(config)


def test_mbart_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mbart", "normalize_before": True}))
    with pytest.raises(CheckpointError, match=r"model_type 'mbart' is not one of .*bart"):
        load_config(tmp_path)


def test_rows_must_end_where_the_head_reads(vocabularies: dict[str, Path], tmp_path: Path) -> None:
    """A tokenizer whose rows end otherwise, or a config that calls another token the end."""
    size = {"vocab_size": 1000, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "decoder_layers": 1}
    model = make_model("ForSequenceClassification", "Bart", decoder_attention_heads=4, **size, pad_token_id=1)
    model.config.id2label, model.config.label2id = {0: "no", 1: "yes", 2: "maybe"}, {"no": 0, "yes": 1, "maybe": 2}
    model.config.eos_token_id = 3
    model.save_pretrained(tmp_path / "c")
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / "c" / name).write_bytes((vocabularies["bart"] / name).read_bytes())
    with pytest.raises(CheckpointError, match=r"is 3 \(eos_token_id\), and its tokenizer ends rows with id 2"):
        export.run(Request(tmp_path / "c", tmp_path / "m" / "b", ("fp32",), without_dev=True))
    assert torch.equal(model.model.shared.weight, model.model.decoder.embed_tokens.weight)
