"""Layers with their norms before attention and before the feed-forward, which is gated, and positions in the attention.

Owns the shape of such a network (ModernBERT: Warner et al. 2024, arXiv 2412.13663, section 2.1); what is around it is
`graph`'s. Positions are computed once a batch and shared by the layers of a kind.

A norm's result is multiplied by matrices alone, so it is written as an operand of theirs (`quantize.Operand`), and what
is left of a token's scale goes where it costs least: into the sines and cosines that turn its queries and keys, past
the gate into the scale of the feed-forward's own codes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from onnx import TensorProto, helper

from training.checkpoints.families import ClassHead, Rotary, SpanHead
from training.export.graph import Writer
from training.export.quantize import Operand, PreNormalise, Product, Use

EXCLUDED = -1e4
"""Added to the score of a token beyond the window: its weight is 0 in fp32, and the number is one in fp16."""


@dataclass(frozen=True)
class _Layer:
    """A stored layer."""

    norm: PreNormalise | None  # before attention; None where the embeddings' norm has just been
    query: Product
    key: Product
    value: Product
    mix: Use
    wide_norm: PreNormalise
    widen: Product
    gate: Product
    narrow: Product


@dataclass(frozen=True)
class _Places:
    """What a kind of layers knows of positions.

    Attributes:
        cos: of the angles [tokens, head size / 2]; packed [all tokens, head size / 2].
        sin: likewise.
        bias: on scores, [1, 1, tokens, tokens]; empty where a token sees all of its row.
    """

    cos: str
    sin: str
    bias: str = ""


class PreNorm(Writer):
    """Writes a model of such layers."""

    def encoder(self, *, first_only: bool) -> str:
        input_ids, _, lengths, positions = self.rows()
        base, kinds = self.family.base, self.family.rotary(self.config)
        words = self.take(f"{base}.embeddings.tok_embeddings.weight")
        x = self.encoding.embedding(self.builder, f"{base}.embeddings.tok", words)(input_ids, "embeddings.words")
        x = self.norm(f"{base}.embeddings.norm")(x, "", "", "embeddings")
        if self.packed:
            x = self.remove_padding(x, lengths, "packed")
        places = {kind: self.places(kind, positions, x, f"places.{i}") for i, kind in enumerate(dict.fromkeys(kinds))}
        branch = ""  # what is still to be added to x
        for i, (name, kind) in enumerate(zip(self.family.layer_names(self.config), kinds, strict=True)):
            layer = self.stored(f"{base}.{name}")
            last = first_only and i == len(kinds) - 1
            x, branch = self.block(layer, x, branch, lengths, places[kind], f"layer.{i}", first_only=last)
        return self.norm(f"{base}.final_norm")(branch, x, "", "encoded")

    def dense(self, x: str, head: ClassHead | SpanHead, to: str) -> str:
        """Write a head's dense layer, its activation and its norm."""
        return self.norm(head.norm)(super().dense(x, head, to), "", "", f"{to}.normed")

    def class_logits(self, x: str, head: ClassHead) -> None:
        super().class_logits(self.mean(x) if head.mean else x, head)

    # Its pieces

    def places(self, kind: Rotary, positions: str, x: str, to: str) -> _Places:
        """Write what layers of a kind know of positions, once a batch: that of the tokens of x."""
        node = self.node
        keys = node("Unsqueeze", [positions, self.constant([0])], f"{to}.keys")
        queries = node("Unsqueeze", [positions, self.constant([1])], f"{to}.queries")
        bias = ""
        if kind.window is not None:
            distance = node("Abs", [node("Sub", [keys, queries], f"{to}.offset")], f"{to}.distance")
            beyond = node("Greater", [distance, self.constant(kind.window)], f"{to}.beyond")
            near, far = (self.constant(self.encoding.dtype.type(value)) for value in (0, EXCLUDED))
            bias = node("Where", [beyond, far, near], f"{to}.window")
            bias = node("Unsqueeze", [bias, self.constant([0, 1])], f"{to}.bias")
        if self.packing:  # a token's position is its place in rows * tokens, less the rows before
            offsets = node("Reshape", [self.packing.token_offset, self.constant([-1])], f"{to}.offsets")
            count = node("Shape", [x], f"{to}.count", end=1)
            offsets = node("Slice", [offsets, self.constant([0]), count], f"{to}.offsets.tokens")
            offsets = node("Cast", [offsets], f"{to}.offsets.int64", to=TensorProto.INT64)
            at = node("Mod", [offsets, node("Size", [positions], f"{to}.tokens")], f"{to}.packed")
            queries = node("Unsqueeze", [at, self.constant([1])], f"{to}.packed.queries")
        frequencies = self.builder.weight(f"{to}.frequencies", np.array([kind.frequencies], dtype=np.float32))
        angles = node("Mul", [node("Cast", [queries], f"{to}.at", to=TensorProto.FLOAT), frequencies], f"{to}.angles")
        cos, sin = (self.cast(node(op, [angles], f"{to}.{op.lower()}")) for op in ("Cos", "Sin"))
        return _Places(cos, sin, bias)

    def block(
        self, layer: _Layer, x: str, branch: str, lengths: str, places: _Places, to: str, *, first_only: bool
    ) -> tuple[str, str]:
        """Write a layer over x + branch; return what it makes of it, in two parts likewise. With `first_only`, every
        token is attended to but only the first is computed."""
        if layer.norm:
            tokens, x = layer.norm(x, branch, f"{to}.normed")
        else:
            tokens = self.encoding.operand(self.builder, x, f"{to}.normed")
        attended = self.attention(layer, tokens, lengths, places, to, first_only=first_only)
        if first_only:
            attended, x = (self.first(each, f"{each}.first") for each in (attended, x))
        mixed = layer.mix(attended, f"{to}.mix")
        tokens, x = layer.wide_norm(mixed, x, f"{to}.mixed")
        wide = self.scaled(layer.widen(tokens, f"{to}.widen"), tokens.scale, f"{to}.widened")
        wide = self.activate(wide, "", self.family.activation(self.config), f"{to}.active")
        wide = self.node("Mul", [wide, layer.gate(tokens, f"{to}.gate")], f"{to}.wide")
        inner = self.encoding.operand(self.builder, wide, f"{to}.inner")
        scale = self.scaled(inner.scale, tokens.scale, f"{to}.scale") if inner.scale else ""
        return x, self.scaled(layer.narrow(inner, f"{to}.narrow" if scale else to), scale, to)

    def attention(
        self, layer: _Layer, tokens: Operand, lengths: str, places: _Places, to: str, *, first_only: bool
    ) -> str:
        """Write the attention of all tokens, or with `first_only` of the first two (see `Writer.layer`)."""
        op, masks, bias = "com.microsoft.MultiHeadAttention", [lengths], places.bias
        turns = asking_turns = self.turns(tokens.scale, places, to)
        asking = tokens
        if self.packing:
            op, masks = "com.microsoft.PackedMultiHeadAttention", [self.packing.token_offset, self.packing.row_starts]
        elif first_only:
            asking = Operand(
                *(self.leading(each, 2, f"{each}.asking") if each else "" for each in vars(tokens).values())
            )
            cos, sin = (self.leading(turn, 2, f"{to}.{turn}.asking", axis=0) for turn in (places.cos, places.sin))
            places = _Places(cos, sin)
            asking_turns = self.turns(asking.scale, places, f"{to}.asking")
            bias = self.leading(bias, 2, f"{to}.bias", axis=2) if bias else ""
        query = self.turned(layer.query(asking, f"{to}.query"), asking_turns, f"{to}.query.turned")
        key = self.turned(layer.key(tokens, f"{to}.key"), turns, f"{to}.key.turned")
        value = self.scaled(layer.value(tokens, f"{to}.value"), tokens.scale, f"{to}.value.scaled")
        inputs = [query, key, value, "", *masks, *([bias] if bias else [])]
        return self.node(op, inputs, f"{to}.attention", num_heads=self.config.num_attention_heads)

    def turns(self, scale: str, places: _Places, to: str) -> list[str]:
        """Write what queries and keys of that scale are turned by: the first row of two tables, or the row of each
        token, and the tables."""
        tables = [places.cos, places.sin]
        if not scale:
            return [self.constant([0]), *tables]
        # Tables of each token's own: less to multiply than the tokens.
        tables = [self.node("Mul", [table, scale], f"{to}.{table}") for table in tables]
        tables = [self.node("Flatten", [table], f"{table}.flat", axis=2) for table in tables]
        rows = self.node(
            "Range", [self.constant(0), self.node("Size", [scale], f"{to}.size"), self.constant(1)], f"{to}.range"
        )
        return [self.node("Reshape", [rows, self.node("Shape", [scale], f"{to}.shape", end=2)], f"{to}.rows"), *tables]

    def turned(self, x: str, turns: Sequence[str], to: str) -> str:
        """Write x, each pair of a head's numbers turned."""
        op, heads = "com.microsoft.RotaryEmbedding", self.config.num_attention_heads
        if not self.packing:
            return self.node(op, [x, *turns], to, num_heads=heads)
        row = self.node("Unsqueeze", [x, self.constant([0])], f"{to}.row")  # all tokens as those of one row
        return self.node("Squeeze", [self.node(op, [row, *turns], f"{to}.of", num_heads=heads), self.constant([0])], to)

    def mean(self, x: str) -> str:
        """Write the mean of each row's tokens, as a first token would be."""
        lengths = self.node("Unsqueeze", ["lengths.int64", self.constant([1])], "mean.lengths")
        real = self.node("Less", ["positions", lengths], "mean.real")
        real, share = (self.node("Cast", [each], f"{each}.float", to=TensorProto.FLOAT) for each in (real, lengths))
        share = self.cast(self.node("Div", [real, share], "mean.share"))
        # Two sums and one is kept, as where first tokens ask (`Writer.layer`): a sum whose rounding is its row's alone.
        shares = self.node("Unsqueeze", [share, self.constant([1])], "mean.shares")
        shares = self.node("Concat", [shares, shares], "mean.twice", axis=1)
        if self.packing:
            x = self.node("com.microsoft.RestorePadding", [x, self.packing.token_offset], "mean.restored")
        x = self.node("MatMul", [shares, x], "mean.sums")
        return (
            self.node("Gather", [x, self.constant(0)], "mean", axis=1) if self.packing else self.leading(x, 1, "mean")
        )

    def cast(self, x: str) -> str:
        """Write x, which is fp32, in the type of hidden states."""
        if self.encoding.dtype == np.float32:
            return x
        return self.node("Cast", [x], f"{x}.cast", to=helper.np_dtype_to_tensor_dtype(self.encoding.dtype))

    # Its weights

    def stored(self, name: str) -> _Layer:
        """Store the weights of the layer that is the module `name`."""
        family = self.family
        first = f"{name}.{family.mix_norm}.weight" not in self.tensors
        query, key, value = self.parts(f"{name}.{family.query}", 3)
        widen, gate = self.parts(f"{name}.{family.widen}", 2)
        (narrow,) = self.parts(f"{name}.{family.narrow}", 1)
        return _Layer(
            norm=None if first else self.before(f"{name}.{family.mix_norm}"),
            query=query, key=key, value=value,
            mix=self.linear(f"{name}.{family.mix}").project,
            wide_norm=self.before(f"{name}.{family.norm}"),
            widen=widen, gate=gate, narrow=narrow,
        )  # fmt: skip

    def before(self, name: str) -> PreNormalise:
        """Store the layer norm module `name`, whose result is multiplied by matrices alone."""
        return self.encoding.prenorm(self.builder, name, self.take(f"{name}.weight"), self.family.epsilon(self.config))

    def parts(self, name: str, count: int) -> list[Product]:
        """Store the linear module `name` as so many matrices, its outputs cut evenly: nothing is to be split later."""
        matrix = self.take(f"{name}.weight").T
        names = [f"{name}.{i}.weight" for i in range(count)] if count > 1 else [f"{name}.weight"]
        pieces = np.split(matrix, count, axis=1)
        return [self.encoding.product(self.builder, *each) for each in zip(names, pieces, strict=True)]
