"""Tiny random models of every family and head, rows for them, and what torch answers."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
import transformers
from transformers import (
    AlbertConfig,
    BartConfig,
    BertConfig,
    CamembertConfig,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    ModernBertConfig,
    MPNetConfig,
    PreTrainedConfig,
    PreTrainedModel,
    RobertaConfig,
    XLMRobertaConfig,
)

from service.engine import session as engine
from training.checkpoints import families

SHAPE = {
    "vocab_size": 99,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_labels": 3,
}
FAMILIES: dict[str, tuple[type[PreTrainedConfig], dict[str, object]]] = {
    "Bert": (BertConfig, {}),
    "Albert": (AlbertConfig, {"embedding_size": 16, "num_hidden_layers": 3}),
    "Roberta": (RobertaConfig, {"type_vocab_size": 1}),
    "Electra": (ElectraConfig, {"embedding_size": 16}),
    "DistilBert": (DistilBertConfig, {"hidden_dim": 48}),
    "XLMRoberta": (XLMRobertaConfig, {"type_vocab_size": 1}),
    "Camembert": (CamembertConfig, {"type_vocab_size": 1}),
    "MPNet": (MPNetConfig, {}),
    "DebertaV2": (
        DebertaV2Config,
        {
            "relative_attention": True,
            "position_biased_input": False,
            "pos_att_type": "p2c|c2p",
            "share_att_key": True,
            "norm_rel_ebd": "layer_norm",
            "position_buckets": 256,
        },
    ),
    "ModernBert": (ModernBertConfig, {"pad_token_id": 0, "local_attention": 16, "num_hidden_layers": 3}),
}
_BART = {
    "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48,
    "encoder_attention_heads": 4, "decoder_attention_heads": 4, "max_position_embeddings": 512,
}  # fmt: skip
FAMILIES["Bart"] = (BartConfig, _BART)
HEADS = ["SequenceClassification", "MultipleChoice", "QuestionAnswering"]
PAIRS = [(name, head) for name in FAMILIES for head in HEADS if hasattr(transformers, f"{name}For{head}")]
"""Each family with each head that transformers has of it."""
SHAPES = [(1, 1), (1, 8), (4, 32), (3, 50)]


def tiny(family: str, head: str, **more: object) -> PreTrainedModel:
    """Return a random model with weights large enough that every part of it shows in the logits."""
    torch.manual_seed(0)
    config_class, settings = FAMILIES[family]
    labels = {"num_labels": 2} if head == "QuestionAnswering" else {}
    config = config_class(**SHAPE | settings | labels | more)
    model = getattr(transformers, f"{family}For{head}")(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.15)
    return model


def rows(model: PreTrainedModel, count: int, tokens: int) -> dict[str, np.ndarray]:
    """Return random rows of two tokens or more, padded on the right; the first is full."""
    random = np.random.default_rng(count * tokens)
    config = model.config
    lengths = random.integers(min(2, tokens), tokens + 1, count)
    lengths[0] = tokens
    real = np.arange(tokens) < lengths[:, None]
    ids = np.where(real, random.integers(5, config.vocab_size, (count, tokens)), config.pad_token_id)
    if (end := families.of(config).end(config)) is not None:
        ids[np.arange(count), lengths - 1] = end
    types = np.where(real, random.integers(0, max(1, getattr(config, "type_vocab_size", 1)), (count, tokens)), 0)
    return {"input_ids": ids, "attention_mask": real.astype(np.int64), "token_type_ids": types}


def torch_logits(model: PreTrainedModel, batch: dict[str, np.ndarray]) -> list[np.ndarray]:
    inputs = {name: torch.from_numpy(value) for name, value in batch.items()}
    if not families.of(model.config).token_types:
        del inputs["token_type_ids"]
    choice = type(model).__name__.endswith("MultipleChoice")
    if choice:  # torch wants [questions, options, tokens]; here a row is an option
        inputs = {name: value[None] for name, value in inputs.items()}
    with torch.no_grad():
        output = model(**inputs)
    if "logits" in output:
        return [output.logits.numpy().T if choice else output.logits.numpy()]
    return [output.start_logits.numpy(), output.end_logits.numpy()]


class Session(onnxruntime.InferenceSession):
    """A graph on one thread, in products that are exact on this processor."""

    def __init__(self, graph: onnx.ModelProto | Path) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        model = str(graph) if isinstance(graph, Path) else graph.SerializeToString()
        super().__init__(model, options, providers=["CPUExecutionProvider"])
        asked = engine.SEVEN_BITS if engine.products_overflow() else {}
        known = {each.name for each in self.get_overridable_initializers()}
        self._exact = {name: np.array(value) for name, value in asked.items() if name in known}

    def run(self, names: list[str] | None, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        found: list[np.ndarray] = super().run(names, self._exact | inputs)
        return found


def session(graph: onnx.ModelProto) -> Session:
    return Session(graph)


def differences(model: PreTrainedModel, graph: onnx.ModelProto) -> list[float]:
    """Return max |torch - graph| over what the service reads, at several shapes."""
    runtime = session(graph)
    found = []
    for count, tokens in SHAPES:
        batch = rows(model, count, tokens)
        read = batch["attention_mask"] == 1 if model.config.num_labels == 2 else ...
        for expected, actual in zip(torch_logits(model, batch), runtime.run(None, batch), strict=True):
            assert expected.shape == actual.shape
            found.append(float(np.abs(expected - actual)[read].max()))
    return found
