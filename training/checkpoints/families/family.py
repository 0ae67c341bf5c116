"""What an encoder family is: where it keeps its weights, what its config must say, and what its heads are.

A family is a subclass with a file of its own. Here stand BERT's names and rules, so a family's file says only where it
differs. The graph, the way back from a bundle and the counts of parameters go by these. Knows nothing of ONNX but the
names of operators that compute activations.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
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
    """A head that reads a row's first token: dense, activation (an operator), then the last projection.

    Attributes:
        norm: the layer norm between the two, in families that have one.
        mean: whether it reads the mean of a row's tokens instead.
    """

    dense: str
    activation: str
    last: str
    norm: str = ""
    mean: bool = False


@dataclass(frozen=True)
class SpanHead:
    """A head that projects every token to a start and an end score, in some families after a dense layer, an activation
    and a layer norm."""

    last: str
    dense: str = ""
    activation: str = ""
    norm: str = ""


@dataclass(frozen=True, eq=False)
class RelativeBias:
    """What is added to the attention scores of all layers, by the distance from the token that asks to the other."""

    table: str  # the embedding module, [buckets, heads]
    # the bucket of each distance from -d to d, [2 * d + 1]; farther tokens are as those at -d or d
    buckets: NDArray[Any]


@dataclass(frozen=True)
class Convolution:
    """A convolution of the embeddings over a row's tokens, added to what comes out of the first layer and normalised.

    Attributes:
        module: its `conv` and its `LayerNorm`.
        activation: the operator of what is added.
    """

    module: str
    activation: str


@dataclass(frozen=True, eq=False)
class Disentangled:
    """Attention whose scores are sums of products: of queries with keys, and of either with those of distances.

    Attributes:
        scale: of all of the products.
        table: the embedding module of distances, [rows, hidden]; empty where attention knows of none.
        norm: the layer norm module over it; empty where it has none.
        rows: the table's row of each distance, the query's place less the key's, from -d to d: [2 * d + 1].
        keys: the module of a layer that makes the table's keys, which queries meet (c2p); empty where none do.
        queries: the module that makes its queries, which keys meet (p2c).
        convolution: what is beside the first layer.
    """

    scale: float
    table: str = ""
    norm: str = ""
    rows: NDArray[Any] = field(default_factory=lambda: np.zeros(1, np.int64))
    keys: str = ""
    queries: str = ""
    convolution: Convolution | None = None


@dataclass(frozen=True)
class Rotary:
    """How a layer knows positions: by turning queries and keys (Su et al. 2021, arXiv 2104.09864), and by what it sees.

    Attributes:
        frequencies: of the turns, radians a token, of [head size / 2] pairs.
        window: how far a token sees in either direction; None for all of its row.
    """

    frequencies: tuple[float, ...]
    window: int | None


@dataclass(frozen=True)
class Decoder:
    """What stands behind an encoder and reads the row again, shifted by a token, each token seeing those before it.

    Attributes:
        start: the id that the shifted row begins with.
        heads: of its attentions.
        scale: what its word embeddings and the encoder's are multiplied by.
        across: the modules of a layer's attention to what the encoder made: query, key, value, the projection behind
            them, and its layer norm.
    """

    start: int
    heads: int
    scale: float
    across: tuple[str, str, str, str, str]


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

    @property
    def side_by_side(self) -> tuple[tuple[str, ...], ...]:
        """The modules of a layer whose weights, or biases alone, a graph keeps side by side under the first's name."""
        return ((self.query, self.key, self.value),)

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

    def tables(self, config: Any) -> list[str]:
        """Name the modules of the embeddings' tables."""
        names = ("word", "position", *(("token_type",) if self.token_types else ()))
        return [f"{self.base}.embeddings.{name}_embeddings" for name in names]

    def modules(self, config: Any) -> list[str]:
        """Name the modules of the encoder that hold weights."""
        layers = [f"{layer}.{part}" for layer in dict.fromkeys(self.layer_names(config)) for part in self.layer]
        named = [*self.tables(config), *(f"{self.base}.{part}" for part in ("embeddings.LayerNorm", *layers))]
        bias = self.relative_bias(config)
        return [*named, *filter(None, [self.projection, bias.table if bias else None])]

    def attentions(self, config: Any) -> int:
        """Count the attentions that run."""
        return len(self.layer_names(config))

    def first_position(self, config: Any) -> int:
        """Return the row of the position table that the first token takes."""
        return 0

    def positions(self, config: Any) -> int:
        """Return the tokens of the longest row that the model has positions for."""
        return int(config.max_position_embeddings) - self.first_position(config)

    def activation(self, config: Any) -> str:
        """Return the operator of the feed-forward's activation."""
        return activation(config.hidden_act)

    def epsilon(self, config: Any) -> float:
        """Return what is added to the variance in a layer norm."""
        return float(config.layer_norm_eps)

    def wide(self, config: Any) -> int:
        """Return the width between a feed-forward's two projections."""
        return int(config.intermediate_size)

    def multiplied(self, config: Any) -> int:
        """Count the weights of all layers that run which each token is multiplied with."""
        hidden = int(config.hidden_size)
        return len(self.layer_names(config)) * (4 * hidden**2 + 2 * hidden * self.wide(config))

    def relative_bias(self, config: Any) -> RelativeBias | None:
        """Return what is added to attention scores by distance; None where nothing is."""
        return None

    def disentangled(self, config: Any) -> Disentangled | None:
        """Return what attention knows of distances by products of their own, and what comes with it; None where it is
        BERT's."""
        return None

    def rotary(self, config: Any) -> tuple[Rotary, ...]:
        """Return how each layer knows positions, where none are in the embeddings; empty where they are."""
        return ()

    def decoder(self, config: Any) -> Decoder | None:
        """Return the decoder behind the encoder; None where there is none."""
        return None

    def end(self, config: Any) -> int | None:
        """Return the id that each row must end in, and end alone; None where that is of no matter."""
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
