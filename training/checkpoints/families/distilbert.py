"""DistilBERT: a BERT of half the layers, without token types and without a pooler."""

from typing import Any

from training.checkpoints.families.family import RELU, ClassHead, Family, activation


class DistilBert(Family):
    """Modules and config have names of their own; the graph is BERT's, less the table of token types."""

    model_type = "distilbert"
    called = "A DistilBERT"
    base = "distilbert"
    pooler = "pre_classifier"  # of a classifier, not of the encoder
    token_types = False

    query = "attention.q_lin"
    key = "attention.k_lin"
    value = "attention.v_lin"
    mix = "attention.out_lin"
    mix_norm = "sa_layer_norm"
    widen = "ffn.lin1"
    narrow = "ffn.lin2"
    norm = "output_layer_norm"

    dropouts = ("dropout", "attention_dropout")
    head_dropouts = ("seq_classif_dropout", "qa_dropout")

    def layer_names(self, config: Any) -> list[str]:
        return [f"transformer.layer.{i}" for i in range(config.num_hidden_layers)]

    def activation(self, config: Any) -> str:
        return activation(config.activation)

    def epsilon(self, config: Any) -> float:
        """No config says it: it is written out in the model."""
        return 1e-12

    def wide(self, config: Any) -> int:
        return int(config.hidden_dim)

    def class_head(self, config: Any) -> ClassHead:
        return ClassHead(self.pooler, RELU, "classifier")

    choice_head = class_head
