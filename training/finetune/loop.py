"""The loop of a fine-tuning run: transformers' Trainer, with our order of rows, our losses and sealed checkpoints.

Knows recipes and rows. Knows nothing of data files, tasks and scores.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, Trainer, TrainingArguments

from training.checkpoints import sealed
from training.checkpoints.teacher import Teacher, state_errors
from training.finetune import checkpoints, distil
from training.finetune.features import Collator, LengthGroupedSampler, Rows
from training.finetune.recipe import Recipe

AS_IN_THE_RECIPE = (
    "gradient_accumulation_steps", "learning_rate", "weight_decay", "max_grad_norm", "save_steps", "logging_steps",
    "seed",
)  # fmt: skip


def make(
    recipe: Recipe, model: PreTrainedModel, rows: Rows, pad_id: int, guide: Teacher | None, made: Mapping[str, Any]
) -> Trainer:
    """The Trainer of a run.

    Args:
        guide: whose last hidden states are learned, too.
        made: what its checkpoints say of the run.
    """
    arguments = TrainingArguments(
        **{key: getattr(recipe, key) for key in AS_IN_THE_RECIPE},
        output_dir=recipe.output,
        num_train_epochs=recipe.epochs,
        max_steps=recipe.max_steps or -1,
        per_device_train_batch_size=recipe.batch_size,
        lr_scheduler_type=recipe.scheduler,
        warmup_steps=recipe.warmup_steps or recipe.warmup_ratio,
        label_smoothing_factor=recipe.label_smoothing if recipe.kind.smoothing else 0.0,
        optim="adamw_torch_fused",
        use_cpu=not torch.cuda.is_available(),
        bf16=recipe.precision == "bf16",
        remove_unused_columns=False,
        save_total_limit=2,
        report_to=["tensorboard"],
        data_seed=recipe.seed,
        dataloader_pin_memory=torch.cuda.is_available(),
    )
    sampler = LengthGroupedSampler(rows, recipe.batch_size, recipe.seed)
    collator = Collator(pad_id, options=recipe.kind.options)
    return _Trainer(
        recipe, sampler, guide, made, model=model, args=arguments, train_dataset=rows, data_collator=collator
    )


class _Trainer(Trainer):
    """The Trainer with our sampler, since its own draws from torch's global random state and resuming would reorder
    data; and with the losses towards teachers."""

    def __init__(
        self,
        recipe: Recipe,
        sampler: LengthGroupedSampler,
        guide: Teacher | None,
        made: Mapping[str, Any],
        **arguments: Any,
    ) -> None:
        self._recipe = recipe
        self._sampler = sampler
        self._guide = guide
        self._made = made
        super().__init__(**arguments)
        # It takes every forward with **kwargs for one that divides the loss by the rows of all accumulated batches. The
        # encoders' heads take the mean of their own batch, which it must divide by the number of batches.
        self.model_accepts_loss_kwargs = False

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """The loss towards the labels, towards the teachers' logits where the rows have them, and towards the hidden
        states of the guide."""
        teachers = distil.pop(inputs)
        mask = inputs.get("attention_mask")
        if self._guide is not None:
            inputs["output_hidden_states"] = True
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        if teachers:
            share, temperature = self._recipe.teacher_weight, self._recipe.teacher_temperature
            loss = (1 - share) * loss + share * distil.loss(outputs, teachers, mask, temperature)
        if self._guide is not None:
            names = ("input_ids", "token_type_ids", "attention_mask")
            rows = {name: inputs[name].flatten(0, -2) for name in names if name in inputs}  # options are rows
            errors = state_errors(outputs.hidden_states[-1], self._guide.states(**rows), mask)
            loss = loss + self._recipe.teacher_hidden_weight * errors.mean()
        return (loss, outputs) if return_outputs else loss

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Write a checkpoint and seal it. Raises `CheckpointError` where the disk is full."""
        folder = Path(self._recipe.output) / f"{sealed.PREFIX}{self.state.global_step}"
        with checkpoints.writing(folder):
            super()._save_checkpoint(model, trial)
            checkpoints.seal(folder, self._made)

    def _get_train_sampler(self, train_dataset: Any = None) -> torch.utils.data.Sampler[int]:
        return self._sampler
