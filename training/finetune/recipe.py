"""The recipe of a fine-tuning run: its keys, their types and their bounds. Knows nothing of torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError
from pydantic.dataclasses import dataclass

from service.tasks.spec import Activation, TaskSpec
from training import recipe, tasks
from training.data import Table
from training.data.names import name_of
from training.errors import RecipeError, did_you_mean, nearest, one_line
from training.recipe import CONFIG, BelowOne, Count, Keys, NotNegative, Place, Places, Positive, Share, Texts, Whole


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Recipe(Keys):
    """Every key of a recipe; those without a default must be given.

    Attributes:
        task: what the head does. `classification`: a label for a text or a pair; `span`: start and end of an answer;
            `multiple_choice`: a score for each option of a question; `score`: a number for a text or a pair.
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
        activation: what a score goes through, and so what it learns by: "identity", mean squared error; "sigmoid",
            binary cross-entropy towards numbers from 0 to 1 (score).
        table: names of the columns: `text` ("text"), `text_pair` (none), `label` ("label") and `id` ("id"); the
            `separator` of several labels in a cell (","); what `numbers` among the labels are: labels by their
            "value", or each the "index" of one, from 0 in the order of `labels`; and the `dialect` of CSV and TSV
            files, where what the file itself shows is wrong: "csv", "semicolon" or "tsv", in which quotation marks
            enclose fields, or "plain": tabs, and such marks are text.
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

    task: Literal[*tasks.NAMES]  # type: ignore[valid-type]
    data: Literal[*tasks.LAYOUTS]  # type: ignore[valid-type]
    model: Place
    train: Places
    dev: Places
    output: Place
    labels: Texts = ()
    multi_label: bool = False
    activation: Activation = "identity"
    table: Table = dataclasses.field(default_factory=Table)
    source_weights: dict[str, Whole] = dataclasses.field(default_factory=dict)
    train_limit: Whole = 0
    dev_limit: Whole = 0
    max_length: Count = 128
    doc_stride: Whole = 64
    empty_windows: Share = 1.0
    serve_max_length: Whole = 0
    serve_doc_stride: Whole = 0
    epochs: Positive = 3.0
    max_steps: Whole = 0
    batch_size: Count = 32
    gradient_accumulation_steps: Count = 1
    learning_rate: Positive = 5e-5
    warmup_ratio: BelowOne = 0.06
    warmup_steps: Whole = 0
    scheduler: Literal["linear", "cosine", "constant_with_warmup"] = "linear"
    weight_decay: NotNegative = 0.01
    max_grad_norm: NotNegative = 1.0
    label_smoothing: BelowOne = 0.0
    teacher: Places = ()
    teacher_weight: Share = 0.5
    teacher_temperature: Positive = 2.0
    teacher_hidden_weight: NotNegative = 0.0
    dropout: BelowOne | None = None
    classifier_dropout: BelowOne | None = None
    freeze_word_embeddings: bool = False
    precision: Literal["fp32", "bf16"] = "fp32"
    attention: Literal["sdpa", "eager", "bf16_eager"] = "sdpa"
    save_steps: Count = 500
    dev_steps: Whole = 0
    logging_steps: Count = 50
    seed: Whole = 42

    def __post_init__(self) -> None:
        for name in ("train", "dev"):
            if not getattr(self, name):
                raise RecipeError(f"{name} names no file")
        if self.source_weights and self.data != "nli":
            raise RecipeError(f"source_weights weighs data 'nli'; data {self.data!r} names no sources")
        if self.data != "table" and (self.multi_label or self.table != Table()):
            raise RecipeError(f"multi_label and table tell of data 'table', not of {self.data!r}")
        if self.data not in self.kind.layouts:
            raise RecipeError(
                f"task {self.task!r} reads data {' or '.join(map(repr, self.kind.layouts))}, not {self.data!r}"
            )
        read_from_data = self.data == "table" and not self.labels
        distinct = len(self.labels) >= 2 and len(set(map(name_of, self.labels))) == len(self.labels)
        if self.kind.labelled and not read_from_data and not distinct:
            raise RecipeError(f"task {self.task!r} needs labels: two or more names, in the order of their ids")
        if self.kind.name != "score" and self.activation != "identity":
            raise RecipeError(f"activation is of task 'score', not of {self.task!r}")
        if self.kind.name == "score" and self.label_smoothing:
            raise RecipeError("label_smoothing is for labels that exclude one another, and a score has none")
        for name in ("label_smoothing", "teacher"):
            if self.multi_label and getattr(self, name):
                raise RecipeError(f"{name} is for labels that exclude one another, and those of multi_label do not")
        if self.teacher_hidden_weight and len(self.teacher) != 1:
            raise RecipeError(f"teacher_hidden_weight is of one teacher, and there are {len(self.teacher)}")
        if self.table.numbers == "index" and not self.labels:
            raise RecipeError('table.numbers "index" wants labels: the names that the numbers are indices of')
        if not self.table.separator:
            raise RecipeError("table.separator is empty")
        if self.max_steps and self.warmup_steps >= self.max_steps:
            raise RecipeError(f"warmup_steps {self.warmup_steps} leave none of max_steps {self.max_steps}")

    @property
    def kind(self) -> tasks.Task[Any, Any]:
        """What training knows of the task."""
        return tasks.named(self.task, multi_label=self.multi_label)

    @property
    def spec(self) -> TaskSpec:
        """The service's task, with the lengths of training."""
        return TaskSpec(
            task=self.task, max_length=self.max_length, labels=self.labels, multi_label=self.multi_label,
            activation=self.activation, doc_stride=self.doc_stride if self.kind.windows else 0,
        )  # fmt: skip


def load(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a fine-tuning recipe; see `training.recipe.load_as`."""
    return recipe.load_as(Recipe, path, overrides)


def layout(settings: Sequence[str]) -> dict[str, str]:
    """Return how data are laid out, of `data=...` and `table.NAME=...` (which says `data=table`): as `evaluate.read`
    takes it.

    Raises:
        RecipeError: names what is no such key, or no such layout.
    """
    keys = ("data", *(f"table.{field.name}" for field in dataclasses.fields(Table)))
    found = {}
    for key, value in recipe.parsed(settings).items():
        if key not in keys:
            raise RecipeError(f"unknown key {key!r}{did_you_mean(key, keys)}")
        if not isinstance(value, str):
            raise RecipeError(f"{key} is a str, not the {type(value).__name__} {value!r}")
        if key == "data" and value not in tasks.LAYOUTS:
            known = ", ".join(map(repr, tasks.LAYOUTS))
            raise RecipeError(f"data is one of {known}, not {value!r}{nearest(value, tasks.LAYOUTS)}")
        found[key.removeprefix("table.")] = value
    if found and found.setdefault("data", "table") != "table" and len(found) > 1:
        raise RecipeError(f"table tells of data 'table', not of {found['data']!r}")
    try:
        Table(**{name: value for name, value in found.items() if name != "data"})  # type: ignore[arg-type]
    except ValidationError as error:
        raise RecipeError(f"table.{one_line(error)}") from error
    return found
