"""Attention that tells what a token is from where it stands: DeBERTa's (He et al. 2021, arXiv 2006.03654, section 3.1).

A score is the sum of three products: query and key, query and the distance's key, key and the distance's query. Owns
the last two, and what else a DeBERTa has: embeddings that are projected before their norm, and a convolution beside the
first layer. What is around it is `graph`'s.

The row of the table that a distance takes is the same in all layers, so rows are written once a batch. The table's
projections are the same in all batches, so the runtime folds them as it loads the graph. In between, tokens are
multiplied by the rows that a batch has distances for, and GatherElements puts the products where they belong
(docs/lab.md has what else was tried).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import TensorProto, helper
from transformers import PreTrainedModel

from training.checkpoints.families import Convolution, Disentangled
from training.export.graph import Layer, Writer
from training.export.quantize import Encoding, Float


@dataclass(frozen=True)
class _Tables:
    """What the tokens of a layer are multiplied by, a column a row of the table: [heads, head size, table's rows]; ""
    where nothing."""

    keys: str  # for queries
    queries: str  # for keys


@dataclass(frozen=True)
class _Distances:
    """The rows of the table that a batch has distances for.

    Attributes:
        lowest: the first of them, [1].
        end: one more than the last, [1].
        from_query: for each query and key, the row of their distance, counted from the lowest: int32 [rows, heads,
            tokens, tokens].
        from_key: the same for each key and query.
    """

    lowest: str
    end: str
    from_query: str
    from_key: str


class DisentangledWriter(Writer):
    """Writes a DeBERTa."""

    def __init__(self, model: PreTrainedModel, encoding: Encoding, *, packed: bool) -> None:
        super().__init__(model, encoding, packed=packed)
        described = self.family.disentangled(self.config)
        if described is None:
            raise ValueError(f"{self.family.called} is not disentangled")
        self.described: Disentangled = described
        self.states = ""  # of the table, fp32 [table's rows, hidden]
        self.tables: dict[str, _Tables] = {}  # by layer
        self.distances: _Distances | None = None  # None where attention knows of none
        self.is_token = ""  # [rows, tokens, 1], where a convolution asks for it
        self.convolved = ""  # [rows, tokens, hidden], until the first layer has it

    def rows(self) -> tuple[str, str, str, str]:
        input_ids, token_type_ids, lengths, positions = super().rows()
        if self.described.table:
            self.states = self.table_states()
            self.distances = self.met(input_ids, positions)
        if self.described.convolution:
            limits = self.node("Cast", [lengths], "is_token.limits", to=TensorProto.INT64)
            limits = self.node("Unsqueeze", [limits, self.constant([1])], "is_token.limit")
            is_token = self.node("Less", [positions, limits], "is_token.bool")
            is_token = self.node("Cast", [is_token], "is_token.number", to=self.kind)
            self.is_token = self.node("Unsqueeze", [is_token, self.constant([2])], "is_token")
        return input_ids, token_type_ids, lengths, positions

    def embeddings(self, input_ids: str, token_type_ids: str, positions: str) -> str:
        """Write the sum of the embeddings that there are, projected and normalised: [rows, tokens, hidden]."""
        base = f"{self.family.base}.embeddings"
        ids = {"word": input_ids, "position": positions, "token_type": token_type_ids}
        x = ""
        for table in (table for table in ids if f"{base}.{table}_embeddings.weight" in self.tensors):
            values = self.take(f"{base}.{table}_embeddings.weight")
            stored = self.encoding.embedding(self.builder, f"{base}.{table.removeprefix('token_')}", values)
            found = stored(ids[table], f"embeddings.{table}")
            x = self.node("Add", [x, found], f"embeddings.and.{table}") if x else found
        if f"{base}.embed_proj.weight" in self.tensors:
            x = self.linear(f"{base}.embed_proj").project(x, "embeddings.project")
        x = self.norm(f"{base}.LayerNorm")(x, "", "", "embeddings")
        if self.described.convolution:
            self.convolved = self.convolution(self.described.convolution, x)
        return x

    def remove_padding(self, x: str, lengths: str, to: str) -> str:
        if self.convolved:
            self.convolved = super().remove_padding(self.convolved, lengths, f"{to}.convolved")
        return super().remove_padding(x, lengths, to)

    # Distances

    def table_states(self) -> str:
        """Write the table of distances, normalised where it is to be: fp32 [table's rows, hidden]."""
        module, norm = self.described.table, self.described.norm
        stored = module.removesuffix("_embeddings")
        self.encoding.embedding(self.builder, stored, self.take(f"{module}.weight"))
        states = self.encoding.exact(self.builder, stored)
        if not norm:
            return states
        weights = [self.float(self.stored_vector(f"{norm}.{kind}")) for kind in ("weight", "bias")]
        epsilon = self.family.epsilon(self.config)
        return self.node("LayerNormalization", [states, *weights], "distances.states", epsilon=epsilon)

    def met(self, input_ids: str, positions: str) -> _Distances:
        """Write which rows of the table a batch has distances for, and where. Once a batch."""
        rows = self.builder.weight("distances.rows", self.described.rows.astype(np.int64))
        count = self.node("Shape", [input_ids], "distances.count", end=1)
        tokens = self.node("Shape", [input_ids], "distances.tokens", start=1)
        one, middle = self.constant([1]), self.constant([len(self.described.rows) // 2])
        farthest = self.node("Sub", [tokens, one], "distances.farthest")
        lowest = self.node(
            "Gather", [rows, self.node("Sub", [middle, farthest], "distances.first")], "distances.lowest"
        )
        highest = self.node(
            "Gather", [rows, self.node("Add", [middle, farthest], "distances.last")], "distances.highest"
        )
        end = self.node("Add", [highest, one], "distances.end")
        queries = self.node("Unsqueeze", [positions, one], "distances.queries")
        keys = self.node("Unsqueeze", [positions, self.constant([0])], "distances.keys")
        distance = self.node("Sub", [queries, keys], "distances")
        row = self.node("Gather", [rows, self.node("Add", [distance, middle], "distances.place")], "distances.row")
        near = self.node(
            "Cast", [self.node("Sub", [row, lowest], "distances.near")], "distances.2d", to=TensorProto.INT32
        )
        turned = self.node("Transpose", [near], "distances.2d.turned", perm=[1, 0])
        heads = self.constant([self.config.num_attention_heads])
        shape = self.node("Concat", [count, heads, tokens, tokens], "distances.shape", axis=0)
        from_query = self.node("Expand", [near, shape], "distances.from_query")
        return _Distances(lowest, end, from_query, self.node("Expand", [turned, shape], "distances.from_key"))

    # Layers

    def stored_layer(self, name: str) -> Layer:
        layer = super().stored_layer(name)
        if self.described.table:
            self.tables[name] = _Tables(
                *(self.table(name, module) for module in (self.described.keys, self.described.queries))
            )
        return layer

    def table(self, layer: str, module: str) -> str:
        """Write the table of distances, projected by a layer's `module`: [heads, head size, rows]. The runtime folds it
        as it loads the graph; the less there is in between, the less memory that takes."""
        if not module:
            return ""
        parts, size = (self.family.query, self.family.key, self.family.value), self.config.hidden_size
        stored, columns = f"{layer}.{module}", None
        if module in parts:  # stored beside the others
            stored, columns = f"{layer}.{parts[0]}", (parts.index(module) * size, (parts.index(module) + 1) * size)
        else:
            self.linear(stored)
        matrix = self.encoding.exact(self.builder, f"{stored}.weight", columns)
        bias = self.float(f"{stored}.bias", columns)
        to, scale = f"{layer}.{module}.table", self.described.scale
        x = self.node("Gemm", [self.states, matrix, bias], f"{to}.2d", alpha=scale, beta=scale)
        x = self.node("Reshape", [x, self.constant([0, self.config.num_attention_heads, -1])], f"{to}.by_head")
        if self.encoding.dtype != np.float32:
            x = self.node("Cast", [x], f"{to}.cast", to=self.kind)
        return self.node("Transpose", [x], to, perm=[1, 2, 0])

    def layer(self, layer: Layer, x: str, lengths: str, bias: str, to: str, *, first_only: bool) -> str:
        x = super().layer(layer, x, lengths, bias, to, first_only=first_only)
        convolution = self.described.convolution
        if not convolution or not self.convolved:
            return x
        convolved, self.convolved = self.convolved, ""
        if first_only:
            convolved = self.first(convolved, f"{to}.convolved.first")
        return self.norm(f"{convolution.module}.LayerNorm")(convolved, x, "", f"{to}.convolved")

    def attend(self, layer: Layer, x: str, lengths: str, bias: str, to: str, *, first_only: bool) -> str:
        query, key, value = f"{to}.query", f"{to}.key", f"{to}.value"
        # The tables' products want queries and keys with their biases, so attention gets them so too.
        qkv = self.node("Add", [layer.qkv.project(x, f"{to}.qkv"), layer.qkv.bias], f"{to}.qkv.biased")
        self.node("Split", [qkv], query, key, value, axis=-1, num_outputs=3)
        few = first_only and not self.packing
        query = self.asking(query, to) if few else query
        scores = self.scores(self.tables[layer.name], query, key, to, few=few) if self.distances else ""
        return self.fused(query, key, value, "", lengths, scores, to, scale=self.described.scale)

    def scores(self, tables: _Tables, query: str, key: str, to: str, *, few: bool) -> str:
        """Write the products with distances, to be added to those of queries with keys: [rows, heads, tokens that ask,
        tokens]. With `few`, only the first two ask."""
        assert self.distances is not None
        found = []
        if tables.keys:
            index = self.distances.from_query
            index = self.leading(index, 2, f"{to}.from_query", axis=2) if few else index
            found.append(self.by_distance(query, tables.keys, index, f"{to}.c2p"))
        if tables.queries:
            index = self.distances.from_key
            index = self.leading(index, 2, f"{to}.from_key", axis=3) if few else index
            x = self.by_distance(key, tables.queries, index, f"{to}.p2c.turned")
            found.append(self.node("Transpose", [x], f"{to}.p2c", perm=[0, 1, 3, 2]))
        return found[0] if len(found) == 1 else self.node("Add", found, f"{to}.distances")

    def by_distance(self, x: str, table: str, index: str, to: str) -> str:
        """Write the products of x [rows, tokens, hidden] with the table's rows at `index`: of its shape."""
        assert self.distances is not None
        if self.packing:
            x = self.node("com.microsoft.RestorePadding", [x, self.packing.token_offset], f"{to}.restored")
        heads = self.constant([0, 0, self.config.num_attention_heads, -1])
        x = self.node("Transpose", [self.node("Reshape", [x, heads], f"{to}.4d")], f"{to}.by_head", perm=[0, 2, 1, 3])
        near = self.node("Slice", [table, self.distances.lowest, self.distances.end, self.constant([2])], f"{to}.near")
        return self.node("GatherElements", [self.node("MatMul", [x, near], f"{to}.all"), index], to, axis=3)

    # The convolution

    def convolution(self, described: Convolution, x: str) -> str:
        """Write act(convolution of x [rows, tokens, hidden]) over the tokens of each row: of x's shape."""
        name, to = f"{described.module}.conv", "convolution"
        kernel = self.take(f"{name}.weight")  # [out, in, size]
        reach = kernel.shape[2] // 2
        x = self.node("Mul", [x, self.is_token], f"{to}.tokens")
        # A product of each token and its neighbours, side by side, with one matrix: stored and encoded as others are.
        x = self.node("Pad", [x, self.constant([0, reach, 0, 0, reach, 0])], f"{to}.padded")
        tokens = self.node("Shape", [self.is_token], f"{to}.count", start=1, end=2)
        shifted = []
        for i in range(kernel.shape[2]):
            begin, part = self.constant([i]), f"{to}.{i}"
            end = self.node("Add", [tokens, begin], f"{part}.end")
            shifted.append(self.node("Slice", [x, begin, end, self.constant([1])], part))
        x = self.node("Concat", shifted, f"{to}.neighbours", axis=2)
        matrix = kernel.transpose(2, 1, 0).reshape(-1, len(kernel))
        product = self.encoding.matmul(self.builder, f"{name}.weight", matrix)(x, f"{to}.product")
        return self.activate(product, self.stored_vector(f"{name}.bias"), described.activation, to)

    # Its pieces

    @property
    def kind(self) -> Any:
        """The type of hidden states, as ONNX numbers it."""
        return helper.np_dtype_to_tensor_dtype(self.encoding.dtype)

    def stored_vector(self, name: str) -> str:
        """Store a bias, or a norm's weight."""
        return self.builder.weight(name, self.take(name).astype(self.encoding.dtype))

    def float(self, name: str, columns: tuple[int, int] | None = None) -> str:
        """Write a stored vector, or a part of it, in fp32."""
        return Float(self.encoding.dtype).exact(self.builder, name, columns)
