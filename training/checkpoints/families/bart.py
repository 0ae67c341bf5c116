"""BART: an encoder, and a decoder that reads the same row again, a token later; a classifier reads its end."""

import math
from typing import Any

from training.checkpoints.families.family import TANH, ClassHead, Decoder, Family, UnsupportedArchitecture, activation

OFFSET = 2
"""The row of a table of positions that the first token takes. It is written out in the model."""
ACROSS = (
    "encoder_attn.q_proj", "encoder_attn.k_proj", "encoder_attn.v_proj", "encoder_attn.out_proj",
    "encoder_attn_layer_norm",
)  # fmt: skip
AS_PUBLISHED = {
    "normalize_before": False, "add_final_layer_norm": False, "normalize_embedding": True,
    "static_position_embeddings": False,
}  # fmt: skip
"""What configs of some years ago say, and transformers does not read: mBART's are otherwise."""


class Bart(Family):
    """A RoBERTa's rows, a BERT's layers, and a decoder behind them: `training.export.decoder` writes it."""

    model_type = "bart"
    called = "A BART"
    base = "model"
    token_types = False

    query = "self_attn.q_proj"
    key = "self_attn.k_proj"
    value = "self_attn.v_proj"
    mix = "self_attn.out_proj"
    mix_norm = "self_attn_layer_norm"
    widen = "fc1"
    narrow = "fc2"
    norm = "final_layer_norm"

    dropouts = ("dropout", "attention_dropout", "activation_dropout")

    @property
    def side_by_side(self) -> tuple[tuple[str, ...], ...]:
        return (*super().side_by_side, ACROSS[:3])

    def check(self, config: Any) -> None:
        super().check(config)
        for name, usual in AS_PUBLISHED.items():
            if getattr(config, name, usual) is not usual:
                raise UnsupportedArchitecture(f"{name} {getattr(config, name)}: a BART has {usual}")
        if not isinstance(config.eos_token_id, int):
            raise UnsupportedArchitecture(f"eos_token_id {config.eos_token_id}: a BART's rows end in one token")

    def layer_names(self, config: Any) -> list[str]:
        sides = (("encoder", config.encoder_layers), ("decoder", config.decoder_layers))
        return [f"{side}.layers.{i}" for side, count in sides for i in range(count)]

    def tables(self, config: Any) -> list[str]:
        return [f"{self.base}.{name}" for name in ("shared", "encoder.embed_positions", "decoder.embed_positions")]

    def modules(self, config: Any) -> list[str]:
        """The table of words has three names."""
        named = self.tables(config)
        for side in ("encoder", "decoder"):
            named += [f"{self.base}.{side}.{part}" for part in ("embed_tokens", "layernorm_embedding")]
        for layer in self.layer_names(config):
            parts = (*self.layer, *(ACROSS if layer.startswith("decoder.") else ()))
            named += [f"{self.base}.{layer}.{part}" for part in parts]
        return named

    def attentions(self, config: Any) -> int:
        return int(config.encoder_layers) + 2 * int(config.decoder_layers)

    def first_position(self, config: Any) -> int:
        return OFFSET

    def positions(self, config: Any) -> int:
        """Its tables are longer than its config says, by what is never used."""
        return int(config.max_position_embeddings)

    def end(self, config: Any) -> int:
        return int(config.eos_token_id)

    def activation(self, config: Any) -> str:
        return activation(config.activation_function)

    def epsilon(self, config: Any) -> float:
        """No config says it: it is torch's."""
        return 1e-5

    def wide(self, config: Any) -> int:
        return int(config.encoder_ffn_dim)

    def multiplied(self, config: Any) -> int:
        hidden, across = int(config.hidden_size), int(config.decoder_layers)
        wide = config.encoder_layers * config.encoder_ffn_dim + across * config.decoder_ffn_dim
        return 4 * hidden**2 * (int(config.encoder_layers) + 2 * across) + 2 * hidden * int(wide)

    def decoder(self, config: Any) -> Decoder:
        return Decoder(
            start=int(config.decoder_start_token_id),
            heads=int(config.decoder_attention_heads),
            scale=math.sqrt(config.d_model) if config.scale_embedding else 1.0,
            across=ACROSS,
        )

    def class_head(self, config: Any) -> ClassHead:
        return ClassHead("classification_head.dense", TANH, "classification_head.out_proj")
