"""A fine-tuned Hugging Face folder to a bundle that `service` serves, through the gate.

Owns what a bundle needs to know of a checkpoint: task, labels, lengths, tokenizer, threshold, card. The graph is
`training.graph`'s, the checks are `training.gate`'s.
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json
import logging
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    PreTrainedModel,
)

from service import bundle as bundles
from service.bundle import Graph, Manifest
from service.engine import OrtEngine
from service.settings import cpu_quota
from service.tasks import ClassificationTask, SpanTask
from service.tokenizer import Tokenizer
from training import card, evaluate, gate, graph, metrics, quantize
from training.data import LabelledText, Question
from training.data.records import sha256
from training.errors import CheckpointError, DataError, TrainingError
from training.finetune import RECIPE_FILE, load_tokenizer, max_positions

logger = logging.getLogger(__name__)

ENCODINGS: Mapping[str, quantize.Encoding] = {
    "fp32": quantize.FLOAT32,
    "fp16": quantize.FLOAT16,
    "int8": quantize.INT8,
}
KNOWN_LABELS = (
    frozenset({"positive", "negative"}),
    frozenset({"positive", "neutral", "negative"}),
    frozenset({"entailment", "neutral", "contradiction"}),
    frozenset({"entailment", "not_entailment"}),
)

UNNAMED = re.compile(r"((label|class)[ _-]?)?\d+", re.IGNORECASE)
"""Labels that say nothing but their number."""
SHORTEST = 16
"""A bundle's longest row has at least so many tokens: below it, little is left beside the special tokens."""


@dataclass(frozen=True, slots=True)
class Request:
    """What to export, and what the checkpoint does not say of itself. Zero and empty mean: as the checkpoint says.

    Attributes:
        checkpoint: a Hugging Face folder with safetensors.
        output: the bundle's folder; its name is the model's name.
        precisions: graphs to keep, of fp32, fp16, int8.
        labels: names of the labels in the order of their ids.
        max_length: longest row in tokens.
        doc_stride: overlap of windows in tokens.
        dev: dev files to score on.
        without_dev: export without a dev file, the recipe's included, so that no score is gated.
        dev_limit: examples of each dev file, 0 for all.
        licence: of the weights.
        base_model: what was fine-tuned, for the card.
    """

    checkpoint: Path
    output: Path
    precisions: tuple[str, ...] = ("fp32", "int8")
    labels: tuple[str, ...] = ()
    max_length: int = 0
    doc_stride: int = 0
    dev: tuple[str, ...] = ()
    without_dev: bool = False
    dev_limit: int = 0
    licence: str = ""
    base_model: str = ""


def run(request: Request) -> Manifest:
    """Builds, gates and writes the bundle; the folder appears whole or not at all.

    Raises:
        CheckpointError: the checkpoint cannot be loaded or served rightly; the message says why.
        DataError: a dev file cannot be read, or there is none.
        GateError: a graph does not answer as the checkpoint does.
        TrainingError: the output exists and is no bundle.
    """
    if request.output.exists() and not (request.output / bundles.MANIFEST).is_file():
        raise TrainingError(f"{request.output} exists and is no bundle: it will not be replaced")
    recorded = _recorded(request.checkpoint)
    recipe = recorded.get("recipe", {})
    dev = request.dev or ((recipe["dev"],) if recipe.get("dev") and not request.without_dev else ())
    if len(set(map(_name, dev))) < len(dev):
        raise DataError(f"two dev files have the same name in the manifest: {', '.join(map(_name, dev))}")
    if not dev and not request.without_dev:
        raise DataError("no dev file to gate the graphs on: name one with --dev, or say --without-dev")
    model, task_name = load_model(request.checkpoint)
    labels = _labels(model, request.labels) if task_name == "classification" else ()
    max_length = _max_length(model, request.max_length or recipe.get("serve_max_length") or recipe.get("max_length", 0))
    doc_stride = request.doc_stride or recipe.get("serve_doc_stride") or recipe.get("doc_stride", 0) or 128

    with tempfile.TemporaryDirectory(prefix=".export-", dir=_parent(request.output)) as temporary:
        folder = Path(temporary) / request.output.name
        folder.mkdir()
        tokenizer = _write_tokenizer(request.checkpoint, model, folder)
        task = _task(task_name, tokenizer, labels, max_length, doc_stride)
        # The gate wants the fp32 graph, whether or not the bundle keeps it.
        files = {p: folder / f"model.{p}.onnx" for p in ("fp32", *request.precisions)}
        for precision, path in files.items():
            proto = graph.build(model, encoding=ENCODINGS[precision])
            gate.attention(model, proto)
            onnx.save(proto, path)
            logger.info("%s: %.1f MB", path.name, path.stat().st_size / 1e6)
        logger.info("fp32 logits within %.1e of torch's", gate.parity(model, files["fp32"], max_length))

        examples = {_name(path): evaluate.read(task, path, request.dev_limit) for path in dev}
        scored, task = _scores(task, tokenizer, files, examples)
        for precision, scores in scored.items():
            if precision != "fp32":
                gate.scores(scored["fp32"], scores, precision)
        if "fp32" not in request.precisions:
            files["fp32"].unlink()

        span = task if isinstance(task, SpanTask) else None
        manifest = Manifest(
            format=bundles.FORMAT,
            name=request.output.name,
            task=task_name,
            architecture=model.config.model_type,
            parameters=sum(parameter.numel() for parameter in model.parameters()),
            max_length=max_length,
            graphs=tuple(Graph(files[p].name, p, scored.get(p, {})) for p in request.precisions),
            files={path.name: _sha256(path) for path in sorted(folder.iterdir())},
            labels=labels,
            doc_stride=doc_stride if span else 0,
            no_answer=span.no_answer if span else False,
            no_answer_threshold=span.no_answer_threshold if span else 0.0,
            base_model=request.base_model or Path(recipe.get("model", "")).name,
            data={_name(path): digest for path, digest in _data(recorded, dev).items()},
            licence=request.licence,
            versions={name: version(name) for name in ("torch", "transformers", "onnx", "onnxruntime", "tokenizers")},
            created=datetime.datetime.now(datetime.UTC).date().isoformat(),
        )
        text = card.render(manifest, scored, recipe, {p.name: p.stat().st_size for p in folder.iterdir()})
        (folder / "README.md").write_text(text, encoding="utf-8")
        manifest = dataclasses.replace(manifest, files={**manifest.files, "README.md": _sha256(folder / "README.md")})
        (folder / bundles.MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
        bundles.load(folder)
        if request.output.exists():
            request.output.rename(Path(temporary) / ".replaced")
        folder.rename(request.output)
    return manifest


def load_model(checkpoint: Path) -> tuple[PreTrainedModel, str]:
    """The checkpoint's model in eval mode, and its task. Runs no code of the checkpoint's own and unpickles nothing.

    Raises:
        CheckpointError: it cannot be loaded, or its head is of no task that can be served.
    """
    if not checkpoint.is_dir():
        raise CheckpointError(f"{checkpoint} is no folder")
    try:
        config = AutoConfig.from_pretrained(checkpoint, trust_remote_code=False)
        graph.check(config)
        heads = " ".join(config.architectures or ())
        if "ForQuestionAnswering" in heads:
            auto: Any = AutoModelForQuestionAnswering
            task = "span"
        elif "ForSequenceClassification" in heads:
            auto, task = AutoModelForSequenceClassification, "classification"
        else:
            raise CheckpointError(f"{checkpoint}: {heads or 'a config without architectures'} has no head to serve")
        model, loading = auto.from_pretrained(
            checkpoint, config=config, trust_remote_code=False, use_safetensors=True, output_loading_info=True
        )
    except RuntimeError as error:
        raise CheckpointError(f"{checkpoint}: its weights do not have the shapes that its config says") from error
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"{checkpoint}: {error}") from error
    if loading["missing_keys"]:
        raise CheckpointError(
            f"{checkpoint}: weights are missing ({', '.join(sorted(loading['missing_keys'])[:3])}): is it fine-tuned?"
        )
    if task == "classification" and getattr(config, "problem_type", None) not in (None, "single_label_classification"):
        raise CheckpointError(f"{checkpoint}: problem_type {config.problem_type!r} cannot be served")
    result: PreTrainedModel = model.eval()
    return result, task


def _scores(
    task: ClassificationTask | SpanTask,
    tokenizer: Tokenizer,
    files: Mapping[str, Path],
    examples: Mapping[str, Sequence[LabelledText] | Sequence[Question]],
) -> tuple[dict[str, dict[str, dict[str, float]]], ClassificationTask | SpanTask]:
    """Scores by precision and data set, and the task with its threshold fitted on the graph that CPUs will run.

    fp16 is for GPUs; its scores are measured where one is at hand, by `evaluate`.
    """
    engines = {
        precision: OrtEngine(path, provider="cpu", precision=precision, workers=cpu_quota(), intra_op_threads=1)
        for precision, path in files.items()
        if precision != "fp16"
    }
    if isinstance(task, ClassificationTask):
        return {
            precision: {name: evaluate.score(task, engine, tokenizer.pad_id, dev) for name, dev in examples.items()}
            for precision, engine in engines.items()
        }, task
    outcomes = {
        precision: {
            name: evaluate.answer(task, engine, tokenizer.pad_id, [e for e in dev if isinstance(e, Question)])
            for name, dev in examples.items()
        }
        for precision, engine in engines.items()
    }
    fitted = next(p for p in ("int8", "fp32") if p in outcomes)
    unanswerable = [o for o in outcomes[fitted].values() if any(outcome.question.is_impossible for outcome in o)]
    if unanswerable:
        threshold = metrics.best_threshold([outcome for o in unanswerable for outcome in o])
        task = task.with_no_answer(threshold)
    return {
        precision: {name: evaluate.squad_scores(task, o) for name, o in by_name.items()}
        for precision, by_name in outcomes.items()
    }, task


def _task(
    name: str, tokenizer: Tokenizer, labels: tuple[str, ...], max_length: int, doc_stride: int
) -> ClassificationTask | SpanTask:
    if name == "span":
        if doc_stride < 0:
            raise CheckpointError(f"a doc_stride of {doc_stride} would leave gaps between windows")
        try:
            return SpanTask(tokenizer, max_length=max_length, doc_stride=doc_stride)
        except ValueError as error:
            raise CheckpointError(str(error)) from error
    return ClassificationTask(tokenizer, labels, max_length)


def _labels(model: PreTrainedModel, given: tuple[str, ...]) -> tuple[str, ...]:
    """The labels in the order of their ids; the well-known ones in lower case."""
    config: Any = model.config
    count = config.num_labels
    labels = given or tuple(str(config.id2label[i]) for i in range(count))
    if len(labels) != count:
        raise CheckpointError(f"--labels names {len(labels)} labels, the model has {count}")
    if len(set(labels)) < count:
        raise CheckpointError(f"two labels have the same name: {', '.join(labels)}")
    if any(UNNAMED.fullmatch(label) for label in labels):
        raise CheckpointError(
            f"the checkpoint's labels are {', '.join(labels)}: which is which cannot be known; name them in "
            f"the order of their ids, e.g. --labels {'negative,positive' if count == 2 else 'entailment,neutral,...'}"
        )
    lowered = tuple(label.lower() for label in labels)
    return lowered if frozenset(lowered) in KNOWN_LABELS else labels


def _max_length(model: PreTrainedModel, wanted: int) -> int:
    positions = max_positions(model.config)
    if wanted > positions:
        raise CheckpointError(f"a max_length of {wanted} is more than the model's {positions} positions")
    if wanted and wanted < SHORTEST:
        raise CheckpointError(f"a max_length of {wanted} is less than {SHORTEST}")
    return wanted or min(positions, 384)


def _write_tokenizer(checkpoint: Path, model: PreTrainedModel, folder: Path) -> Tokenizer:
    backend = load_tokenizer(checkpoint)
    backend.no_truncation()
    backend.no_padding()
    backend.save(str(folder / bundles.TOKENIZER))
    ids = max(backend.get_vocab().values()) + 1  # not their number: a vocabulary may have gaps
    if ids > model.config.vocab_size:
        raise CheckpointError(
            f"{checkpoint}: the tokenizer has ids up to {ids - 1}, the embedding {model.config.vocab_size} rows"
        )
    try:
        return Tokenizer.from_file(folder / bundles.TOKENIZER)
    except ValueError as error:
        raise CheckpointError(f"{checkpoint}: {error}") from error


def _recorded(checkpoint: Path) -> dict[str, Any]:
    """What `finetune` wrote beside the weights; empty for a checkpoint of another origin."""
    path = checkpoint / RECIPE_FILE
    try:
        recorded: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: {error}") from error
    return recorded


def _data(recorded: Mapping[str, Any], dev: Sequence[str]) -> dict[str, str | None]:
    return {**recorded.get("data", {}), **{path: sha256(path) for path in dev}}


def _name(path: str) -> str:
    """A data file's name in manifests: its folder and its name, without the compression's suffix."""
    parts = Path(path).parts[-2:]
    return "/".join(parts).removesuffix(".xz").removesuffix(".gz")


def _parent(output: Path) -> Path:
    output.parent.mkdir(parents=True, exist_ok=True)
    return output.parent


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
