"""The inference graph of a BERT-family checkpoint, written node by node from its weights.

Nothing is traced and no optimiser is run: the graph is made of the runtime's fused operators to begin with, so fusion
cannot fail to match, and a layer's weights are stored once however many layers use them (ALBERT). This file owns the
shape of the network. It does not know how a matrix is stored (`quantize`), nor files, tokenizers or tasks.

Every graph has the inputs input_ids, attention_mask and token_type_ids, int64 [rows, tokens], rows padded on the right,
and fp32 outputs: logits [rows, labels] (multiple choice: [rows, 1], a row an option), or start_logits and end_logits
[rows, tokens], which mean nothing at padding. A packed graph, for GPUs, does no work on padding in between: its hidden
states are the tokens of all rows, one after another.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto
from transformers import PreTrainedModel

from training.checkpoints import families
from training.checkpoints.families import (
    GELU,
    TANH_GELU,
    ClassHead,
    RelativeBias,
    SpanHead,
    UnsupportedArchitecture,
    layer_names,
)
from training.export.builder import Array, GraphBuilder
from training.export.quantize import FLOAT32, Encoding, Int8, Normalise, Use


def build(model: PreTrainedModel, *, encoding: Encoding = FLOAT32, packed: bool = False) -> onnx.ModelProto:
    """Write the graph of a fine-tuned `model`, its weights kept as `encoding` says.

    With `packed` it does no work on padding, with operators that have kernels on CUDA alone (`packing`). Its
    weights are those of the graph that is not, to the bit.

    Raises `UnsupportedArchitecture` for a family, head or configuration that would be served wrongly, and `ValueError`
    for a packed graph in int8.
    """
    if packed and isinstance(encoding, Int8):
        raise ValueError("int8 graphs are for CPUs, which have no kernels for packed ones")
    families.check(model.config)
    head = head_of(model)
    writer = _writer(model)(model, encoding, packed=packed)
    hidden = writer.encoder(first_only=isinstance(head, ClassHead) and not head.mean)
    match head:
        case ClassHead():
            writer.class_logits(hidden, head)
        case SpanHead():
            writer.span_logits(hidden, head)
    return writer.builder.finish()


def _writer(model: PreTrainedModel) -> type["Writer"]:
    """What writes the layers that a model's family says it has."""
    # They are writers too.
    from training.export.decoder import EncoderDecoder
    from training.export.disentangled import DisentangledWriter
    from training.export.prenorm import PreNorm

    family = families.of(model.config)
    if family.decoder(model.config):
        return EncoderDecoder
    if family.disentangled(model.config):
        return DisentangledWriter
    return PreNorm if family.rotary(model.config) else Writer


def head_of(model: PreTrainedModel) -> ClassHead | SpanHead:
    """Find a model's head by its class. Raises `UnsupportedArchitecture` for one that cannot be served."""
    config: Any = model.config
    family = families.of(config)
    name = type(model).__name__
    if name.endswith("ForQuestionAnswering"):
        if config.num_labels != 2:
            raise UnsupportedArchitecture(f"num_labels {config.num_labels}: question answering has 2, start and end")
        return family.span_head(config)
    if name.endswith("ForSequenceClassification"):
        return family.class_head(config)
    if name.endswith("ForMultipleChoice"):
        return family.choice_head(config)
    raise UnsupportedArchitecture(f"{name} has no head that can be served")


def fused_attention_count(graph: onnx.ModelProto) -> int:
    """Count the fused attention operators; a whole graph has `len(layer_names(config))`."""
    return sum(node.op_type in ("MultiHeadAttention", "PackedMultiHeadAttention") for node in graph.graph.node)


def unique_weight_count(graph: onnx.ModelProto) -> int:
    """Count the numbers a graph stores: its weights, each once, and the scales of encoded ones."""
    return sum(int(np.prod(tensor.dims)) for tensor in graph.graph.initializer)


@dataclass(frozen=True)
class Linear:
    """A stored projection. Its bias is left to the fused operator that comes next."""

    project: Use
    bias: str


@dataclass(frozen=True)
class Layer:
    """A stored transformer layer, to be written as often as it runs."""

    name: str  # of its module
    qkv: Linear  # [hidden, 3 * hidden]: query, key and value side by side
    mix: Linear
    mix_norm: Normalise
    widen: Linear
    narrow: Linear
    norm: Normalise


@dataclass(frozen=True)
class _Packing:
    """Where the tokens of a packed graph belong, as RemovePadding tells it, int32."""

    token_offset: str  # [rows, tokens]: places in rows * tokens, those of the tokens first, then those of padding
    row_starts: str  # [rows + 1]: where each row begins among the tokens, and how many there are
    firsts: str  # [rows]: the same without the last


class Writer:
    """Writes one model to a builder, from the embeddings up.

    Hidden states are [rows, tokens, hidden], packed [all tokens, hidden], of the encoding's type; those of first tokens
    [rows, 1, hidden], packed [rows, hidden]. `to` names what a method writes.
    """

    def __init__(self, model: PreTrainedModel, encoding: Encoding, *, packed: bool) -> None:
        self.config: Any = model.config
        self.family = families.of(model.config)
        self.tensors = model.state_dict()
        self.encoding = encoding
        self.packed = packed
        self.packing: _Packing | None = None  # once padding is removed
        self.builder = GraphBuilder()
        self.node = self.builder.node
        self.constant = self.builder.constant

    # The network

    def encoder(self, *, first_only: bool) -> str:
        """Write embeddings and layers; return the last hidden states, of first tokens alone if only those are read."""
        input_ids, token_type_ids, lengths, positions = self.rows()
        x = self.embeddings(input_ids, token_type_ids, positions)
        relative = self.family.relative_bias(self.config)
        bias = self.relative_bias(relative, positions) if relative else ""
        if self.packed:
            x = self.remove_padding(x, lengths, "packed")
        x = self.projected(x)
        names = layer_names(self.config)
        stored = {name: self.stored_layer(f"{self.family.base}.{name}") for name in dict.fromkeys(names)}
        for i, name in enumerate(names):
            last = first_only and i == len(names) - 1
            x = self.layer(stored[name], x, lengths, bias, f"layer.{i}", first_only=last)
        return x

    def rows(self) -> tuple[str, str, str, str]:
        """Declare the inputs; return input_ids and token_type_ids, the rows' lengths, int32 [rows], and the positions
        [tokens]."""
        input_ids, attention_mask, token_type_ids = (
            self.builder.input(name, ["rows", "tokens"]) for name in ("input_ids", "attention_mask", "token_type_ids")
        )
        # Rows are padded on the right, so a mask is a length; the fast attention kernels of GPUs want just that.
        lengths = self.node("ReduceSum", [attention_mask, self.constant([1])], "lengths.int64", keepdims=0)
        lengths = self.node("Cast", [lengths], "lengths", to=TensorProto.INT32)
        tokens = self.node("Shape", [input_ids], "tokens.shape", start=1)
        tokens = self.node("Squeeze", [tokens], "tokens")
        return (
            input_ids,
            token_type_ids,
            lengths,
            self.node("Range", [self.constant(0), tokens, self.constant(1)], "positions"),
        )

    def embeddings(self, input_ids: str, token_type_ids: str, positions: str) -> str:
        """Write the sum of word, position and type embeddings, normalised: [rows, tokens, embedding size]."""
        base = f"{self.family.base}.embeddings"
        words = self.take(f"{base}.word_embeddings.weight")
        # Where padding is on the right, positions that begin later are a shift of the table.
        places = self.take(f"{base}.position_embeddings.weight")[self.family.first_position(self.config) :]
        types = self.take(f"{base}.token_type_embeddings.weight") if self.family.token_types else None
        if types is not None and len(types) == 1:
            places, types = places + types, None

        x = self.encoding.embedding(self.builder, f"{base}.word", words)(input_ids, "embeddings.words")
        if types is not None:
            typed = self.encoding.embedding(self.builder, f"{base}.type", types)(token_type_ids, "embeddings.types")
            x = self.node("Add", [x, typed], "embeddings.typed")
        placed = self.encoding.embedding(self.builder, f"{base}.position", places)(positions, "embeddings.places")
        return self.norm(f"{base}.LayerNorm")(x, placed, "", "embeddings")

    def relative_bias(self, bias: RelativeBias, positions: str) -> str:
        """Write what is added to the scores of every layer, by distance: [1, heads, tokens, tokens]. Once a batch."""
        farthest = len(bias.buckets) // 2
        table = self.take(f"{bias.table}.weight").T.astype(self.encoding.dtype)
        stored = self.builder.weight(f"{bias.table}.weight", table)
        buckets = self.builder.weight(f"{bias.table}.buckets", bias.buckets.astype(np.int64))
        by_distance = self.node("Gather", [stored, buckets], "bias.by_distance", axis=1)  # folded as it is loaded
        keys = self.node("Unsqueeze", [positions, self.constant([0])], "bias.keys")
        queries = self.node("Unsqueeze", [positions, self.constant([1])], "bias.queries")
        distance = self.node("Sub", [keys, queries], "bias.distance")
        distance = self.node("Clip", [distance, self.constant(-farthest), self.constant(farthest)], "bias.near")
        index = self.node("Add", [distance, self.constant(farthest)], "bias.index")
        scores = self.node("Gather", [by_distance, index], "bias.scores", axis=1)
        return self.node("Unsqueeze", [scores, self.constant([0])], "bias")

    def remove_padding(self, x: str, lengths: str, to: str) -> str:
        """Write x [rows, tokens, size] without its padding, [all tokens, size]."""
        token_offset, row_starts = f"{to}.token_offset", f"{to}.row_starts"
        outputs = (to, token_offset, row_starts, f"{to}.longest_row")
        self.node("com.microsoft.RemovePadding", [x, lengths], *outputs)
        firsts = self.node("Slice", [row_starts, self.constant([0]), self.constant([-1])], f"{to}.firsts")
        self.packing = _Packing(token_offset, row_starts, firsts)
        return to

    def projected(self, x: str) -> str:
        """Write the projection of the embeddings to the hidden size, where the family has one."""
        projection = self.family.projection
        if projection is None or f"{projection}.weight" not in self.tensors:
            return x
        linear = self.linear(projection)
        return self.node("Add", [linear.project(x, "embeddings.project"), linear.bias], "embeddings.projected")

    def layer(self, layer: Layer, x: str, lengths: str, bias: str, to: str, *, first_only: bool) -> str:
        """Write one layer over x, with `bias` on its scores. With `first_only`, every token is attended to but only the
        first is computed."""
        attended = self.attend(layer, x, lengths, bias, to, first_only=first_only)
        if first_only:
            attended, x = (self.first(each, f"{each}.first") for each in (attended, x))
        mixed = layer.mix.project(attended, f"{to}.mix")
        x = layer.mix_norm(mixed, x, layer.mix.bias, f"{to}.mixed")
        return self.feed_forward(layer, x, to)

    def feed_forward(self, layer: Layer, x: str, to: str) -> str:
        """Write the second half of a layer."""
        wide = layer.widen.project(x, f"{to}.widen")
        wide = self.activate(wide, layer.widen.bias, self.family.activation(self.config), f"{to}.wide")
        narrow = layer.narrow.project(wide, f"{to}.narrow")
        return layer.norm(narrow, x, layer.narrow.bias, to)

    def attend(self, layer: Layer, x: str, lengths: str, bias: str, to: str, *, first_only: bool) -> str:
        """Write the attention of a layer over x, its heads side by side. With `first_only`, few tokens ask, the first
        among them."""
        query, key, value = f"{to}.query", f"{to}.key", f"{to}.value"
        self.node("Split", [layer.qkv.project(x, f"{to}.qkv")], query, key, value, axis=-1, num_outputs=3)
        if first_only and not self.packing:
            query = self.asking(query, to)
            bias = self.leading(bias, 2, f"{to}.bias", axis=2) if bias else ""
        return self.fused(query, key, value, layer.qkv.bias, lengths, bias, to)

    def asking(self, query: str, to: str) -> str:
        """Keep the queries of the first two tokens. One will be kept: a lone one would take the runtime's
        matrix-by-vector path, whose rounding changes with the padding, and a row must not feel its neighbours' lengths.
        """
        return self.leading(query, 2, f"{to}.asking")

    def fused(
        self, query: str, key: str, value: str, qkv_bias: str, lengths: str, bias: str, to: str, **attributes: float
    ) -> str:
        """Write the operator of attention, with `bias` on its scores where there is one."""
        op, places = "com.microsoft.MultiHeadAttention", [lengths]
        if self.packing:
            # It takes query, key and value in one tensor too, but head by head: those would be other weights than the
            # ones of a graph that is not packed. Here all tokens ask, the last layer's too: as many as there are keys.
            op, places = "com.microsoft.PackedMultiHeadAttention", [self.packing.token_offset, self.packing.row_starts]
        inputs = [query, key, value, qkv_bias, *places, *([bias] if bias else [])]
        return self.node(op, inputs, f"{to}.attention", num_heads=self.config.num_attention_heads, **attributes)

    def class_logits(self, x: str, head: ClassHead) -> None:
        """Write `head` over the hidden states of first tokens."""
        if not self.packing:
            x = self.node("Squeeze", [x, self.constant([1])], "first")
        logits = self.last(self.dense(x, head, "pool"), head.last, "logits")
        self.builder.output(logits, ["rows", len(self.tensors[f"{head.last}.bias"])])

    def span_logits(self, x: str, head: SpanHead) -> None:
        """Write `head` over all tokens."""
        if head.dense:
            x = self.dense(x, head, "head")
        logits = self.last(x, head.last, "span_logits")
        if self.packing:
            # Here, not before the head: two numbers a token are restored, and not all of its hidden state.
            restored = [logits, self.packing.token_offset]
            logits = self.node("com.microsoft.RestorePadding", restored, "span_logits.restored")
        for i, name in enumerate(("start_logits", "end_logits")):
            self.builder.output(self.node("Gather", [logits, self.constant(i)], name, axis=2), ["rows", "tokens"])

    # Its pieces

    def dense(self, x: str, head: ClassHead | SpanHead, to: str) -> str:
        """Write a head's dense layer and its activation."""
        dense = self.linear(head.dense)
        return self.activate(dense.project(x, to), dense.bias, head.activation, f"{to}ed")

    def last(self, x: str, name: str, to: str) -> str:
        """Write the projection to logits, in fp32 whatever the encoding: it is tiny and the answer hangs on it."""
        if self.encoding.dtype != FLOAT32.dtype:
            x = self.node("Cast", [x], f"{to}.float", to=TensorProto.FLOAT)
        matrix = FLOAT32.matmul(self.builder, f"{name}.weight", self.take(f"{name}.weight").T)
        bias = self.builder.weight(f"{name}.bias", self.take(f"{name}.bias"))
        return self.node("Add", [matrix(x, f"{to}.project"), bias], to)

    def first(self, x: str, to: str) -> str:
        """Keep each row's first token."""
        return self.node("Gather", [x, self.packing.firsts], to) if self.packing else self.leading(x, 1, to)

    def leading(self, x: str, tokens: int, to: str, axis: int = 1) -> str:
        """Keep the first `tokens` of x [rows, tokens, size], or along another axis."""
        return self.node("Slice", [x, self.constant([0]), self.constant([tokens]), self.constant([axis])], to)

    def activate(self, x: str, bias: str, op: str, to: str) -> str:
        """Write op(x + bias)."""
        if not bias:
            return self.node("com.microsoft.Gelu" if op == GELU else op, [x], to)
        if op in (GELU, TANH_GELU):
            return self.node(op, [x, bias], to)
        return self.node(op, [self.node("Add", [x, bias], f"{to}.biased")], to)

    def scaled(self, x: str, scale: str, to: str) -> str:
        """Write x times its tokens' scale, if they have one."""
        return self.node("Mul", [x, scale], to) if scale else x

    # Its weights

    def stored_layer(self, name: str) -> Layer:
        """Store the weights of the layer that is the module `name`."""
        family = self.family
        return Layer(
            name=name,
            qkv=self.linear(*(f"{name}.{part}" for part in (family.query, family.key, family.value))),
            mix=self.linear(f"{name}.{family.mix}"),
            mix_norm=self.norm(f"{name}.{family.mix_norm}"),
            widen=self.linear(f"{name}.{family.widen}"),
            narrow=self.linear(f"{name}.{family.narrow}"),
            norm=self.norm(f"{name}.{family.norm}"),
        )

    def linear(self, *names: str) -> Linear:
        """Store the linear modules `names`, side by side as one projection."""
        matrix = np.concatenate([self.take(f"{name}.weight").T for name in names], axis=1)
        project = self.encoding.matmul(self.builder, f"{names[0]}.weight", matrix)
        if f"{names[0]}.bias" not in self.tensors:
            return Linear(project, "")
        bias = np.concatenate([self.take(f"{name}.bias") for name in names])
        return Linear(project, self.builder.weight(f"{names[0]}.bias", bias.astype(self.encoding.dtype)))

    def norm(self, name: str) -> Normalise:
        """Store the layer norm module `name`."""
        gamma = self.take(f"{name}.weight")
        beta = self.take(f"{name}.bias") if f"{name}.bias" in self.tensors else None
        return self.encoding.norm(self.builder, name, gamma, beta, self.family.epsilon(self.config))

    def take(self, name: str) -> Array:
        """Read a tensor of the checkpoint, as fp32."""
        array: Array = self.tensors[name].detach().float().cpu().numpy()
        return array
