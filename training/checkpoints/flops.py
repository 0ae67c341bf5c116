"""Floating-point operations of a row, from the shapes alone."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedConfig

from training.checkpoints import families


def forward(config: PreTrainedConfig, tokens: int) -> int:
    """Count the operations of one row of `tokens` tokens through encoder and classification head.

    With T tokens, hidden size H, intermediate size I, embedding size E, C labels and L layers *run*, whether they share
    weights or not, a multiply-add being two operations:

        L · [T · (4·2H² + 2·2HI) + 2·2T²H]  +  2TEH, where there is a projection  +  2H² + 2HC
             └ q, k, v, output └ feed-forward └ scores and their use             └ pooler and classifier

    A gated feed-forward has three products, a decoder's layer a second attention; attention that multiplies with
    distances has, for a table of R of those, 2RH² + 2TRH more in either direction. Matrix products only: softmax, layer
    norms, activations and look-ups are left out. Weight sharing does not appear. The served graph of a classifier does
    less in the last layer, see `served`.
    """
    directions, distances = _distances(config)
    table = 2 * distances * int(config.hidden_size) ** 2
    return weighted(config, tokens) + attention(config, tokens, distances) + directions * table


def weighted(config: PreTrainedConfig, tokens: int) -> int:
    """Count those of `forward` in which each token meets weights."""
    shape: Any = config
    hidden, family = int(shape.hidden_size), families.of(config)
    narrow = getattr(config, "embedding_size", hidden)
    # ALBERT always has the projection, ELECTRA where the sizes differ.
    projects = config.model_type == "albert" or narrow != hidden
    projection = narrow * hidden if projects else 0
    head = 2 * hidden**2 + 2 * hidden * int(shape.num_labels)
    return 2 * tokens * (family.multiplied(config) + projection) + head


def attention(config: PreTrainedConfig, tokens: int, distances: int | None = None) -> int:
    """Count those that no weight takes part in: scores of attention and their use.

    Args:
        distances: rows of the table of distances that are multiplied with; by default those that such a row has.
    """
    directions, most = _distances(config)
    rows = min(2 * tokens - 1, most) if distances is None else distances
    each: int = 4 * tokens**2 * int(config.hidden_size)
    return families.of(config).attentions(config) * each + directions * 2 * tokens * rows * int(config.hidden_size)


def _distances(config: PreTrainedConfig) -> tuple[int, int]:
    """In how many directions all layers together multiply with distances, and of how many those have a table."""
    family = families.of(config)
    described = family.disentangled(config)
    if described is None or not described.table:
        return 0, 0
    directions = bool(described.keys) + bool(described.queries)
    return directions * len(family.layer_names(config)), int(described.rows.max()) + 1


def served(config: PreTrainedConfig, tokens: int) -> int:
    """Count those that the served graph of a classifier really does (`training.export.graph`).

    In the last layer two tokens ask, and behind the attention the first alone goes on.
    """
    shape: Any = config
    hidden, wide = shape.hidden_size, families.of(config).wide(config)
    behind: int = max(tokens - 1, 0) * (2 * hidden**2 + 4 * hidden * wide)
    asking: int = max(tokens - 2, 0) * 4 * tokens * hidden
    return forward(config, tokens) - behind - asking


def train(config: PreTrainedConfig, tokens: int) -> int:
    """Count the operations of a training step for one row: forward, and twice that backward."""
    return 3 * forward(config, tokens)
