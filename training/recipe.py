"""The recipe of a fine-tuning run: one TOML file, frozen, and wholly checked before anything is loaded.

Owns the keys, their types and their bounds, and how any recipe is read (`load_as`): a pre-training run's has other keys
and the same manners. Knows nothing of torch.
"""

from __future__ import annotations

import dataclasses
import math
import os
import re
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from training.data import LAYOUTS, Layout, Table
from training.errors import RecipeError, did_you_mean, nearest

PATHS = ("model", "train", "dev", "output", "teacher", "corpus", "tokenizer", "cache", "init")
"""Keys of any recipe in which `$NAME` is replaced: those of files and folders. In a label "$100" is a text."""

Kind = TypeVar("Kind")
"""A frozen dataclass of a recipe's keys, which checks its bounds when it is made."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """Every key of a recipe; those without a default must be given.

    Attributes:
        task: what the head does. `classification`: a label for a text or a pair; `span`: start and end of an answer;
            `multiple_choice`: a score for each option of a question.
        data: layout of the data files. `sst2`: GLUE TSV; `nli`: JSONL, or MNLI's and SNLI's own TSV and JSONL;
            `squad`: official JSON, 1.1 or 2.0; `race`: JSONL, a passage a line, or the published folder; `table`: CSV,
            TSV or JSONL with columns of your own. Each plain, .gz or .xz.
        model: pre-trained encoder: a folder in the Hugging Face layout, or a hub name.
        train: training files, or `hub:NAME[:CONFIG]#SPLIT`. In the keys of files and folders `$NAME` is replaced by the
            environment's NAME.
        dev: dev files, likewise. Each is scored by itself; the first one's scores are the run's.
        output: folder for checkpoints, logs and the final model.
        labels: the labels in the order of their ids (classification). With `table` they may be left out: those of the
            training data are taken, numbers by their value and names by their code points.
        multi_label: whether a text may have several labels at once, or none (table).
        table: names of the columns: `text` ("text"), `text_pair` (none), `label` ("label") and `id` ("id"), and the
            `separator` of several labels in a cell (",").
        source_weights: how often the records of a `source` are seen in an epoch (nli; 1 for those not named).
        train_limit: records to use of each training file after a seeded shuffle, 0 for all.
        dev_limit: records to use of the dev file in the scores during training, 0 for all.
        max_length: longest training row, in tokens.
        doc_stride: tokens that neighbouring training windows share (span).
        empty_windows: share kept of the training windows of answerable questions that do not hold the answer (span).
        serve_max_length: longest row of the exported bundle, 0 for `max_length`.
        serve_doc_stride: overlap of the exported bundle's windows, 0 for `doc_stride`.
        epochs: passes over the training data; may be a fraction.
        max_steps: steps to train for instead of `epochs`, 0 to go by those.
        batch_size: rows a step (on each device).
        gradient_accumulation_steps: batches added up before a step.
        learning_rate: peak of AdamW's learning rate.
        warmup_ratio: share of the steps in which the learning rate rises.
        warmup_steps: number of those steps instead of `warmup_ratio`, 0 to go by that.
        scheduler: decay after the warm-up, to zero.
        weight_decay: AdamW's decoupled weight decay; biases and LayerNorm weights are spared.
        max_grad_norm: gradients are clipped to this norm.
        label_smoothing: share of the target spread over all labels or options (not in span).
        teacher: fine-tuned checkpoints to learn from as well; the mean of their logits is the target.
        teacher_weight: share of the loss that is towards the teachers, the rest being towards the data's labels.
        teacher_temperature: softens both sides of that loss.
        teacher_hidden_weight: of the loss towards the last hidden states of the one teacher, which is added to the rest
            (both normalised: 2 for a student that knows nothing); 0 leaves it out. The teacher reads each batch then.
        dropout: replaces the model's hidden and attention dropout; None keeps them.
        classifier_dropout: replaces the dropout before the head; None keeps the model's own.
        freeze_word_embeddings: leave the word embeddings as pre-trained (a third less optimizer work on a small model).
        precision: `fp32`, or `bf16` autocast.
        attention: transformers' attention implementation; `bf16_eager` is ours (see `training.checkpoints.attention`).
        save_steps: steps between checkpoints.
        dev_steps: steps between scores on the first dev file, by which the best weights become the final ones; 0: the
            last ones do.
        logging_steps: steps between logged losses.
        seed: seeds weights, data order and dropout.
    """

    task: Literal["classification", "multiple_choice", "span"]
    data: Layout
    model: str
    train: tuple[str, ...]
    dev: tuple[str, ...]
    output: str
    labels: tuple[str, ...] = ()
    multi_label: bool = False
    table: Table = dataclasses.field(default_factory=Table)
    source_weights: Mapping[str, int] = dataclasses.field(default_factory=dict)
    train_limit: int = 0
    dev_limit: int = 0
    max_length: int = 128
    doc_stride: int = 64
    empty_windows: float = 1.0
    serve_max_length: int = 0
    serve_doc_stride: int = 0
    epochs: float = 3.0
    max_steps: int = 0
    batch_size: int = 32
    gradient_accumulation_steps: int = 1
    learning_rate: float = 5e-5
    warmup_ratio: float = 0.06
    warmup_steps: int = 0
    scheduler: Literal["linear", "cosine", "constant_with_warmup"] = "linear"
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    label_smoothing: float = 0.0
    teacher: tuple[str, ...] = ()
    teacher_weight: float = 0.5
    teacher_temperature: float = 2.0
    teacher_hidden_weight: float = 0.0
    dropout: float | None = None
    classifier_dropout: float | None = None
    freeze_word_embeddings: bool = False
    precision: Literal["fp32", "bf16"] = "fp32"
    attention: Literal["sdpa", "eager", "bf16_eager"] = "sdpa"
    save_steps: int = 500
    dev_steps: int = 0
    logging_steps: int = 50
    seed: int = 42

    def __post_init__(self) -> None:
        positive = (
            "max_length", "epochs", "batch_size", "gradient_accumulation_steps", "learning_rate", "save_steps",
            "logging_steps", "teacher_temperature",
        )  # fmt: skip
        for name in positive:
            if not 0 < getattr(self, name) < math.inf:
                raise RecipeError(f"{name} must be above 0, not {getattr(self, name)}")
        not_negative = (
            "train_limit", "dev_limit", "doc_stride", "serve_max_length", "serve_doc_stride", "max_steps",
            "warmup_steps", "weight_decay", "max_grad_norm", "dev_steps", "seed", "teacher_hidden_weight",
        )  # fmt: skip
        for name in not_negative:
            if not 0 <= getattr(self, name) < math.inf:
                raise RecipeError(f"{name} must not be below 0, and is {getattr(self, name)}")
        for source, weight in self.source_weights.items():
            if weight < 0:
                raise RecipeError(f"source_weights.{source} must not be below 0, and is {weight}")
        if self.source_weights and self.data != "nli":
            raise RecipeError(f"source_weights weighs data 'nli'; data {self.data!r} names no sources")
        for name in ("train", "dev"):
            if not getattr(self, name):
                raise RecipeError(f"{name} names no file")
        for name in ("warmup_ratio", "label_smoothing", "dropout", "classifier_dropout"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < 1:
                raise RecipeError(f"{name} must be at least 0 and below 1, not {value}")
        for name in ("empty_windows", "teacher_weight"):
            if not 0 <= getattr(self, name) <= 1:
                raise RecipeError(f"{name} must be 0 to 1, not {getattr(self, name)}")
        if self.data not in LAYOUTS[self.task]:
            raise RecipeError(
                f"task {self.task!r} reads data {' or '.join(map(repr, LAYOUTS[self.task]))}, not {self.data!r}"
            )
        read_from_data = self.data == "table" and not self.labels
        distinct = len(self.labels) >= 2 and len(set(self.labels)) == len(self.labels)
        if self.task == "classification" and not read_from_data and not distinct:
            raise RecipeError("task 'classification' needs labels: two or more names, in the order of their ids")
        if self.data != "table" and (self.multi_label or self.table != Table()):
            raise RecipeError(f"multi_label and table tell of data 'table', not of {self.data!r}")
        for name in ("label_smoothing", "teacher"):
            if self.multi_label and getattr(self, name):
                raise RecipeError(f"{name} is for labels that exclude one another, and those of multi_label do not")
        if self.teacher_hidden_weight and len(self.teacher) != 1:
            raise RecipeError(f"teacher_hidden_weight is of one teacher, and there are {len(self.teacher)}")
        if not self.table.separator:
            raise RecipeError("table.separator is empty")
        if self.max_steps and self.warmup_steps >= self.max_steps:
            raise RecipeError(f"warmup_steps {self.warmup_steps} leave none of max_steps {self.max_steps}")


def load(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Reads a fine-tuning recipe; see `load_as`."""
    return load_as(Recipe, path, overrides)


def load_as(kind: type[Kind], path: Path, overrides: Sequence[str] = ()) -> Kind:
    """Reads a recipe and applies `key=value` overrides, whose values are TOML or bare strings.

    A key may have a table's name before it: `table.text=review`.

    Raises:
        RecipeError: names the key that is unknown (and the nearest right one), mistyped, missing or out of range.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise RecipeError(f"{path}: {error}") from error
    for key, value in _parsed(overrides).items():
        table, dot, name = key.partition(".")
        if dot:
            inner = values.get(table)
            values[table] = {**(inner if isinstance(inner, dict) else {}), name: value}
        else:
            values[key] = value
    try:
        return make(kind, values)
    except RecipeError as error:
        raise RecipeError(f"{path}: {error}") from error


def from_values(values: Mapping[str, Any]) -> Recipe:
    """Makes a fine-tuning recipe of plain values. Raises `RecipeError` as `load_as` does."""
    return make(Recipe, values)


def make(kind: type[Kind], values: Mapping[str, Any]) -> Kind:
    """Makes a recipe of plain values. Raises `RecipeError` as `load_as` does."""
    hints = typing.get_type_hints(kind)
    for key in values:
        if key not in hints:
            raise RecipeError(f"unknown key {key!r}{did_you_mean(key, hints)}")
    missing = [
        field.name
        for field in dataclasses.fields(kind)  # type: ignore[arg-type]  # a TypeVar cannot be bound to dataclasses
        if field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
        and field.name not in values
    ]
    if missing:
        raise RecipeError(f"missing: {', '.join(missing)}")
    return kind(**{key: _checked(key, value, hints[key]) for key, value in values.items()})


def layout(settings: Sequence[str]) -> dict[str, str]:
    """How data are laid out, of `data=...` and `table.NAME=...` (which says `data=table`): as `evaluate.read` takes
    it.

    Raises:
        RecipeError: names what is no such key, or no such layout.
    """
    keys = ("data", *(f"table.{field.name}" for field in dataclasses.fields(Table)))
    found = {}
    for key, value in _parsed(settings).items():
        if key not in keys:
            raise RecipeError(f"unknown key {key!r}{did_you_mean(key, keys)}")
        found[key.removeprefix("table.")] = _checked(key, value, Layout if key == "data" else str)
    if found and found.setdefault("data", "table") != "table" and len(found) > 1:
        raise RecipeError(f"table tells of data 'table', not of {found['data']!r}")
    return found


def _parsed(overrides: Sequence[str]) -> dict[str, Any]:
    values = {}
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise RecipeError(f"--set takes key=value, not {override!r}")
        values[key.strip()] = _toml_value(text.strip())
    return values


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
        known = ", ".join(map(repr, arguments))
        raise RecipeError(f"{key} is one of {known}, not {value!r}{nearest(str(value), arguments)}")
    if origin is types.UnionType:
        inner = next(argument for argument in arguments if argument is not types.NoneType)
        return None if value is None else _checked(key, value, inner)
    if dataclasses.is_dataclass(hint) and isinstance(value, dict):
        hints = typing.get_type_hints(hint)
        for name in value:
            if name not in hints:
                raise RecipeError(f"unknown key '{key}.{name}'{did_you_mean(name, hints)}")
        checked = {name: _checked(f"{key}.{name}", item, hints[name]) for name, item in value.items()}
        return typing.cast(Any, hint)(**checked)
    if origin is tuple and isinstance(value, str):
        value = [value]
    if origin is tuple and isinstance(value, list):
        return tuple(_checked(f"{key}[{i}]", item, arguments[0]) for i, item in enumerate(value))
    if origin is not None and issubclass(origin, Mapping) and isinstance(value, dict):
        return {name: _checked(f"{key}.{name}", item, arguments[1]) for name, item in value.items()}
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is str and isinstance(value, str):
        return _expanded(key, value) if key.partition("[")[0] in PATHS else value
    if origin is None and type(value) is hint:
        return value
    is_table = origin is not None or dataclasses.is_dataclass(hint)
    wanted = "list of strings" if origin is tuple else "table" if is_table else hint.__name__
    raise RecipeError(f"{key} is a {wanted}, not the {type(value).__name__} {value!r}")


def _expanded(key: str, text: str) -> str:
    expanded = os.path.expandvars(text)
    unset = re.search(r"\$\{?(\w+)", expanded)
    if unset:
        raise RecipeError(f"{key}: the environment has no {unset[1]} for {text!r}")
    return expanded
