"""What a folder is and whether it can be exported, in seconds: by its config, its tokenizer and its weights' shapes.

Owns the report. What is wrong with a folder is said by whoever would say so in an export; of weights no number is read,
so that what hangs on those (NaN, the gate) an export alone can tell.
"""

from __future__ import annotations

import json
import math
import re
import shlex
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import PreTrainedModel

from service.engine.tokenizer import Tokenizer
from service.repository.manifest import MANIFEST
from training import folders, tasks
from training.checkpoints import stored
from training.checkpoints.configs import load_config, recorded
from training.checkpoints.stored import Shape
from training.errors import CheckpointError
from training.export import agreement, heads
from training.export.runner import longest_row
from training.tokenizers.loading import load_tokenizer

T = TypeVar("T")

SHOWN = 8
"""Most labels that are listed."""


@dataclass
class Report:
    """What was found out, in words."""

    folder: Path
    facts: dict[str, str] = field(default_factory=dict)  # by name, in the order to be shown
    problems: list[str] = field(default_factory=list)  # why it cannot be served; empty where it can
    notes: list[str] = field(default_factory=list)  # what is told and stops nothing
    next: str = ""  # the command to type next; empty where a problem says what to do

    def tried(self, step: Callable[[], T]) -> T | None:
        """Return what a step makes; note its refusal as a problem."""
        try:
            return step()
        except CheckpointError as error:
            said = str(error).removeprefix(f"{self.folder}: ")
            if said not in self.problems:
                self.problems.append(said)
            return None


def run(checkpoint: Path, labels: Sequence[str] = (), *, multi_label: bool = False) -> Report:
    """Say what the folder is. Never raises for what is wrong with it: that is in the report.

    Args:
        labels: names of the labels in the order of their ids, as for `export`.
        multi_label: whether labels do not exclude one another, as for `export`.
    """
    report = Report(checkpoint)
    if (checkpoint / MANIFEST).is_file():
        report.problems.append("it is a bundle already: serve it, or score it with python -m training evaluate")
        return report
    report.tried(lambda: folders.check(checkpoint))
    if report.problems:
        return report
    config: Any = report.tried(lambda: load_config(checkpoint))
    shapes = report.tried(lambda: stored.shapes(checkpoint))
    if shapes is not None:
        report.facts["weights"] = _weights(stored.files(checkpoint), shapes)
    if config is None:
        report.facts = {"architecture": _architecture(checkpoint), **report.facts}
        return report
    task = tasks.of_config(config, multi_label=multi_label)
    report.facts = {
        "architecture": f"{config.model_type} ({' '.join(config.architectures or ()) or 'no architectures'})",
        "task": _task(task) if task else "none",
        **report.facts,
    }
    report.tried(lambda: heads.check(checkpoint, config, multi_label=multi_label))
    if task is not None:
        _of_task(report, task, config, labels, shapes)
    _of_tokenizer(report, config)
    if task and not report.problems:
        report.facts["served"] = "yes, if the gate finds that its graphs answer as it does"
        report.next = _next(
            checkpoint, labels, multi_label=multi_label, has_dev=bool(recorded(checkpoint).get("recipe", {}).get("dev"))
        )
        report.facts["next"] = report.next
    else:
        report.facts["served"] = "no"
    return report


def _of_task(
    report: Report, task: tasks.Task[Any, Any], config: Any, labels: Sequence[str], shapes: Mapping[str, Shape] | None
) -> None:
    """Find out what hangs on the task: labels, lengths, and whether the weights are all there."""
    if refusal := task.refusal(config):
        report.problems.append(refusal)
    elif task.labelled:
        named = report.tried(lambda: task.labels(config, labels))
        if named:
            more = f" and {len(named) - SHOWN} more" if len(named) > SHOWN else ""
            report.facts["labels"] = f"{len(named)}: {', '.join(named[:SHOWN])}{more}"
    if settings := report.tried(lambda: task.settings(config, report.folder)):
        report.facts |= settings
        report.notes += task.doubts(config, report.folder)
    record = report.tried(lambda: recorded(report.folder).get("recipe", {})) or {}
    wanted = record.get("serve_max_length") or record.get("max_length", 0)
    longest = report.tried(lambda: longest_row(config, wanted))
    if longest is not None:
        report.facts["row"] = f"{longest} tokens at most"
        if not wanted and (said := agreement.shortened(config, longest, windows=task.windows)):
            report.notes.append(said)
    report.tried(lambda: agreement.check_side(report.folder, windows=task.windows))
    model: PreTrainedModel | None = report.tried(lambda: _without_weights(task, config))
    if model is None:
        return
    report.facts["parameters"] = f"{sum(parameter.numel() for parameter in model.parameters()):,}"
    if shapes is not None:
        report.tried(lambda: _check_shapes(model, shapes))
    report.facts["bundle"] = _bundle(model)


def _of_tokenizer(report: Report, config: Any) -> None:
    backend = report.tried(lambda: load_tokenizer(report.folder))
    if backend is None:
        return
    layout = json.loads(backend.to_str())
    report.facts["tokenizer"] = f"{layout['model']['type']}, {backend.get_vocab_size():,} pieces"
    ids = max(backend.get_vocab().values()) + 1
    if ids > config.vocab_size:
        report.problems.append(f"the tokenizer has ids up to {ids - 1}, the embedding {config.vocab_size} rows")
    try:
        tokenizer = Tokenizer(backend)
    except ValueError as error:
        report.problems.append(str(error))
        return
    report.notes += agreement.differences(config, tokenizer, layout)


def _without_weights(task: tasks.Task[Any, Any], config: Any) -> PreTrainedModel:
    """The model with shapes alone."""
    try:
        with torch.device("meta"):
            model: PreTrainedModel = task.auto.from_config(config)
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"its config makes no model: {' '.join(str(error).split())}") from error
    return model


def _check_shapes(model: PreTrainedModel, shapes: Mapping[str, Shape]) -> None:
    """Raise `CheckpointError` where a weight is missing or has another shape. A bare encoder's have no prefix."""
    prefix = f"{model.base_model_prefix}."
    missing = []
    for name, parameter in model.named_parameters():
        found = shapes.get(name) or shapes.get(name.removeprefix(prefix))
        if found is None:
            missing.append(name)
        elif found.sizes != tuple(parameter.shape):
            raise CheckpointError(
                f"weights do not have the shapes that its config says: {name} is {list(found.sizes)}, and should be "
                f"{list(parameter.shape)}"
            )
    if missing:
        raise CheckpointError(f"weights are missing ({', '.join(missing[:3])}): is it fine-tuned?")


def _weights(paths: Sequence[Path], shapes: Mapping[str, Shape]) -> str:
    size = sum(path.stat().st_size for path in paths)
    kinds: Counter[str] = Counter()
    for shape in shapes.values():
        kinds[shape.kind] += shape.count
    where = paths[0].name if len(paths) == 1 else f"{len(paths)} files, {paths[0].name} and on"
    return f"{_bytes(size)} in {where}, {' and '.join(kind for kind, _ in kinds.most_common(2))}"


def _bundle(model: PreTrainedModel) -> str:
    """How large the graphs' weights will be: int8 keeps matrices in a byte a number and a scale a row, and shares the
    rest with fp32."""
    sizes = [tuple(parameter.shape) for parameter in model.parameters()]
    fp32 = 4 * sum(map(math.prod, sizes))
    int8 = sum(math.prod(size) + 4 * size[0] for size in sizes if len(size) > 1)
    return f"about {_bytes(fp32 + int8)} (fp32 {_bytes(fp32)}, int8 {_bytes(int8)})"


def _bytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB" if count < 1e9 else f"{count / 1e9:,.2f} GB"


def _task(task: tasks.Task[Any, Any]) -> str:
    return f"{task.name}, several labels a text" if task.multi_label else task.name


def _architecture(folder: Path) -> str:
    """What a config says of itself, where no more can be known."""
    try:
        written: Any = json.loads((folder / folders.CONFIG).read_text(encoding="utf-8"))
        named = " ".join(written.get("architectures") or ()) or "no architectures"
        return f"{written.get('model_type') or 'no model_type'} ({named})"
    except (OSError, ValueError, AttributeError, TypeError):
        return "unknown"


def _next(folder: Path, labels: Sequence[str], *, multi_label: bool, has_dev: bool) -> str:
    """The command that exports it."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", folder.resolve().name).strip("-.") or "model"
    words = ["python", "-m", "training", "export", str(folder), f"models/{name}"]
    if labels:
        words += ["--labels", ",".join(labels)]
    if multi_label:
        words.append("--multi-label")
    return shlex.join(words) + ("" if has_dev else " --dev FILE")
