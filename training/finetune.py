"""A recipe to a fine-tuned checkpoint: data, features, Trainer, dev score.

Owns the run. What a task is comes from `service.tasks`, how data is read from `training.data`; the loop is
transformers' Trainer.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import random
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    Trainer,
    TrainingArguments,
)
from transformers.trainer_utils import get_last_checkpoint

from service.tasks import ClassificationTask, SpanTask
from service.tokenizer import Tokenizer
from training import attention, evaluate, graph
from training.data import LabelledText, Question, Report, read_nli, read_squad, read_sst2
from training.data.records import sha256
from training.errors import CheckpointError, DataError, RecipeError
from training.features import Collator, LengthGroupedSampler, Rows, classification_rows, span_rows
from training.recipe import Recipe

logger = logging.getLogger(__name__)

RECIPE_FILE = "bertie.json"
"""Written beside the final weights: what `export` needs to know of the run."""

Examples = Sequence[LabelledText] | Sequence[Question]


def run(recipe: Recipe, *, resume: bool = False, allow_bad_data: bool = False) -> dict[str, Any]:
    """Trains, writes `output/final` (a Hugging Face folder) and `output/metrics.json`, and returns the metrics.

    Raises:
        DataError: the data cannot be read, or holds bad records and they are not allowed.
        CheckpointError: the encoder cannot be loaded or could not be exported, or there is nothing to resume from.
        RecipeError: the recipe asks of the encoder what it cannot do.
    """
    transformers.set_seed(recipe.seed)
    output = Path(recipe.output)
    config = _load_config(recipe)
    tokenizer = Tokenizer(load_tokenizer(recipe.model))
    task = make_task(recipe, tokenizer)
    report = Report()
    train_examples = [e for path in recipe.train for e in _sample(recipe, read(recipe, path, report))]
    dev_examples = _limited(read(recipe, recipe.dev, report), recipe.dev_limit, recipe.seed)
    rows = features(recipe, task, _weighted(recipe, train_examples), report)
    if report.summary():
        logger.warning(report.summary())
    report.check(allow_bad=allow_bad_data)
    if not len(rows) or not dev_examples:
        raise DataError("no training rows" if not len(rows) else "no dev examples")
    logger.info(
        "%d examples, %d rows, %d tokens; %d dev examples",
        len(train_examples),
        len(rows),
        int(rows.lengths.sum()),
        len(dev_examples),
    )

    model = _load_model(recipe, config)
    trainer = _trainer(recipe, model, rows, tokenizer.pad_id)
    checkpoint = get_last_checkpoint(str(output)) if output.is_dir() else None
    if resume and checkpoint is None:
        raise CheckpointError(f"nothing to resume from in {output}")
    result = trainer.train(resume_from_checkpoint=checkpoint if resume else None)

    model.eval()
    scores = evaluate.score(task, evaluate.TorchEngine(model), tokenizer.pad_id, dev_examples)
    final = output / "final"
    trainer.save_model(str(final))
    AutoTokenizer.from_pretrained(recipe.model).save_pretrained(str(final))
    metrics = {
        "recipe": dataclasses.asdict(recipe),
        "data": {path: sha256(path) for path in (*recipe.train, recipe.dev)},
        "examples": len(train_examples),
        "rows": len(rows),
        "tokens": int(rows.lengths.sum()),
        "bad_records": report.bad.total(),
        "train": result.metrics,
        "dev": scores,
        "versions": {name: version(name) for name in ("torch", "transformers", "tokenizers", "datasets", "numpy")},
    }
    for path in (output / "metrics.json", final / RECIPE_FILE):
        path.write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
    return metrics


def make_task(recipe: Recipe, tokenizer: Tokenizer) -> ClassificationTask | SpanTask:
    """The service's task with the recipe's training lengths. Raises `RecipeError` where a window cannot advance."""
    if recipe.task == "span":
        try:
            return SpanTask(tokenizer, max_length=recipe.max_length, doc_stride=recipe.doc_stride)
        except ValueError as error:
            raise RecipeError(str(error)) from error
    return ClassificationTask(tokenizer, recipe.labels, recipe.max_length)


def read(recipe: Recipe, path: str, report: Report) -> list[LabelledText] | list[Question]:
    """Reads a data file in the recipe's layout."""
    if recipe.data == "squad":
        return list(read_squad(path, report))
    reader = read_sst2 if recipe.data == "sst2" else read_nli
    return list(reader(path, recipe.labels, report))


def features(recipe: Recipe, task: ClassificationTask | SpanTask, examples: Examples, report: Report) -> Rows:
    """Encoded rows with their targets."""
    if isinstance(task, SpanTask):
        questions = [e for e in examples if isinstance(e, Question)]
        return span_rows(task, questions, report, empty_windows=recipe.empty_windows, seed=recipe.seed)
    return classification_rows(task, [e for e in examples if isinstance(e, LabelledText)])


def _limited(examples: Any, limit: int, seed: int) -> Any:
    if not limit or limit >= len(examples):
        return examples
    return random.Random(seed).sample(examples, limit)


def _sample(recipe: Recipe, examples: Any) -> Any:
    return _limited(examples, recipe.train_limit, recipe.seed)


def _weighted(recipe: Recipe, examples: Any) -> Any:
    """Each example as often as its source's weight says."""
    if not recipe.source_weights:
        return examples
    unseen = recipe.source_weights.keys() - {e.source for e in examples}
    if unseen:
        logger.warning("source_weights names sources that the data has not: %s", ", ".join(sorted(unseen)))
    return [e for e in examples for _ in range(recipe.source_weights.get(e.source, 1))]


def load_tokenizer(model: str | Path) -> tokenizers.Tokenizer:
    """The fast tokenizer of a checkpoint, as `tokenizers` has it: the caller's own, to set up as it likes.

    Raises:
        CheckpointError: there is none, or it has no vocabulary.
    """
    try:
        fast = AutoTokenizer.from_pretrained(model, use_fast=True, trust_remote_code=False)
        backend = type(fast.backend_tokenizer).from_str(fast.backend_tokenizer.to_str())
    except Exception as error:  # `tokenizers` raises bare Exceptions, and a broken file a KeyError
        raise CheckpointError(f"{model}: no fast tokenizer can be loaded: {type(error).__name__}: {error}") from error
    # For a checkpoint without tokenizer files transformers makes one up that knows the special tokens alone.
    if not backend.get_vocab().keys() - set(fast.all_special_tokens):
        raise CheckpointError(f"{model}: there is no tokenizer (tokenizer.json, vocab.txt or the like)")
    return backend


def max_positions(config: PreTrainedConfig) -> int:
    """The longest row that a model has positions for."""
    positions: int = config.max_position_embeddings
    # RoBERTa's positions begin after its padding id, so two of its 514 are never used.
    return positions - config.pad_token_id - 1 if config.model_type == "roberta" else positions


def _load_config(recipe: Recipe) -> PreTrainedConfig:
    """The encoder's config with the recipe's head and dropout. Refuses now what `export` would refuse in the end."""
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(recipe.model, trust_remote_code=False)
        graph.check(config)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{recipe.model}: {error}") from error
    for name in ("max_length", "serve_max_length"):
        if getattr(recipe, name) > max_positions(config):
            raise RecipeError(f"{name} {getattr(recipe, name)} is more than the encoder's {max_positions(config)}")
    if recipe.dropout is not None:
        config.hidden_dropout_prob = config.attention_probs_dropout_prob = recipe.dropout
    if recipe.task == "classification":
        config.id2label = dict(enumerate(recipe.labels))
        config.label2id = {label: i for i, label in enumerate(recipe.labels)}
    else:
        config.num_labels = 2  # start and end, whatever labels the encoder was trained with before
    return config


def _load_model(recipe: Recipe, config: PreTrainedConfig) -> PreTrainedModel:
    attention.register()
    try:
        auto = AutoModelForQuestionAnswering if recipe.task == "span" else AutoModelForSequenceClassification
        model = auto.from_pretrained(
            recipe.model, config=config, attn_implementation=recipe.attention, trust_remote_code=False,
            use_safetensors=True,
        )  # fmt: skip
    except RuntimeError as error:
        raise CheckpointError(
            f"{recipe.model}: its weights do not fit its config, or its head does not fit the recipe's labels"
        ) from error
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"{recipe.model}: {error}") from error
    if recipe.freeze_word_embeddings:
        model.get_input_embeddings().weight.requires_grad_(False)
    result: PreTrainedModel = model
    return result


def _trainer(recipe: Recipe, model: PreTrainedModel, rows: Rows, pad_id: int) -> Trainer:
    arguments = TrainingArguments(
        output_dir=recipe.output,
        num_train_epochs=recipe.epochs,
        per_device_train_batch_size=recipe.batch_size,
        gradient_accumulation_steps=recipe.gradient_accumulation_steps,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type=recipe.scheduler,
        warmup_steps=recipe.warmup_ratio,
        weight_decay=recipe.weight_decay,
        max_grad_norm=recipe.max_grad_norm,
        label_smoothing_factor=recipe.label_smoothing if recipe.task == "classification" else 0.0,
        optim="adamw_torch_fused",
        use_cpu=not torch.cuda.is_available(),
        bf16=recipe.precision == "bf16",
        remove_unused_columns=False,
        save_steps=recipe.save_steps,
        save_total_limit=2,
        logging_steps=recipe.logging_steps,
        report_to=["tensorboard"],
        seed=recipe.seed,
        data_seed=recipe.seed,
        dataloader_pin_memory=torch.cuda.is_available(),
    )
    sampler = LengthGroupedSampler(rows, recipe.batch_size, recipe.seed)
    return _LengthGroupedTrainer(
        sampler, model=model, args=arguments, train_dataset=rows, data_collator=Collator(pad_id)
    )


class _LengthGroupedTrainer(Trainer):
    """The Trainer with our sampler: its own draws from torch's global random state, so resuming would reorder data."""

    def __init__(self, sampler: LengthGroupedSampler, **arguments: Any) -> None:
        self._sampler = sampler
        super().__init__(**arguments)

    def _get_train_sampler(self, train_dataset: Any = None) -> torch.utils.data.Sampler[int]:
        return self._sampler
