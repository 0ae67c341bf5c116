"""What an encoder family is: where it keeps its weights, what its config must say, and what its heads are.

A family is a subclass with a file of its own. Here stand BERT's names and rules, so a family's file says only where it
differs. The graph, the way back from a bundle and the counts of parameters go by these. Knows nothing of ONNX but the
names of operators that compute activations.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from numpy.typing import NDArray

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
class ClassHead:
    """A head that reads a row's first token: dense, activation (an operator), then the last projection."""

    dense: str
    activation: str
    last: str


@dataclass(frozen=True)
class SpanHead:
    """A head that projects every token to a start and an end score."""

    last: str


@dataclass(frozen=True, eq=False)
class RelativeBias:
    """What is added to the attention scores of all layers, by the distance from the token that asks to the other."""

    table: str  # the embedding module, [buckets, heads]
    # the bucket of each distance from -d to d, [2 * d + 1]; farther tokens are as those at -d or d
    buckets: NDArray[Any]


class Family:
    """BERT's names and rules. Module names are the checkpoint's; those of a layer are relative to the layer."""

    model_type: ClassVar[str]  # in a config
    called: ClassVar[str]  # in a sentence, with its article
    base: ClassVar[str]  # the encoder within a model with a head
    pooler: ClassVar[str] = ""  # the dense layer over the first token, in families that have one
    projection: ClassVar[str | None] = None  # embedding size -> hidden size, in families that tell the two apart
    token_types: ClassVar[bool] = True  # whether there is a table of token types

    query: ClassVar[str] = "attention.self.query"
    key: ClassVar[str] = "attention.self.key"
    value: ClassVar[str] = "attention.self.value"
    mix: ClassVar[str] = "attention.output.dense"
    mix_norm: ClassVar[str] = "attention.output.LayerNorm"
    widen: ClassVar[str] = "intermediate.dense"
    narrow: ClassVar[str] = "output.dense"
    norm: ClassVar[str] = "output.LayerNorm"

    dropouts: ClassVar[tuple[str, ...]] = ("hidden_dropout_prob", "attention_probs_dropout_prob")
    """The config's dropouts of the encoder."""
    head_dropouts: ClassVar[tuple[str, ...]] = ("classifier_dropout",)
    """The config's dropouts before a head's last projection."""
    own_attention: ClassVar[bool] = False
    """Whether the model has an attention of its own written out, so that no other can be chosen to train it with."""

    @property
    def layer(self) -> tuple[str, ...]:
        """The modules of a layer, in an order that is the same in all families."""
        return (
            self.query, self.key, self.value, self.mix, self.mix_norm, self.widen, self.narrow, self.norm,
        )  # fmt: skip

    def check(self, config: Any) -> None:
        """Raise `UnsupportedArchitecture` unless `config` describes a plain encoder."""
        positions = getattr(config, "position_embedding_type", None) or "absolute"
        if positions != "absolute":
            raise UnsupportedArchitecture(f"position_embedding_type {positions!r}: only 'absolute' can be exported")
        if getattr(config, "is_decoder", False) or getattr(config, "add_cross_attention", False):
            raise UnsupportedArchitecture("is_decoder or add_cross_attention is set: only encoders can be exported")
        self.activation(config)

    def layer_names(self, config: Any) -> list[str]:
        """Name the modules of the layers in the order they run, relative to the base."""
        return [f"encoder.layer.{i}" for i in range(config.num_hidden_layers)]

    def first_position(self, config: Any) -> int:
        """Return the row of the position table that the first token takes."""
        return 0

    def activation(self, config: Any) -> str:
        """Return the operator of the feed-forward's activation."""
        return activation(config.hidden_act)

    def epsilon(self, config: Any) -> float:
        """Return what is added to the variance in a layer norm."""
        return float(config.layer_norm_eps)

    def wide(self, config: Any) -> int:
        """Return the width between a feed-forward's two projections."""
        return int(config.intermediate_size)

    def relative_bias(self, config: Any) -> RelativeBias | None:
        """Return what is added to attention scores by distance; None where nothing is."""
        return None

    def class_head(self, config: Any) -> ClassHead:
        """Return the head of a `ForSequenceClassification`."""
        return ClassHead(self.pooler, TANH, "classifier")

    def choice_head(self, config: Any) -> ClassHead:
        """Return the head of a `ForMultipleChoice`."""
        return ClassHead(self.pooler, TANH, "classifier")

    def span_head(self, config: Any) -> SpanHead:
        """Return the head of a `ForQuestionAnswering`."""
        return SpanHead("qa_outputs")


def activation(name: str) -> str:
    """Return the operator of an activation. Raises `UnsupportedArchitecture` for one that none computes."""
    if name not in ACTIVATIONS:
        raise UnsupportedArchitecture(f"activation {name!r} is not one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]
