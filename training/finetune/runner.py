"""A recipe to a fine-tuned checkpoint: data, features, Trainer, dev score.

Owns the run. What a task is, `training.tasks` and `service.tasks` say; the loop is transformers' Trainer.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import random
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import transformers
from safetensors import SafetensorError
from transformers import PreTrainedConfig, PreTrainedModel, Trainer

from service.engine.tokenizer import Tokenizer
from service.tasks import build
from training import files, tasks
from training.checkpoints import families, precision, sealed
from training.checkpoints import weights as pretrained
from training.checkpoints.configs import RECIPE_FILE, load_config, max_positions
from training.checkpoints.teacher import Teacher
from training.data import Report, labels_of
from training.data.records import sha256
from training.errors import CheckpointError, DataError, RecipeError, one_line
from training.evaluate import runner as evaluate
from training.evaluate.engine import TorchEngine
from training.finetune import best, checkpoints, distil, loop
from training.finetune.features import Rows
from training.finetune.recipe import Recipe
from training.tasks import Served
from training.tokenizers import trial
from training.tokenizers.loading import load_tokenizer, open_tokenizer, save_tokenizer

logger = logging.getLogger(__name__)

MOST_UNKNOWN = 0.03
"""Share of the training text's tokens that may be unknown to the tokenizer without a warning."""


def run(recipe: Recipe, *, resume: bool = False, allow_bad_data: bool = False) -> dict[str, Any]:
    """Trains, writes `output/final` (a Hugging Face folder) and `output/metrics.json`, and returns the metrics.

    Raises:
        DataError: the data cannot be read, or holds bad records and they are not allowed.
        CheckpointError: the encoder cannot be loaded or could not be exported; or there is nothing to resume from, or
            what there is is of another run.
        RecipeError: the recipe asks of the encoder what it cannot do.
    """
    transformers.set_seed(recipe.seed)
    recipe = precision.possible(recipe)
    output = Path(recipe.output)
    checkpoint = checkpoints.newest(output) if resume else None
    if not resume and sealed.found(output):  # a later --resume would take the older for the newer
        raise CheckpointError(f"{output} holds the checkpoints of an earlier run: --resume it, or remove them")
    config = _load_config(recipe)
    tokenizer = open_tokenizer(recipe.model, config.vocab_size)
    report = Report()
    train = [read(recipe, path, report) for path in recipe.train]
    known = dict(zip(recipe.train, train, strict=True))  # a file that is both is read, and its faults told, once
    kind = recipe.kind
    if kind.labelled and not recipe.labels:
        recipe = dataclasses.replace(recipe, labels=labels_of(e for examples in train for e in examples))
        logger.info("labels, as the training data has them: %s", ", ".join(recipe.labels))
    train_examples = [e for examples in train for e in _limited(examples, recipe.train_limit, recipe.seed)]
    task = _task(recipe, tokenizer)
    dev: dict[str, list[Any]] = {}
    for path in recipe.dev:  # what the task refuses is reported now, not after the training
        found = known[path] if path in known else read(recipe, path, report)
        asked = _limited(found, recipe.dev_limit, recipe.seed)
        dev[path] = [example for example, _ in kind.encoded(task, asked, report, f"{Path(path).name}: ")]
    data = {path: sha256(path) for path in (*recipe.train, *recipe.dev)}  # of what was read: files change in hours
    made = checkpoints.run_of(dataclasses.asdict(recipe), data)
    if checkpoint:
        checkpoints.check_run(checkpoint, made)
    examples = _weighted(recipe, train_examples)
    rows = Rows(*kind.rows(task, examples, report, empty_windows=recipe.empty_windows, seed=recipe.seed))
    if report.summary():
        logger.warning(report.summary())
    report.check(allow_bad=allow_bad_data)
    if not len(rows):
        raise DataError("no training rows")
    for path, examples in dev.items():
        if not examples:
            raise DataError(f"no dev examples in {path}")
    tokens, unknown = int(rows.lengths.sum()), _unknown(recipe, rows)
    logger.info(
        "%d examples, %d rows, %d tokens; %d dev examples",
        len(train_examples),
        rows.count,
        tokens,
        sum(map(len, dev.values())),
    )
    if unknown > MOST_UNKNOWN * tokens:
        logger.warning(
            "%.1f %% of the tokens of the training text are unknown to the tokenizer: is the text in another language "
            "or script than the vocabulary, or in capitals that it lacks?",
            100.0 * unknown / tokens,
        )
    if any(rows.cut.values()):
        logger.warning(
            "cut to %d tokens: %s", recipe.max_length, ", ".join(f"{n} {noun}" for noun, n in rows.cut.items())
        )

    guide = None
    if recipe.teacher:
        teachers = [_load_teacher(recipe, path) for path in recipe.teacher]
        if recipe.teacher_hidden_weight:
            guide = _guide(recipe, teachers[0], config)
        rows = distil.taught(rows, teachers, tokenizer.pad_id, recipe.precision)
        del teachers
    model, _ = _load_model(recipe, config)
    trainer = loop.make(recipe, model, rows, tokenizer.pad_id, guide, made)
    keep = None
    if recipe.dev_steps:
        first = recipe.dev[0]

        def score(trained: PreTrainedModel) -> float:
            return _scores(task, trained, tokenizer.pad_id, {first: dev[first]})[0][first][kind.main]

        keep = best.KeepBest(recipe.dev_steps, score, output)
        trainer.add_callback(keep)
    try:
        result = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{output} cannot be written ({error}); --resume goes on from its last checkpoint"
        ) from error

    # In fp32, as the weights are exported: accelerate leaves bf16's autocast on the model.
    model = trainer.accelerator.unwrap_model(model, keep_fp32_wrapper=False).eval()
    others, threshold = _scores(task, model, tokenizer.pad_id, dev)
    reached = others.pop(recipe.dev[0])
    metrics = {
        "recipe": dataclasses.asdict(recipe),
        "data": data,
        "examples": len(train_examples),
        "rows": rows.count,
        "tokens": tokens,
        "unknown_tokens": unknown,
        "bad_records": report.bad.total(),
        "cut": rows.cut,
        "train": result.metrics,
        "dev_by_step": keep.scores if keep else [],
        "dev": {**reached, "also": others} if others else reached,
        "dev_threshold": threshold,
        "versions": {name: version(name) for name in ("torch", "transformers", "tokenizers", "datasets", "numpy")},
    }
    _write(output, trainer, recipe.model, json.dumps(metrics, indent=2) + "\n")
    return metrics


def _write(output: Path, trainer: Trainer, encoder: str, metrics: str) -> None:
    """Write `final`, which appears whole or not at all, and `metrics.json`."""
    final = output / "final"
    with files.said(final, "--resume tries again"):
        with files.written_aside(final) as folder:
            trainer.save_model(str(folder))
            save_tokenizer(encoder, folder)
            (folder / RECIPE_FILE).write_text(metrics, encoding="utf-8")
        (output / "metrics.json").write_text(metrics, encoding="utf-8")


def _task(recipe: Recipe, tokenizer: Tokenizer) -> Served:
    """Build the service's task for training. Raises `RecipeError` where a window cannot advance."""
    try:
        return build(recipe.spec, tokenizer)
    except ValueError as error:
        raise RecipeError(one_line(error)) from error


def _unknown(recipe: Recipe, rows: Rows) -> int:
    """How many tokens of the rows stand for what the tokenizer does not know."""
    token = trial.unknown_id(load_tokenizer(recipe.model))
    return 0 if token is None else rows.count_of(token)


def read(recipe: Recipe, path: str, report: Report) -> list[Any]:
    """Read a data file in the recipe's layout."""
    return list(recipe.kind.layouts[recipe.data](path, report, recipe.labels, recipe.table))


def _scores(
    task: Served, model: PreTrainedModel, pad_id: int, dev: Mapping[str, Sequence[Any]]
) -> tuple[dict[str, dict[str, float]], float | None]:
    """Return scores by dev file, and their threshold: what `export` would fit on these examples, since at any
    other one a model may be better or worse than it is served."""
    engine = TorchEngine(model)
    outcomes = {path: evaluate.outcomes(task, engine, pad_id, examples, path) for path, examples in dev.items()}
    kind = tasks.of(task)
    task = kind.fit(task, list(outcomes.values()))
    scores = {path: evaluate.scores(task, each) for path, each in outcomes.items()}
    return scores, kind.fitted(task).get(kind.threshold)


def _limited(examples: Any, limit: int, seed: int) -> Any:
    if not limit or limit >= len(examples):
        return examples
    return random.Random(seed).sample(examples, limit)


def _weighted(recipe: Recipe, examples: Any) -> Any:
    """Each example as often as its source's weight says."""
    if not recipe.source_weights:
        return examples
    unseen = recipe.source_weights.keys() - {e.source for e in examples}
    if unseen:
        logger.warning("source_weights names sources that the data has not: %s", ", ".join(sorted(unseen)))
    return [e for e in examples for _ in range(recipe.source_weights.get(e.source, 1))]


def _load_config(recipe: Recipe) -> PreTrainedConfig:
    """The encoder's config with the recipe's dropout. Refuses now what `export` would refuse in the end."""
    config = load_config(recipe.model)
    for name in ("max_length", "serve_max_length"):
        if getattr(recipe, name) > max_positions(config):
            raise RecipeError(f"{name} {getattr(recipe, name)} is more than the encoder's {max_positions(config)}")
    if recipe.dropout is not None:
        for name in families.of(config).dropouts:
            setattr(config, name, recipe.dropout)
    if recipe.classifier_dropout is not None:
        if not families.of(config).head_dropouts:
            raise RecipeError(f"classifier_dropout: the head of {config.model_type} has the encoder's dropout")
        for name in families.of(config).head_dropouts:
            setattr(config, name, recipe.classifier_dropout)
    return config


def _load_teacher(recipe: Recipe, checkpoint: str) -> PreTrainedModel:
    """A fine-tuned checkpoint that answers the same question about the same ids; `CheckpointError` for any other."""
    student, recipe = recipe.model, dataclasses.replace(recipe, model=checkpoint)
    config: Any = _load_config(recipe)
    labels = [str(config.id2label[i]).lower() for i in range(config.num_labels)]
    if recipe.kind.labelled and labels != [label.lower() for label in recipe.labels]:
        raise CheckpointError(f"the teacher {checkpoint} has the labels {', '.join(labels)}, not the recipe's")
    if load_tokenizer(checkpoint).get_vocab() != load_tokenizer(student).get_vocab():
        raise CheckpointError(f"the teacher {checkpoint} has another vocabulary than {student}")
    model, new = _load_model(recipe, config)
    if new:
        raise CheckpointError(f"the teacher {checkpoint} is not fine-tuned: {new[0]} is missing")
    return model


def _guide(recipe: Recipe, teacher: PreTrainedModel, student: Any) -> Teacher:
    """A teacher's encoder, whose hidden states can be the student's; `CheckpointError` where they have another size."""
    if teacher.config.hidden_size != student.hidden_size:
        raise CheckpointError(
            f"the teacher {recipe.teacher[0]} has hidden size {teacher.config.hidden_size}, the student "
            f"{student.hidden_size}: teacher_hidden_weight is for one size"
        )
    return Teacher(teacher.base_model)


def _load_model(recipe: Recipe, config: PreTrainedConfig) -> tuple[PreTrainedModel, list[str]]:
    """The encoder with its head, and the names of the weights that are newly initialized: a head's, or a pooler's."""
    recipe.kind.set_head(config, recipe.spec)
    # A head for other labels is newly initialized (an NLI model is a good start for other tasks: arXiv 1811.01088).
    model, new = pretrained.whole_encoder(recipe.kind.auto, recipe.model, config, recipe.attention, other_head=True)
    if new:
        logger.info("%s: newly initialized: %s", recipe.model, ", ".join(new))
    if recipe.freeze_word_embeddings:
        model.get_input_embeddings().weight.requires_grad_(False)
    return model, new
