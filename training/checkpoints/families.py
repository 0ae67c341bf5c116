"""The encoder families that can be exported: where each keeps its weights, and what its config must say.

A new family is an entry here; the graph, the way back from a bundle and the counts of parameters go by it.
"""

from dataclasses import dataclass

from transformers import PretrainedConfig

from training.errors import CheckpointError

# What a config calls its activation, by the operator that computes it. The first two add the bias before it too.
GELU, TANH_GELU, RELU, TANH = "com.microsoft.BiasGelu", "com.microsoft.FastGelu", "Relu", "Tanh"
ACTIVATIONS = {
    "gelu": GELU,
    "gelu_python": GELU,
    "gelu_new": TANH_GELU,
    "gelu_fast": TANH_GELU,
    "gelu_accurate": TANH_GELU,
    "gelu_pytorch_tanh": TANH_GELU,
    "gelu_python_tanh": TANH_GELU,
    "relu": RELU,
    "tanh": TANH,
}


class UnsupportedArchitecture(CheckpointError, ValueError):
    """The checkpoint is of a kind whose graph would not compute what the model does."""


@dataclass(frozen=True)
class Family:
    """Where a family keeps its weights: module names, those of a layer relative to the layer."""

    base: str
    pooler: str
    projection: str | None = None  # embedding size -> hidden size, in families that tell the two apart
    query: str = "attention.self.query"
    key: str = "attention.self.key"
    value: str = "attention.self.value"
    mix: str = "attention.output.dense"
    mix_norm: str = "attention.output.LayerNorm"
    widen: str = "intermediate.dense"
    narrow: str = "output.dense"
    norm: str = "output.LayerNorm"

    @property
    def layer(self) -> tuple[str, ...]:
        """The modules of a layer, in an order that is the same in all families."""
        return (
            self.query, self.key, self.value, self.mix, self.mix_norm, self.widen, self.narrow, self.norm,
        )  # fmt: skip


FAMILIES = {
    "bert": Family("bert", "bert.pooler.dense"),
    "roberta": Family("roberta", "roberta.pooler.dense"),
    "electra": Family("electra", "sequence_summary.summary", "electra.embeddings_project"),
    "albert": Family(
        "albert",
        "albert.pooler",
        "albert.encoder.embedding_hidden_mapping_in",
        query="attention.query",
        key="attention.key",
        value="attention.value",
        mix="attention.dense",
        mix_norm="attention.LayerNorm",
        widen="ffn",
        narrow="ffn_output",
        norm="full_layer_layer_norm",
    ),
}


def check(config: PretrainedConfig) -> None:
    """Raise `UnsupportedArchitecture` unless `config` describes a plain encoder of a known family."""
    if config.model_type not in FAMILIES:
        raise UnsupportedArchitecture(f"model_type {config.model_type!r} is not one of {', '.join(FAMILIES)}")
    positions = getattr(config, "position_embedding_type", None) or "absolute"
    if positions != "absolute":
        raise UnsupportedArchitecture(f"position_embedding_type {positions!r}: only 'absolute' can be exported")
    if getattr(config, "is_decoder", False) or getattr(config, "add_cross_attention", False):
        raise UnsupportedArchitecture("is_decoder or add_cross_attention is set: only encoders can be exported")
    activation(config.hidden_act)


def layer_names(config: PretrainedConfig) -> list[str]:
    """Name the modules of the layers in the order they run, relative to the base; ALBERT's repeat."""
    if config.model_type != "albert":
        return [f"encoder.layer.{i}" for i in range(config.num_hidden_layers)]
    # The groups follow one another, each for its share of the turns; a turn runs all of its group's inner layers.
    turns = [i * config.num_hidden_groups // config.num_hidden_layers for i in range(config.num_hidden_layers)]
    return [
        f"encoder.albert_layer_groups.{group}.albert_layers.{inner}"
        for group in turns
        for inner in range(config.inner_group_num)
    ]


def activation(name: str) -> str:
    """Return the operator of an activation. Raises `UnsupportedArchitecture` for one that none computes."""
    if name not in ACTIVATIONS:
        raise UnsupportedArchitecture(f"activation {name!r} is not one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]
