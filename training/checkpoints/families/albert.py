"""ALBERT: narrow embeddings, and layers that share their weights."""

from typing import Any

from training.checkpoints.families.family import Family


class Albert(Family):
    """Groups of layers, each of which runs several times."""

    model_type = "albert"
    called = "An ALBERT"
    base = "albert"
    pooler = "albert.pooler"
    projection = "albert.encoder.embedding_hidden_mapping_in"
    query = "attention.query"
    key = "attention.key"
    value = "attention.value"
    mix = "attention.dense"
    mix_norm = "attention.LayerNorm"
    widen = "ffn"
    narrow = "ffn_output"
    norm = "full_layer_layer_norm"
    head_dropouts = ("classifier_dropout_prob",)

    def layer_names(self, config: Any) -> list[str]:
        """The groups follow one another, each for its share of the turns; a turn runs all of its group's layers."""
        turns = [i * config.num_hidden_groups // config.num_hidden_layers for i in range(config.num_hidden_layers)]
        return [
            f"encoder.albert_layer_groups.{group}.albert_layers.{inner}"
            for group in turns
            for inner in range(config.inner_group_num)
        ]
