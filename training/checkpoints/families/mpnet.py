"""MPNet: no token types, and attention scores that know how far two tokens are apart, the same way in every layer."""

from typing import Any

import torch
from transformers.models.mpnet.modeling_mpnet import MPNetEncoder

from training.checkpoints.families.family import TANH, ClassHead, Family, RelativeBias, UnsupportedArchitecture

PAD = 1
"""The padding id that positions count from. It is written out in the model, whatever a config says."""
BUCKETS, FARTHEST = 32, 128
"""Of distances: written out in the model too. From FARTHEST on, all of one direction share a bucket (T5's rule)."""


class MPNet(Family):
    """A RoBERTa's rows and head over layers of its own names."""

    model_type = "mpnet"
    called = "An MPNet"
    base = "mpnet"
    pooler = "mpnet.pooler.dense"
    token_types = False

    query = "attention.attn.q"
    key = "attention.attn.k"
    value = "attention.attn.v"
    mix = "attention.attn.o"
    mix_norm = "attention.LayerNorm"

    head_dropouts = ()  # the encoder's is the head's too
    own_attention = True

    def check(self, config: Any) -> None:
        super().check(config)
        if config.pad_token_id != PAD:
            raise UnsupportedArchitecture(f"pad_token_id {config.pad_token_id}: positions of an MPNet count from {PAD}")
        if config.relative_attention_num_buckets != BUCKETS:
            raise UnsupportedArchitecture(
                f"relative_attention_num_buckets {config.relative_attention_num_buckets}: an MPNet has {BUCKETS}"
            )

    def first_position(self, config: Any) -> int:
        return PAD + 1

    def relative_bias(self, config: Any) -> RelativeBias:
        distances = torch.arange(-FARTHEST, FARTHEST + 1)
        buckets = MPNetEncoder.relative_position_bucket(distances, BUCKETS, FARTHEST).numpy()
        return RelativeBias("mpnet.encoder.relative_attention_bias", buckets)

    def class_head(self, config: Any) -> ClassHead:
        return ClassHead("classifier.dense", TANH, "classifier.out_proj")
