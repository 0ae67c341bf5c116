"""How many parameters a model has, and where they sit: counted from the real modules, built without their memory.

Owns the counting and the grid of the ALBERT paper's table 3. Knows nothing of files or time.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from transformers import AutoModel, PreTrainedConfig

from bench.compare import subjects
from training.checkpoints import families


@dataclass(frozen=True, slots=True)
class Parameters:
    """Unique parameters of an encoder, head excluded.

    Attributes:
        embeddings: the three tables, their layer norm, and the projection to the hidden size where there is one.
        layer: one transformer layer.
        layers: all layers, shared ones counted once.
        pooler: the dense layer over the first token.
        stored: layers that have weights of their own.
        run: layers that a row passes through.
    """

    embeddings: int
    layer: int
    layers: int
    pooler: int
    stored: int
    run: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.embeddings + self.layers + self.pooler


@dataclass(frozen=True, slots=True)
class GridCell:
    """ALBERT-base with one thing changed (arXiv 1909.11942v6, table 3).

    Attributes:
        embedding_size: E.
        shared: whether all layers share their weights.
        parameters: counted.
        published: parameters as the paper gives them.
    """

    embedding_size: int
    shared: bool
    parameters: Parameters
    published: int

    @property
    def name(self) -> str:
        """What it is called."""
        return f"E {self.embedding_size}, {'shared' if self.shared else 'not shared'}"


GRID = {
    (64, False): 87_000_000,
    (128, False): 89_000_000,
    (256, False): 93_000_000,
    (768, False): 108_000_000,
    (64, True): 10_000_000,
    (128, True): 12_000_000,
    (256, True): 16_000_000,
    (768, True): 31_000_000,
}


def count(config: PreTrainedConfig) -> Parameters:
    """Count an encoder of a family that `training.export.graph` knows."""
    family = families.FAMILIES[config.model_type]
    names = list(dict.fromkeys(families.layer_names(config)))
    with torch.device("meta"):  # shapes without storage: the largest takes no more memory than the smallest
        encoder = AutoModel.from_config(config)
    projection = (family.projection or "").removeprefix(f"{family.base}.")
    embeddings = layers = rest = 0
    for name, parameter in encoder.named_parameters():
        if name.startswith("embeddings.") or (projection and name.startswith(f"{projection}.")):
            embeddings += parameter.numel()
        elif any(name.startswith(f"{layer}.") for layer in names):
            layers += parameter.numel()
        else:
            rest += parameter.numel()
    return Parameters(
        embeddings=embeddings,
        layer=layers // len(names),
        layers=layers,
        pooler=rest,
        stored=len(names),
        run=len(families.layer_names(config)),
    )


@functools.cache
def grid() -> tuple[GridCell, ...]:
    """Factorisation and sharing, each alone and both: ALBERT-base with E of 64 to 768, layers shared or not.

    transformers keeps a projection even where E is the hidden size, 0.6 M parameters that the paper's model has not.
    """
    cells = []
    for (size, shared), paper in GRID.items():
        config = subjects.albert(
            hidden_size=768, num_hidden_layers=12, num_attention_heads=12,
            embedding_size=size, num_hidden_groups=1 if shared else 12,
        )  # fmt: skip
        cells.append(GridCell(size, shared, count(config), paper))
    return tuple(cells)
