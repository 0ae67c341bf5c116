"""An encoder and a decoder that reads the same row, a token later (BART: Lewis et al. 2019, arXiv 1910.13461).

Owns the decoder; the encoder's layers and the feed-forwards are `graph`'s. For a classifier, which reads the row's end,
the last layer asks for the end alone: it sees all of its row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from transformers import PreTrainedModel

from training.checkpoints.families import UnsupportedArchitecture
from training.export.graph import Layer, Linear, Writer
from training.export.quantize import Encoding, Normalise, Operand, Product, Use

ATTENTION = "com.microsoft.MultiHeadAttention"


@dataclass(frozen=True)
class _Layer:
    """A stored layer of the decoder."""

    own: Layer
    query: Use
    key: Product
    value: Product
    bias: str  # [3 * hidden]: of the three
    mix: Linear
    mix_norm: Normalise


class EncoderDecoder(Writer):
    """Writes a model of the two."""

    def __init__(self, model: PreTrainedModel, encoding: Encoding, *, packed: bool) -> None:
        """Raises `UnsupportedArchitecture` for a packed graph."""
        super().__init__(model, encoding, packed=packed)
        if packed:
            raise UnsupportedArchitecture(
                f"{self.family.called} has a decoder, which is not packed: leave --packed out"
            )
        self.decoder: Any = self.family.decoder(self.config)

    def encoder(self, *, first_only: bool) -> str:
        """Write both; return the decoder's last hidden states, of the rows' ends alone if only those are read."""
        input_ids, _, lengths, positions = self.rows()
        base = self.family.base
        words = self.encoding.embedding(self.builder, f"{base}.shared", self.take(f"{base}.shared.weight"))
        names = self.family.layer_names(self.config)
        x = self.embedded(f"{base}.encoder", words(input_ids, "embeddings.words"), positions, "embeddings")
        for i in range(self.config.encoder_layers):
            layer = self.stored_layer(f"{base}.{names[i]}")
            x = self.layer(layer, x, lengths, "", f"layer.{i}", first_only=False)
        memory = self.encoding.operand(self.builder, x, "memory")
        x = self.embedded(f"{base}.decoder", words(self.shifted(input_ids), "decoder.words"), positions, "decoder")
        ends = self.node("Sub", ["lengths.int64", self.constant(1)], "ends") if first_only else ""
        for i, name in enumerate(names[self.config.encoder_layers :]):
            last = i == self.config.decoder_layers - 1
            x = self.decoded(self.stored(f"{base}.{name}"), x, memory, lengths, ends if last else "", f"decoder.{i}")
        return x

    # Its pieces

    def embedded(self, side: str, words: str, positions: str, to: str) -> str:
        """Write the embeddings of the encoder or the decoder, normalised: [rows, tokens, hidden]."""
        if self.decoder.scale != 1:
            scale = self.constant(self.encoding.dtype.type(self.decoder.scale))
            words = self.node("Mul", [words, scale], f"{words}.scaled")
        places = self.take(f"{side}.embed_positions.weight")[self.family.first_position(self.config) :]
        placed = self.encoding.embedding(self.builder, f"{side}.embed_positions", places)(positions, f"{to}.places")
        return self.norm(f"{side}.layernorm_embedding")(words, placed, "", to)

    def shifted(self, input_ids: str) -> str:
        """Write the rows that the decoder reads."""
        node, second = self.node, self.constant([1])
        rows = node("Shape", [input_ids], "decoder.rows", end=1)
        shape = node("Concat", [rows, second], "decoder.column", axis=0)
        start = node("Expand", [self.constant(self.decoder.start), shape], "decoder.start")
        rest = node("Slice", [input_ids, self.constant([0]), self.constant([-1]), second], "decoder.rest")
        return node("Concat", [start, rest], "decoder.ids", axis=1)

    def decoded(self, layer: _Layer, x: str, memory: Operand, lengths: str, ends: str, to: str) -> str:
        """Write one layer of the decoder over x, and over the encoder's hidden states; at the rows' `ends` alone, if
        there are some."""
        heads, own = self.decoder.heads, layer.own
        query, key, value = f"{to}.query", f"{to}.key", f"{to}.value"
        self.node("Split", [own.qkv.project(x, f"{to}.qkv")], query, key, value, axis=-1, num_outputs=3)
        causal = not ends
        if ends:
            query, x = self.at(query, ends, 2, f"{to}.asking"), self.at(x, ends, 1, f"{to}.ends")
        inputs = [query, key, value, own.qkv.bias, lengths]
        attended = self.node(ATTENTION, inputs, f"{to}.attention", num_heads=heads, unidirectional=int(causal))
        if ends:
            attended = self.leading(attended, 1, f"{to}.attention.end")
        x = own.mix_norm(own.mix.project(attended, f"{to}.mix"), x, own.mix.bias, f"{to}.mixed")

        query = layer.query(x, f"{to}.across.query")
        if ends:
            query = self.node("Concat", [query, query], f"{to}.across.asking", axis=1)
        key, value = (
            self.scaled(product(memory, f"{to}.across.{name}"), memory.scale, f"{to}.across.{name}.scaled")
            for product, name in ((layer.key, "key"), (layer.value, "value"))
        )
        attended = self.node(ATTENTION, [query, key, value, layer.bias, lengths], f"{to}.across", num_heads=heads)
        if ends:
            attended = self.leading(attended, 1, f"{to}.across.end")
        x = layer.mix_norm(layer.mix.project(attended, f"{to}.across.mix"), x, layer.mix.bias, f"{to}.across.mixed")
        return self.feed_forward(own, x, to)

    def at(self, x: str, ends: str, copies: int, to: str) -> str:
        """Keep each row's end of x [rows, tokens, size], in so many copies: where it asks, two do (`Writer.layer`)."""
        index = self.node("Unsqueeze", [ends, self.constant([1, 2])], f"{to}.index")
        if copies > 1:
            index = self.node("Concat", [index] * copies, f"{to}.indices", axis=1)
        return self.node("GatherND", [x, index], to, batch_dims=1)

    # Its weights

    def stored(self, name: str) -> _Layer:
        """Store the weights of the decoder's layer that is the module `name`."""
        query, key, value, mix, norm = (f"{name}.{part}" for part in self.decoder.across)
        bias = np.concatenate([self.take(f"{each}.bias") for each in (query, key, value)])
        matrices = {each: self.take(f"{each}.weight").T for each in (query, key, value)}
        return _Layer(
            own=self.stored_layer(name),
            query=self.encoding.matmul(self.builder, f"{query}.weight", matrices[query]),
            key=self.encoding.product(self.builder, f"{key}.weight", matrices[key]),
            value=self.encoding.product(self.builder, f"{value}.weight", matrices[value]),
            bias=self.builder.weight(f"{query}.bias", bias.astype(self.encoding.dtype)),
            mix=self.linear(mix),
            mix_norm=self.norm(norm),
        )
