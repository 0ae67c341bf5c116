"""A pre-trained encoder that a smaller one learns from: what it makes of each row before tokens were masked.

Owns the teacher's rows and the loss towards its hidden states.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoModel

from training.checkpoints import weights as pretrained
from training.checkpoints.configs import load_config, max_positions
from training.checkpoints.teacher import Teacher as HiddenTeacher
from training.checkpoints.teacher import state_errors
from training.errors import CheckpointError
from training.pretrain.batches import Batch
from training.pretrain.recipe import PretrainRecipe
from training.tokenizers.loading import load_tokenizer
from training.tokenizers.vocabulary import Vocabulary


class Teacher(HiddenTeacher):
    """An encoder that reads the rows as they were before tokens were masked."""

    def hidden(self, batch: Batch) -> torch.Tensor:
        """Return its last hidden states [R, T, hidden] of the rows before tokens were masked."""
        ids = batch["input_ids"].flatten().index_copy(0, batch["positions"], batch["labels"])
        return self.states(
            ids.view_as(batch["input_ids"]), attention_mask=batch.get("attention_mask"),
            token_type_ids=batch["token_type_ids"],
        )  # fmt: skip

    def loss(self, batch: Batch, hidden: torch.Tensor) -> torch.Tensor:
        """[2]: sums over the real tokens of the student's error (`state_errors`), and of its cosine with the
        teacher."""
        errors = state_errors(hidden, self.hidden(batch), batch.get("attention_mask"))
        return torch.stack([errors.sum(), (1 - errors / 2).sum()])


def load(recipe: PretrainRecipe, vocabulary: Vocabulary, hidden_size: int) -> Teacher:
    """The recipe's teacher.

    Raises:
        CheckpointError: it cannot be loaded, or has another vocabulary or width, too few positions, or one segment
            where rows have two.
    """
    folder = recipe.teacher
    config: Any = load_config(folder)
    if config.hidden_size != hidden_size:
        raise CheckpointError(f"the teacher {folder} has hidden size {config.hidden_size}, the student {hidden_size}")
    if max_positions(config) < recipe.max_length:
        raise CheckpointError(
            f"the teacher {folder} has {max_positions(config)} positions, and rows are {recipe.max_length} tokens long"
        )
    if recipe.pairs != "none" and config.type_vocab_size < 2:
        raise CheckpointError(f"the teacher {folder} knows of one segment, and pairs {recipe.pairs!r} makes two")
    if load_tokenizer(folder).get_vocab() != vocabulary.tokenizer.get_vocab():
        raise CheckpointError(f"the teacher {folder} has another vocabulary than {recipe.tokenizer}")
    return Teacher(pretrained.encoder(AutoModel, folder, config, recipe.attention))
