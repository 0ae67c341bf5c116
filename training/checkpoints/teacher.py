"""An encoder that another learns from by its last hidden states: TinyBERT (arXiv 1909.10351, section 3.1).

It is no part of the student: not saved, not optimized, and not a module of it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional


class Teacher:
    """An encoder that is not trained.

    Attributes:
        config: transformers', of its shape.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model.eval().requires_grad_(False)
        self.config: Any = model.config

    @torch.no_grad()
    def states(self, input_ids: torch.Tensor, **others: torch.Tensor | None) -> torch.Tensor:
        """Return its last hidden states [rows, tokens, hidden].

        Args:
            input_ids: [rows, tokens].
            others: `attention_mask` and `token_type_ids` of the same shape.
        """
        states: torch.Tensor = self._model.to(input_ids.device)(input_ids=input_ids, **others).last_hidden_state
        return states


def state_errors(student: torch.Tensor, teacher: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
    """[real tokens]: mean squared error over the width between hidden states [rows, tokens, hidden] of the two.

    Both are normalised first, each token's to mean 0 and variance 1: the gain and bias of the last LayerNorm are the
    next layer's business, and a token's share of the loss does not hang on its length. So an error is twice 1 - cosine:
    2 for a student that knows nothing.

    Args:
        attention_mask: [..., tokens], 0 at padding; None where there is none.
    """
    ours, theirs = (functional.layer_norm(states.float(), states.shape[-1:]) for states in (student, teacher))
    errors = (ours - theirs).square().mean(dim=-1)
    return errors.flatten() if attention_mask is None else errors[attention_mask.view(errors.shape).bool()]
