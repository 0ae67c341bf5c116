"""DeBERTa of version 2 and 3, and mDeBERTa: attention that tells what a token is from where it stands."""

from typing import Any

import numpy as np
import torch
from transformers.models.deberta_v2.modeling_deberta_v2 import make_log_bucket_position

from training.checkpoints.families.family import (
    ClassHead,
    Convolution,
    Disentangled,
    Family,
    UnsupportedArchitecture,
    activation,
)

DIRECTIONS = ("c2p", "p2c")
"""Content to position and position to content, as `pos_att_type` calls them."""


class DebertaV2(Family):
    """Published ones have places in the attention alone, and neither token types nor a norm of the encoder's own but
    for the table of distances; what else a config can say is read too."""

    model_type = "deberta-v2"
    called = "A DeBERTa"
    base = "deberta"
    pooler = "pooler.dense"

    query = "attention.self.query_proj"
    key = "attention.self.key_proj"
    value = "attention.self.value_proj"

    head_dropouts = ("cls_dropout", "pooler_dropout")
    own_attention = True

    def check(self, config: Any) -> None:
        super().check(config)
        size = getattr(config, "attention_head_size", None) or config.hidden_size // config.num_attention_heads
        if size * config.num_attention_heads != config.hidden_size:
            raise UnsupportedArchitecture(
                f"attention_head_size {size}: {config.num_attention_heads} heads of it are not the hidden size "
                f"{config.hidden_size}"
            )
        if unknown := sorted(_directions(config) - set(DIRECTIONS)):
            raise UnsupportedArchitecture(f"pos_att_type {unknown[0]!r} is not one of {', '.join(DIRECTIONS)}")
        if config.relative_attention and not _directions(config):
            raise UnsupportedArchitecture("relative_attention without pos_att_type: its table would not be read")
        norms = _norms(config)
        if unknown := sorted(norms - {"none", "layer_norm"}):
            raise UnsupportedArchitecture(f"norm_rel_ebd {unknown[0]!r}: only 'none' and 'layer_norm' are known")
        if "layer_norm" in norms and not config.relative_attention:
            raise UnsupportedArchitecture("norm_rel_ebd 'layer_norm' without relative_attention: it would not be read")
        if _kernel(config) and (groups := getattr(config, "conv_groups", 1)) != 1:
            raise UnsupportedArchitecture(f"conv_groups {groups}: only a convolution of 1 group can be exported")
        if _kernel(config) and _kernel(config) % 2 == 0:
            raise UnsupportedArchitecture(f"conv_kernel_size {_kernel(config)}: an even one has no middle")
        activation(config.pooler_hidden_act)
        if _kernel(config):
            activation(getattr(config, "conv_act", "tanh"))

    def tables(self, config: Any) -> list[str]:
        embeddings, described = f"{self.base}.embeddings", self.disentangled(config)
        named = [f"{embeddings}.word_embeddings"]
        if config.position_biased_input:
            named.append(f"{embeddings}.position_embeddings")
        if config.type_vocab_size:
            named.append(f"{embeddings}.token_type_embeddings")
        return [*named, *filter(None, [described.table])]

    def modules(self, config: Any) -> list[str]:
        embeddings, described = f"{self.base}.embeddings", self.disentangled(config)
        named = [*self.tables(config), f"{embeddings}.LayerNorm"]
        if getattr(config, "embedding_size", config.hidden_size) != config.hidden_size:
            named.append(f"{embeddings}.embed_proj")
        if described.convolution:
            named += [f"{described.convolution.module}.{part}" for part in ("conv", "LayerNorm")]
        named += [described.norm] if described.norm else []
        own = {name for name in (described.keys, described.queries) if name} - set(self.layer)
        return named + [
            f"{self.base}.{layer}.{part}" for layer in self.layer_names(config) for part in (*self.layer, *own)
        ]

    def disentangled(self, config: Any) -> Disentangled:
        encoder, directions = f"{self.base}.encoder", _directions(config)
        # Each of the products that are added up counts, even where there is no table to multiply with.
        scale = (config.hidden_size // config.num_attention_heads * (1 + len(directions))) ** -0.5
        convolution = None
        if _kernel(config):
            convolution = Convolution(f"{encoder}.conv", activation(getattr(config, "conv_act", "tanh")))
        if not config.relative_attention:
            return Disentangled(scale, convolution=convolution)
        shared = getattr(config, "share_att_key", False)
        return Disentangled(
            scale,
            table=f"{encoder}.rel_embeddings",
            norm=f"{encoder}.LayerNorm" if "layer_norm" in _norms(config) else "",
            rows=_rows(config),
            keys=(self.key if shared else "attention.self.pos_key_proj") if "c2p" in directions else "",
            queries=(self.query if shared else "attention.self.pos_query_proj") if "p2c" in directions else "",
            convolution=convolution,
        )

    def class_head(self, config: Any) -> ClassHead:
        return ClassHead(self.pooler, activation(config.pooler_hidden_act), "classifier")

    choice_head = class_head


def _rows(config: Any) -> np.ndarray:
    """The table's row of each distance that two tokens of a row can have, by the model's own function."""
    buckets = getattr(config, "position_buckets", -1)
    farthest = getattr(config, "max_relative_positions", -1)
    farthest = config.max_position_embeddings if farthest < 1 else farthest
    distances = torch.arange(1 - config.max_position_embeddings, config.max_position_embeddings)
    span = farthest
    if buckets > 0:
        span, distances = buckets, make_log_bucket_position(distances, buckets, farthest).long()
    return (distances + span).clamp(0, 2 * span - 1).numpy()


def _directions(config: Any) -> set[str]:
    return set(config.pos_att_type or ()) - {""}


def _norms(config: Any) -> set[str]:
    return {name.strip() for name in getattr(config, "norm_rel_ebd", "none").lower().split("|")}


def _kernel(config: Any) -> int:
    return int(getattr(config, "conv_kernel_size", 0) or 0)
