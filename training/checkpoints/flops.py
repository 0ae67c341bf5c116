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

    Matrix products only: softmax, layer norms, activations and look-ups are left out. Weight sharing does not appear.
    The served graph of a classifier does less in the last layer, see `served`.
    """
    shape: Any = config
    hidden, wide = shape.hidden_size, families.of(config).wide(config)
    layer = tokens * (8 * hidden**2 + 4 * hidden * wide) + 4 * tokens**2 * hidden
    narrow = getattr(config, "embedding_size", hidden)
    # ALBERT always has the projection, ELECTRA where the sizes differ.
    projects = config.model_type == "albert" or narrow != hidden
    projection = 2 * tokens * narrow * hidden if projects else 0
    operations: int = (
        len(families.layer_names(config)) * layer + projection + 2 * hidden**2 + 2 * hidden * shape.num_labels
    )
    return operations


def attention(config: PreTrainedConfig, tokens: int) -> int:
    """Count those of `forward` that no weight takes part in: scores of attention and their use."""
    shape: Any = config
    operations: int = len(families.layer_names(config)) * 4 * tokens**2 * shape.hidden_size
    return operations


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
