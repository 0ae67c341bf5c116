"""Knowledge distillation: a student learns what its teachers say of each row, beside the labels.

Owns the teachers' logits as targets and the loss towards them. Hinton et al. 2015 (arXiv 1503.02531, section 2).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from tqdm import tqdm
from transformers import PreTrainedModel

from service.engine.batch import Encoded
from service.tasks import RowLogits
from training.evaluate.engine import TorchEngine, run_rows
from training.finetune.features import Rows

CHUNK = 4096
"""Rows that a teacher reads at a time."""
LABELS, START, END = "teacher_logits", "teacher_start_logits", "teacher_end_logits"
PREFIX = "teacher_"
"""A target's name is the student's output that it is for, after this."""
NOTHING = -1e4
"""A logit of no probability; not -inf, whose difference from itself is no number."""


def taught(rows: Rows, teachers: Sequence[PreTrainedModel], pad_id: int, precision: str = "fp32") -> Rows:
    """The rows with the mean of the teachers' logits as further targets: `teacher_logits` [labels or options]; or
    `teacher_start_logits` and `teacher_end_logits` [tokens]. The teachers read each row once, before the training."""
    total: list[RowLogits] = []
    for number, teacher in enumerate(teachers, start=1):
        engine = TorchEngine(teacher.eval().to("cuda" if torch.cuda.is_available() else "cpu"), precision)
        said: list[RowLogits] = []
        for begin in tqdm(range(0, len(rows), CHUNK), unit=f"x{CHUNK} rows", desc=f"teacher {number}"):
            items = rows.encoded(begin, begin + CHUNK)
            read = iter(run_rows(engine, [row for item in items for row in item], pad_id))
            said += [_joined([_unpadded(row, next(read)) for row in item]) for item in items]
        total = [tuple(map(np.add, *pair)) for pair in zip(total, said, strict=True)] if total else said
    targets = []
    for logits in total:
        names = (LABELS,) if len(logits) == 1 else (START, END)
        targets.append({name: part / len(teachers) for name, part in zip(names, logits, strict=True)})
    return rows.with_targets(targets)


def pop(inputs: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Take the teachers' targets out of a batch, whose rest is the model's."""
    return {name: inputs.pop(name) for name in (LABELS, START, END) if name in inputs}


def loss(
    outputs: Mapping[str, torch.Tensor],
    targets: Mapping[str, torch.Tensor],
    attention_mask: torch.Tensor | None,
    temperature: float,
) -> torch.Tensor:
    """Mean over the rows (and over start and end) of the student's divergence from its teachers, in nats; of scores,
    the mean squared difference.

    Both are softened by `temperature`, and the loss is multiplied by its square, so that the gradient keeps its size.

    Args:
        outputs: the student's, [rows, labels] or [rows, tokens] each.
        targets: the teachers' logits of the same shapes.
        attention_mask: [rows, tokens], 0 at padding; None where there is none.
    """
    divergences = []
    for name, teacher in targets.items():
        student = outputs[name.removeprefix(PREFIX)].float()
        if student.shape[-1] == 1 and name == LABELS:  # a score: of one number, a softmax is 1
            return functional.mse_loss(student, teacher)
        if name != LABELS and attention_mask is not None:
            student = student.masked_fill(attention_mask == 0, NOTHING)
            teacher = teacher.masked_fill(attention_mask == 0, NOTHING)
        divergences.append(
            functional.kl_div(
                functional.log_softmax(student / temperature, dim=-1),
                functional.log_softmax(teacher / temperature, dim=-1),
                log_target=True,
                reduction="batchmean",
            )
        )
    return torch.stack(divergences).mean() * temperature**2


def _joined(options: Sequence[RowLogits]) -> RowLogits:
    """A row's logits as they are; those of a question's options, [1] each, as one array."""
    return options[0] if len(options) == 1 else (np.concatenate([logits[0] for logits in options]),)


def _unpadded(row: Encoded, logits: RowLogits) -> RowLogits:
    return logits if len(logits) == 1 else tuple(part[: len(row)] for part in logits)
