"""ModernBERT: norms before the layers' parts, turned queries and keys, windows, gated feed-forwards, and no biases."""

from typing import Any

from transformers.models.modernbert.modeling_modernbert import ModernBertRotaryEmbedding

from training.checkpoints.families.family import (
    ClassHead,
    Family,
    Rotary,
    SpanHead,
    UnsupportedArchitecture,
    activation,
)


class ModernBert(Family):
    """Modules, config and graph of its own: `training.export.prenorm` writes it."""

    model_type = "modernbert"
    called = "A ModernBERT"
    base = "model"
    token_types = False

    query = key = value = "attn.Wqkv"
    mix = "attn.Wo"
    mix_norm = "attn_norm"  # before it
    widen = "mlp.Wi"  # and the gate, side by side
    narrow = "mlp.Wo"
    norm = "mlp_norm"  # before the two

    dropouts = ("embedding_dropout", "attention_dropout", "mlp_dropout")
    side_by_side = ()

    def check(self, config: Any) -> None:
        for name in ("attention_bias", "mlp_bias", "norm_bias"):
            if getattr(config, name):
                raise UnsupportedArchitecture(f"{name} is set: only a ModernBERT without biases can be exported")
        for kind in set(config.layer_types):
            if (rope := config.rope_parameters[kind]["rope_type"]) != "default":
                raise UnsupportedArchitecture(f"rope_type {rope!r} of {kind}: only 'default' can be exported")
        self.activation(config)
        activation(config.classifier_activation)

    def layer_names(self, config: Any) -> list[str]:
        return [f"layers.{i}" for i in range(config.num_hidden_layers)]

    def tables(self, config: Any) -> list[str]:
        return [f"{self.base}.embeddings.tok_embeddings"]

    def modules(self, config: Any) -> list[str]:
        """The first layer has no norm before its attention: the embeddings' own has just been."""
        base, parts = self.base, (self.query, self.mix, self.mix_norm, self.widen, self.narrow, self.norm)
        layers = [f"{base}.{layer}.{part}" for layer in self.layer_names(config) for part in parts]
        layers.remove(f"{base}.layers.0.{self.mix_norm}")
        return [*self.tables(config), f"{base}.embeddings.norm", *layers, f"{base}.final_norm"]

    def positions(self, config: Any) -> int:
        return int(config.max_position_embeddings)

    def multiplied(self, config: Any) -> int:
        hidden = int(config.hidden_size)
        return len(self.layer_names(config)) * (4 * hidden**2 + 3 * hidden * self.wide(config))  # a gate beside

    def activation(self, config: Any) -> str:
        return activation(config.hidden_activation)

    def epsilon(self, config: Any) -> float:
        return float(config.norm_eps)

    def rotary(self, config: Any) -> tuple[Rotary, ...]:
        def of(kind: str) -> Rotary:
            found, _ = ModernBertRotaryEmbedding.compute_default_rope_parameters(config, layer_type=kind)
            window = config.sliding_window if kind == "sliding_attention" else None
            return Rotary(tuple(found.tolist()), window)

        kinds = {kind: of(kind) for kind in dict.fromkeys(config.layer_types)}
        return tuple(kinds[kind] for kind in config.layer_types)

    def class_head(self, config: Any) -> ClassHead:
        mean = config.classifier_pooling == "mean"
        return ClassHead("head.dense", activation(config.classifier_activation), "classifier", "head.norm", mean)

    choice_head = class_head

    def span_head(self, config: Any) -> SpanHead:
        return SpanHead("classifier", "head.dense", activation(config.classifier_activation), "head.norm")
