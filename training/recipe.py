"""The recipe of a fine-tuning run: one TOML file, frozen, and wholly checked before anything is loaded.

Owns the keys, their types and their bounds. Knows nothing of torch.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import os
import re
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from training.errors import RecipeError


@dataclass(frozen=True, slots=True)
class Recipe:
    """Every key of a recipe; those without a default must be given.

    Attributes:
        task: what the head does. `classification`: a label for a text or a pair; `span`: start and end of an answer.
        data: layout of the data files. `sst2`: GLUE TSV; `nli`: JSONL, or MNLI's and SNLI's own TSV and JSONL;
            `squad`: official JSON, 1.1 or 2.0. Each plain, .gz or .xz.
        model: pre-trained encoder: a folder in the Hugging Face layout, or a hub name.
        train: training files, or `hub:NAME[:CONFIG]#SPLIT`. `$NAME` is replaced by the environment's NAME.
        dev: the dev file, likewise.
        output: folder for checkpoints, logs and the final model.
        labels: the labels in the order of their ids (classification).
        source_weights: how often the records of a `source` are seen in an epoch (nli; 1 for those not named).
        train_limit: records to use of each training file after a seeded shuffle, 0 for all.
        dev_limit: records to use of the dev file in the scores during training, 0 for all.
        max_length: longest training row, in tokens.
        doc_stride: tokens that neighbouring training windows share (span).
        empty_windows: share kept of the training windows of answerable questions that do not hold the answer (span).
        serve_max_length: longest row of the exported bundle, 0 for `max_length`.
        serve_doc_stride: overlap of the exported bundle's windows, 0 for `doc_stride`.
        epochs: passes over the training data; may be a fraction.
        batch_size: rows a step (on each device).
        gradient_accumulation_steps: batches added up before a step.
        learning_rate: peak of AdamW's learning rate.
        warmup_ratio: share of the steps in which the learning rate rises.
        scheduler: decay after the warm-up, to zero.
        weight_decay: AdamW's decoupled weight decay; biases and LayerNorm weights are spared.
        max_grad_norm: gradients are clipped to this norm.
        label_smoothing: share of the target spread over all labels (classification).
        dropout: replaces the model's hidden and attention dropout; None keeps them.
        freeze_word_embeddings: leave the word embeddings as pre-trained (a third less optimizer work on a small model).
        precision: `fp32`, or `bf16` autocast.
        attention: transformers' attention implementation; `bf16_eager` is ours (see `training.attention`).
        save_steps: steps between checkpoints.
        logging_steps: steps between logged losses.
        seed: seeds weights, data order and dropout.
    """

    task: Literal["classification", "span"]
    data: Literal["sst2", "nli", "squad"]
    model: str
    train: tuple[str, ...]
    dev: str
    output: str
    labels: tuple[str, ...] = ()
    source_weights: Mapping[str, int] = dataclasses.field(default_factory=dict)
    train_limit: int = 0
    dev_limit: int = 0
    max_length: int = 128
    doc_stride: int = 64
    empty_windows: float = 1.0
    serve_max_length: int = 0
    serve_doc_stride: int = 0
    epochs: float = 3.0
    batch_size: int = 32
    gradient_accumulation_steps: int = 1
    learning_rate: float = 5e-5
    warmup_ratio: float = 0.06
    scheduler: Literal["linear", "cosine", "constant_with_warmup"] = "linear"
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    label_smoothing: float = 0.0
    dropout: float | None = None
    freeze_word_embeddings: bool = False
    precision: Literal["fp32", "bf16"] = "fp32"
    attention: Literal["sdpa", "eager", "bf16_eager"] = "sdpa"
    save_steps: int = 500
    logging_steps: int = 50
    seed: int = 42

    def __post_init__(self) -> None:
        positive = (
            "max_length", "epochs", "batch_size", "gradient_accumulation_steps", "learning_rate", "save_steps",
            "logging_steps",
        )  # fmt: skip
        for name in positive:
            if not 0 < getattr(self, name) < math.inf:
                raise RecipeError(f"{name} must be above 0, not {getattr(self, name)}")
        not_negative = (
            "train_limit", "dev_limit", "doc_stride", "serve_max_length", "serve_doc_stride", "weight_decay",
            "max_grad_norm", "seed",
        )  # fmt: skip
        for name in not_negative:
            if not 0 <= getattr(self, name) < math.inf:
                raise RecipeError(f"{name} must not be below 0, and is {getattr(self, name)}")
        for source, weight in self.source_weights.items():
            if weight < 0:
                raise RecipeError(f"source_weights.{source} must not be below 0, and is {weight}")
        if self.source_weights and self.data != "nli":
            raise RecipeError(f"source_weights weighs data 'nli'; data {self.data!r} names no sources")
        if not self.train:
            raise RecipeError("train names no file")
        for name in ("warmup_ratio", "label_smoothing", "dropout"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < 1:
                raise RecipeError(f"{name} must be at least 0 and below 1, not {value}")
        if not 0 <= self.empty_windows <= 1:
            raise RecipeError(f"empty_windows must be 0 to 1, not {self.empty_windows}")
        if self.task == "span" and self.data != "squad":
            raise RecipeError(f"task 'span' reads data 'squad', not {self.data!r}")
        if self.task == "classification" and self.data == "squad":
            raise RecipeError("task 'classification' cannot read data 'squad'")
        if self.task == "classification" and (len(self.labels) < 2 or len(set(self.labels)) < len(self.labels)):
            raise RecipeError("task 'classification' needs labels: two or more names, in the order of their ids")


def load(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Reads a recipe and applies `key=value` overrides, whose values are TOML or bare strings.

    Raises:
        RecipeError: names the key that is unknown (and the nearest right one), mistyped, missing or out of range.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise RecipeError(f"{path}: {error}") from error
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise RecipeError(f"--set takes key=value, not {override!r}")
        values[key.strip()] = _toml_value(text.strip())
    try:
        return from_values(values)
    except RecipeError as error:
        raise RecipeError(f"{path}: {error}") from error


def from_values(values: Mapping[str, Any]) -> Recipe:
    """Makes a recipe of plain values. Raises `RecipeError` as `load` does."""
    hints = typing.get_type_hints(Recipe)
    for key in values:
        if key not in hints:
            near = difflib.get_close_matches(key, hints, n=1, cutoff=0.5)
            hint = f"; did you mean {near[0]!r}?" if near else f"; the keys are {', '.join(hints)}"
            raise RecipeError(f"unknown key {key!r}{hint}")
    missing = [
        field.name
        for field in dataclasses.fields(Recipe)
        if field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
        and field.name not in values
    ]
    if missing:
        raise RecipeError(f"missing: {', '.join(missing)}")
    return Recipe(**{key: _checked(key, value, hints[key]) for key, value in values.items()})


def _toml_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _checked(key: str, value: Any, hint: Any) -> Any:
    """`value` as the type `hint` wants it."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        if value in arguments:
            return value
        near = difflib.get_close_matches(str(value), arguments, n=1, cutoff=0.5)
        raise RecipeError(
            f"{key} is one of {', '.join(map(repr, arguments))}, not {value!r}"
            + (f"; did you mean {near[0]!r}?" if near else "")
        )
    if origin is types.UnionType:
        inner = next(argument for argument in arguments if argument is not types.NoneType)
        return None if value is None else _checked(key, value, inner)
    if origin is tuple and isinstance(value, str):
        value = [value]
    if origin is tuple and isinstance(value, list):
        return tuple(_checked(f"{key}[{i}]", item, arguments[0]) for i, item in enumerate(value))
    if origin is not None and issubclass(origin, Mapping) and isinstance(value, dict):
        return {name: _checked(f"{key}.{name}", item, arguments[1]) for name, item in value.items()}
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is str and isinstance(value, str):
        return _expanded(key, value)
    if origin is None and type(value) is hint:
        return value
    wanted = "list of strings" if origin is tuple else "table" if origin is not None else hint.__name__
    raise RecipeError(f"{key} is a {wanted}, not the {type(value).__name__} {value!r}")


def _expanded(key: str, text: str) -> str:
    expanded = os.path.expandvars(text)
    unset = re.search(r"\$\{?(\w+)", expanded)
    if unset:
        raise RecipeError(f"{key}: the environment has no {unset[1]} for {text!r}")
    return expanded
