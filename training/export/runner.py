"""A fine-tuned Hugging Face folder to a bundle that `service` serves, through the gate.

Owns what a bundle needs to know of a checkpoint: task, labels, lengths, tokenizer, threshold, card. The graphs
are `graphs`'.
"""

from __future__ import annotations

import dataclasses
import datetime
import logging
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from transformers import PreTrainedConfig, PreTrainedModel

from service.repository import bundle as bundles
from service.repository import manifest as manifests
from service.repository import versions
from service.repository.files import sha256
from service.repository.golden import GOLDEN
from service.repository.manifest import Graph, Manifest
from service.tasks import TaskSpec, build
from training import files, folders, tasks
from training.checkpoints import weights as pretrained
from training.checkpoints.configs import load_config, max_positions, recorded
from training.checkpoints.source import Source, find
from training.data import records
from training.errors import CheckpointError, DataError, TrainingError, one_line
from training.evaluate import runner as evaluate
from training.export import agreement, card, golden, graphs, heads, measure, own
from training.tokenizers.loading import open_tokenizer

logger = logging.getLogger(__name__)

SHORTEST = 16
"""A bundle's longest row has at least so many tokens: below it, little is left beside the special tokens."""
USUAL = 384
"""A bundle's longest row in tokens, where nobody says and the model has as many positions."""
USUAL_STRIDE = 128
"""Tokens that a bundle's windows share, where nobody says, and at most a quarter of them."""


@dataclass(frozen=True, slots=True)
class Request:
    """What to export, and what the checkpoint does not say of itself. Zero and empty mean: as the checkpoint says."""

    checkpoint: str | Path  # a Hugging Face folder, or a repository's name on a hub
    output: Path  # the bundle's folder; its name is the model's name
    precisions: tuple[str, ...] = ("fp32", "int8")  # graphs to keep, of `graphs.ENCODINGS`
    packed: bool = False  # keep a packed graph too in each of those precisions that suits GPUs
    labels: tuple[str, ...] = ()  # names of the labels in the order of their ids
    multi_label: bool = False  # whether labels do not exclude one another, where the config does not say so
    activation: str = ""  # what a score goes through, `identity` or `sigmoid`
    max_length: int = 0  # longest row in tokens
    doc_stride: int = 0  # overlap of windows in tokens
    dev: tuple[str, ...] = ()  # dev files to score on
    without_dev: bool = False  # leave out the dev files of the recipe that the checkpoint was fine-tuned by
    layout: Mapping[str, str] = dataclasses.field(default_factory=dict)  # of the dev files; see `evaluate.read`
    dev_limit: int = 0  # examples of each dev file, 0 for all
    gate_limit: int = 0  # of those, examples on which int8 is held to fp32 (which takes twice as long), 0 for all
    licence: str = ""  # of the weights
    base_model: str = ""  # what was fine-tuned, for the card
    markers: tuple[str, ...] | None = None  # special tokens that are no plain text in a text; None: all of its own
    revision: str = ""  # of a repository: a branch, a tag or a commit


def run(request: Request) -> Manifest:
    """Builds, gates and writes the bundle; the folder appears whole or not at all. Where there is no dev file, the gate
    goes by the bundle's own examples.

    Raises:
        CheckpointError: the checkpoint cannot be loaded or served rightly; the message says why.
        DataError: a dev file cannot be read.
        GateError: a graph does not answer as the checkpoint does.
        TrainingError: the output exists and is no bundle, or holds versions besides; or a packed graph is asked for and
            no precision for GPUs.
    """
    if request.output.exists() and not (request.output / manifests.MANIFEST).is_file():
        raise TrainingError(f"{request.output} exists and is no bundle: it will not be replaced")
    if any(not each.root for each in versions.list_versions(request.output)):
        raise TrainingError(
            f"{request.output} holds versions, which would go: export to another folder called {request.output.name}, "
            f"and add that: python -m service models add {request.output.name} FOLDER"
        )
    try:  # said now, not after the hour's work
        TypeAdapter(manifests.Name).validate_python(request.output.name)
    except ValueError as error:
        raise TrainingError(f"{request.output.name!r} is no name for a bundle: {one_line(error)}") from error
    packable = graphs.packable(request.precisions) if request.packed else ()
    source = find(request.checkpoint, request.revision)
    with source.named():
        return _export(request, source, packable)


def _export(request: Request, source: Source, packable: Sequence[str]) -> Manifest:
    described = source.described()
    record = recorded(source.folder)
    recipe = record.get("recipe", {})
    dev = request.dev or (() if request.without_dev else _recorded_dev(recipe))
    if len(set(map(records.name, dev))) < len(dev):
        raise DataError(f"two dev files have the same name in the manifest: {', '.join(map(records.name, dev))}")
    model, kind = load_model(source, multi_label=request.multi_label)
    settings = _settings(request, source, model.config, kind)
    labels = kind.labels(model.config, request.labels, recipe.get("labels", ()))
    agreement.check_side(source.folder, windows=kind.windows)
    wanted = request.max_length or recipe.get("serve_max_length") or recipe.get("max_length", 0)
    max_length = longest_row(model.config, wanted)
    if not wanted and (said := agreement.shortened(model.config, max_length, windows=kind.windows)):
        logger.warning("%s: %s", source.name, said)
    doc_stride = request.doc_stride or recipe.get("serve_doc_stride") or recipe.get("doc_stride", 0)
    doc_stride = doc_stride or min(USUAL_STRIDE, max_length // 4)
    if doc_stride < 0:
        raise CheckpointError(f"a doc_stride of {doc_stride} would leave gaps between windows")

    with (
        files.written_aside(request.output, shared=True) as folder,
        tempfile.TemporaryDirectory(prefix=".export-", dir=request.output.parent) as temporary,
    ):
        folder.mkdir()
        file = folder / manifests.TOKENIZER
        tokenizer = open_tokenizer(source.folder, model.config.vocab_size, file, request.markers)
        agreement.check_end(source.folder, model.config, tokenizer)
        for said in agreement.differences(model.config, tokenizer):
            logger.warning("%s: %s", source.name, said)
        if tokenizer.markers:
            logger.info("%s: markers, no plain text in a text: %s", source.name, ", ".join(tokenizer.markers))
        try:
            spec = TaskSpec(
                task=kind.name, max_length=max_length, labels=labels, multi_label=kind.multi_label,
                doc_stride=doc_stride if kind.windows else 0, **settings,
            )  # fmt: skip
            task = build(spec, tokenizer)
        except ValueError as error:
            raise CheckpointError(one_line(error)) from error
        made = graphs.make(model, folder, Path(temporary), request.precisions, packable, max_length)
        layout = {**_layout(recipe), **request.layout}
        examples = {records.name(path): evaluate.read(task, path, request.dev_limit, layout) for path in dev}
        measured = measure.run(task, made.files, tokenizer, examples, request.gate_limit)
        compared = None if dev else own.compare(task, model, made.files, tokenizer.pad_id, file)
        task = measured.task
        kept = {precision: made.files[precision] for precision in request.precisions}
        if rows := golden.make(task, tokenizer, kept, examples, file):
            (folder / GOLDEN).write_text(rows.to_json(), encoding="utf-8")
        data = {**record.get("data", {}), **{path: records.sha256(path) for path in dev}}
        manifest = Manifest(
            **dataclasses.asdict(spec) | kind.fitted(task) | {"temperature": task.temperature},
            format=manifests.FORMAT,
            name=request.output.name,
            architecture=model.config.model_type,
            parameters=sum(parameter.numel() for parameter in model.parameters()),
            graphs=(
                *(Graph(made.files[p].name, p, measured.scores.get(p, {})) for p in request.precisions),
                *(Graph(made.packed[p].name, p, measured.scores.get(p, {}), packed=True) for p in packable),
            ),
            files={path.name: sha256(path) for path in sorted(folder.iterdir())},
            calibration=measured.calibration,
            profile=measured.profile,
            markers=tokenizer.markers,
            checkpoint=f"{source.name}@{source.commit}" if source.commit else "",
            base_model=request.base_model or Path(recipe.get("model", "")).name or _listed(described, "base_model"),
            data={records.name(path): digest for path, digest in data.items()},
            layout=layout,
            licence=request.licence or _listed(described, "license"),
            versions={name: version(name) for name in ("torch", "transformers", "onnx", "onnxruntime", "tokenizers")},
            created=datetime.datetime.now(datetime.UTC).date().isoformat(),
        )
        sizes = {p.name: p.stat().st_size for p in folder.iterdir()}
        pages = card.render(manifest, measured.scores, recipe, sizes, measured.fit, made.halves, compared)
        for name, text in pages.items():
            (folder / name).write_text(text, encoding="utf-8")
            manifest = dataclasses.replace(manifest, files={**manifest.files, name: sha256(folder / name)})
        (folder / manifests.MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
        bundles.load(folder)
    return manifest


def load_model(source: Source, *, multi_label: bool = False) -> tuple[PreTrainedModel, tasks.Task[Any, Any]]:
    """Return the checkpoint's model in eval mode, and its task. Run no code of its own and unpickle nothing. What is
    refused by its config is not fetched.

    Args:
        multi_label: whether its labels do not exclude one another, where its config does not say so.

    Raises:
        CheckpointError: it cannot be loaded, or its head is of no task that can be served.
    """
    folders.check(source.folder)
    config: Any = load_config(source.folder)
    task = heads.check(source, config, multi_label=multi_label)
    if refusal := task.refusal(config):
        raise CheckpointError(f"{source.name}: {refusal}")
    model, missing = pretrained.load(task.auto, source.whole(), config)
    if missing:
        raise CheckpointError(f"{source.name}: weights are missing ({', '.join(missing[:3])}): is it fine-tuned?")
    return model.eval(), task


def longest_row(config: PreTrainedConfig, wanted: int) -> int:
    """Return a bundle's longest row in tokens: as wanted, or what suits the model where 0 is.

    Raises:
        CheckpointError: the model has not so many positions, or the row would be too short to serve.
    """
    positions = max_positions(config)
    if wanted > positions:
        raise CheckpointError(f"a max_length of {wanted} is more than the model's {positions} positions")
    if wanted and wanted < SHORTEST:
        raise CheckpointError(f"a max_length of {wanted} is less than {SHORTEST}")
    return wanted or min(positions, USUAL)


def _settings(request: Request, source: Source, config: PreTrainedConfig, kind: tasks.Task[Any, Any]) -> dict[str, Any]:
    """What the service must know of the task beside its labels, as is asked, or as the checkpoint says."""
    if request.activation:
        if kind.name != "score":
            raise CheckpointError(f"--activation is of a model with one label, and its task is {kind.name}")
        return {"activation": request.activation}
    for said in kind.doubts(config, source.folder):
        logger.warning("%s: %s", source.name, said)
    return kind.settings(config, source.folder)


def _listed(described: Mapping[str, Any], key: str) -> str:
    """What a card's front matter says of a key: one name or several."""
    said = described.get(key) or ""
    return ", ".join(map(str, said)) if isinstance(said, list) else str(said)


def _recorded_dev(recipe: Mapping[str, Any]) -> tuple[str, ...]:
    """The recipe's dev files; it had but one, as a string, in earlier versions."""
    dev = recipe.get("dev", ())
    return (dev,) if isinstance(dev, str) else tuple(dev)


def _layout(recipe: Mapping[str, Any]) -> dict[str, str]:
    """How the recipe's data are laid out; empty without one."""
    if not recipe.get("data"):
        return {}
    return {"data": recipe["data"], **(recipe.get("table", {}) if recipe["data"] == "table" else {})}
