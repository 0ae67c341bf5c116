"""What is compared: the six published models by their shapes, and checkpoints in their place or beside them.

Owns names, configs and the papers' figures. Knows nothing of how anything is counted or measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AlbertConfig, BertConfig, PreTrainedConfig

from training.checkpoints.configs import load_config
from training.errors import CheckpointError, TrainingError, nearest


@dataclass(frozen=True, slots=True)
class Subject:
    """A model to compare.

    Attributes:
        name: in tables and on the command line.
        config: its shape; the head classifies.
        published: its parameters as the ALBERT paper counts them (arXiv 1909.11942v6, table 1), if it is there.
        reference: the model that its ratios are taken to, if that one is compared too.
        checkpoint: a Hugging Face folder whose weights it has; None for random ones.
    """

    name: str
    config: PreTrainedConfig
    published: int | None = None
    reference: str = ""
    checkpoint: Path | None = None


def bert(**shape: Any) -> BertConfig:
    """BERT's shape (arXiv 1810.04805, section 3), the uncased English vocabulary. No dropout: see `albert`."""
    return BertConfig(**{"vocab_size": 30522, "intermediate_size": 4 * shape["hidden_size"]} | _SAME | shape)


def albert(**shape: Any) -> AlbertConfig:
    """ALBERT's shape (arXiv 1909.11942v6, table 1), with the heads and the activation of the v1 checkpoints.

    The paper says H/64 heads, the released xlarge has 16. Activation and dropout are the same for all subjects, so that
    nothing but the shape differs: BERT and the smaller ALBERT v1 were trained with dropout 0.1, the largest with none.
    """
    same = {"vocab_size": 30000, "embedding_size": 128, "intermediate_size": 4 * shape["hidden_size"]}
    return AlbertConfig(**same | _SAME | shape)


_SAME = {
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "num_labels": 2,
}


def published() -> dict[str, Subject]:
    """The six models by name; same-sized ones follow one another, and so they are measured."""
    base = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12}
    large = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16}
    xlarge = {"hidden_size": 2048, "num_hidden_layers": 24, "num_attention_heads": 16}
    xxlarge = {"hidden_size": 4096, "num_hidden_layers": 12, "num_attention_heads": 64}
    subjects = (
        Subject("bert-base", bert(**base), 108_000_000),
        Subject("albert-base", albert(**base), 12_000_000, "bert-base"),
        Subject("bert-large", bert(**large), 334_000_000, "bert-base"),
        Subject("albert-large", albert(**large), 18_000_000, "bert-large"),
        Subject("albert-xlarge", albert(**xlarge), 60_000_000, "bert-large"),
        Subject("albert-xxlarge", albert(**xxlarge), 235_000_000, "bert-large"),
    )
    return {subject.name: subject for subject in subjects}


def choose(names: Sequence[str] = (), checkpoints: Mapping[str, Path] | None = None) -> tuple[Subject, ...]:
    """Choose the published models called `names` (all, when empty), and `checkpoints` by name.

    A checkpoint under a published model's name takes that model's place; any other name is one more row.

    Raises:
        TrainingError: a name is not known.
        CheckpointError: a folder is no checkpoint that could be exported.
    """
    known = published()
    for name in names:
        if name not in known:
            raise TrainingError(f"size {name!r} is not one of {', '.join(known)}{nearest(name, list(known))}")
    chosen = {name: known[name] for name in known if name in names or not names}
    for name, folder in (checkpoints or {}).items():
        base = known.get(name)
        chosen[name] = Subject(
            name, _config(folder), base.published if base else None, base.reference if base else "", folder
        )
    return tuple(chosen.values())


def _config(folder: Path) -> PreTrainedConfig:
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is no folder")
    return load_config(folder)
