"""What a checkpoint is and whether it can be exported, in seconds: by its config, tokenizer and weights' shapes.

Owns the report. What is wrong with it is said by whoever would say so in an export; of weights no number is read, nor
fetched from a hub, so that what hangs on those (NaN, the gate) an export alone can tell.
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

from service.engine.processor import cpu_quota
from service.engine.tokenizer import Tokenizer
from service.repository.manifest import MANIFEST
from training import folders, tasks
from training.checkpoints.configs import load_config, recorded
from training.checkpoints.source import Source, find
from training.checkpoints.stored import Shape
from training.errors import CheckpointError
from training.export import agreement, heads, speed
from training.export.runner import longest_row
from training.tokenizers.loading import load_tokenizer, own_special

T = TypeVar("T")

SHOWN = 8
"""Most labels or markers that are listed."""


@dataclass
class Report:
    """What was found out, in words.

    Attributes:
        checkpoint: as it was asked for.
        folder: where its files lie.
        facts: by name, in the order to be shown.
        problems: why it cannot be served; empty where it can.
        notes: what is told and stops nothing.
        longest: row in tokens; 0 where it is not known.
        next: the command to type next; empty where a problem says what to do.
    """

    checkpoint: str
    folder: Path
    facts: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    longest: int = 0
    next: str = ""

    def tried(self, step: Callable[[], T]) -> T | None:
        """Return what a step makes; note its refusal as a problem."""
        try:
            return step()
        except CheckpointError as error:
            said = str(error).replace(str(self.folder), self.checkpoint).removeprefix(f"{self.checkpoint}: ")
            if said not in self.problems:
                self.problems.append(said)
            return None


def run(checkpoint: str | Path, labels: Sequence[str] = (), revision: str = "", *, multi_label: bool = False) -> Report:
    """Say what a folder is, or a repository on a hub. Never raises for what is wrong with it: that is in the report.

    Args:
        labels: names of the labels in the order of their ids, as for `export`.
        revision: of the repository.
        multi_label: whether labels do not exclude one another, as for `export`.
    """
    report = Report(str(checkpoint), Path(checkpoint))
    if (report.folder / MANIFEST).is_file():
        report.problems.append("it is a bundle already: serve it, or score it with python -m training evaluate")
        return report
    source = report.tried(lambda: find(checkpoint, revision))
    if source is None:
        return report
    report.folder = source.folder
    if source.commit:
        report.facts["commit"] = source.commit
    report.tried(lambda: folders.check(source.folder))
    if report.problems:
        return report
    config: Any = report.tried(lambda: load_config(source.folder))
    sizes, shapes = report.tried(source.sizes), report.tried(source.shapes)
    if sizes is not None:
        report.facts["weights"] = _weights(sizes, shapes or {})
    if config is None:
        report.facts = {"architecture": _architecture(source.folder), **report.facts}
        return report
    task = tasks.of_config(config, multi_label=multi_label)
    report.facts = {
        "architecture": f"{config.model_type} ({' '.join(config.architectures or ()) or 'no architectures'})",
        "task": _task(task) if task else "none",
        **report.facts,
    }
    report.tried(lambda: heads.check(source, config, multi_label=multi_label))
    if task is not None:
        _of_task(report, task, config, labels, shapes)
    _of_tokenizer(report, config)
    if task and not report.problems:
        report.facts["speed"] = _speed(config, report.longest)
        scored = "" if recorded(source.folder).get("recipe", {}).get("dev") else "; --dev FILE scores them too"
        report.facts["served"] = f"yes, if the gate finds that its graphs answer as it does{scored}"
        report.next = _next(source, labels, revision, multi_label=multi_label)
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
            report.facts["labels"] = f"{len(named)}: {_some(named)}"
    if settings := report.tried(lambda: task.settings(config, report.folder)):
        report.facts |= settings
        report.notes += task.doubts(config, report.folder)
    record = report.tried(lambda: recorded(report.folder).get("recipe", {})) or {}
    wanted = record.get("serve_max_length") or record.get("max_length", 0)
    longest = report.tried(lambda: longest_row(config, wanted))
    if longest is not None:
        report.longest = longest
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
        tokenizer = Tokenizer(backend, own_special(backend))
    except ValueError as error:
        report.problems.append(str(error))
        return
    if tokenizer.markers:
        report.facts["markers"] = f"{_some(tokenizer.markers)}: no plain text where they stand in a text"
    report.tried(lambda: agreement.check_end(report.folder, config, tokenizer))
    report.notes += agreement.differences(config, tokenizer)


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


def _weights(sizes: Mapping[str, int], shapes: Mapping[str, Shape]) -> str:
    """How large the weights' files are, and in what types, where that is known."""
    kinds: Counter[str] = Counter()
    for shape in shapes.values():
        kinds[shape.kind] += shape.count
    first = next(iter(sizes))
    where = first if len(sizes) == 1 else f"{len(sizes)} files, {first} and on"
    types = f", {' and '.join(kind for kind, _ in kinds.most_common(2))}" if kinds else ""
    return f"{_bytes(sum(sizes.values()))} in {where}{types}"


def _bundle(model: PreTrainedModel) -> str:
    """How large the graphs' weights will be: int8 keeps matrices in a byte a number and a scale a row, and shares the
    rest with fp32."""
    sizes = [tuple(parameter.shape) for parameter in model.parameters()]
    fp32 = 4 * sum(map(math.prod, sizes))
    int8 = sum(math.prod(size) + 4 * size[0] for size in sizes if len(size) > 1)
    alone = f"fp32 {_bytes(fp32)}, int8 or w8a16 {_bytes(int8)}, fp16 {_bytes(fp32 // 2)}"
    return f"about {_bytes(fp32 + int8)} of weights, in fp32 and int8 ({alone})"


def _speed(config: Any, longest: int) -> str:
    """How fast the graphs will be here, in the words of an estimate."""
    tokens = min(speed.TOKENS, longest)
    found = speed.rows_per_second(config, tokens)
    shown = ", ".join(f"{precision} {float(f'{rows:.2g}'):g}" for precision, rows in found.items())
    return f"{shown} rows of {tokens} tokens a second on {cpu_quota()} cores here, an estimate from a short measurement"


def _bytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB" if count < 1e9 else f"{count / 1e9:,.2f} GB"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


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


def _next(source: Source, labels: Sequence[str], revision: str, *, multi_label: bool) -> str:
    """The command that exports it."""
    name = source.name if source.commit else source.folder.resolve().name
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", name.rpartition("/")[2]).strip("-.") or "model"
    words = ["python", "-m", "training", "export", source.name, f"models/{name}"]
    if revision:
        words += ["--revision", revision]
    if labels:
        words += ["--labels", ",".join(labels)]
    if multi_label:
        words.append("--multi-label")
    return shlex.join(words)
