"""A task, an engine and labelled examples to scores: through the very encode and decode that production runs.

Owns the loop over batches. Knows nothing of checkpoints; `TorchEngine` lets the same loop score a model in training.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm
from transformers import PreTrainedModel

from service.engine.batch import Batch, Encoded, pad
from service.engine.session import Engine, open_engine
from service.engine.tokenizer import Tokenizer
from service.predictor import make_task
from service.repository import bundle as bundles
from service.repository.bundle import Bundle
from service.settings import cpu_quota
from service.tasks import ClassificationTask, MultiLabelTask, MultipleChoiceTask, RowLogits, SpanTask
from service.tasks.spec import ServedTask
from training.data import LAYOUTS, ChoiceQuestion, Labelled, LabelledText, Layout, Question, Report, Table, TaggedText
from training.data import read as read_data
from training.errors import DataError
from training.tasks import metrics

logger = logging.getLogger(__name__)

CHUNK = 2048
"""Examples encoded, run and decoded at a time: bounds memory, and is enough to sort by length."""
BATCH_TOKENS = 4096
LAYOUT_OF_LABELS: Mapping[frozenset[str], Layout] = {
    frozenset({"entailment", "neutral", "contradiction"}): "nli",
    frozenset({"negative", "positive"}): "sst2",
}
"""What data with these labels comes in, unless somebody says otherwise."""


class TorchEngine:
    """A torch model behind the service's `Engine`.

    Args:
        precision: `fp32`, or `bf16` autocast.
    """

    def __init__(self, model: PreTrainedModel, precision: str = "fp32") -> None:
        self._model = model
        self._bf16 = precision == "bf16"
        self._choice = type(model).__name__.endswith("ForMultipleChoice")
        self.workers = 1
        self.background = 0

    @torch.inference_mode()
    def run(self, batch: Batch) -> tuple[NDArray[np.float32], ...]:
        """Row logits, as the exported graph gives them."""
        device = self._model.device
        arguments = {
            "input_ids": torch.from_numpy(batch.input_ids).to(device),
            "attention_mask": torch.from_numpy(batch.attention_mask).to(device),
        }
        if getattr(self._model.config, "type_vocab_size", 0) > 1:
            arguments["token_type_ids"] = torch.from_numpy(batch.token_type_ids).to(device)
        if self._choice:  # it takes [questions, options, tokens]; here each row is a question with one option
            arguments = {name: rows.unsqueeze(1) for name, rows in arguments.items()}
        with torch.autocast(device.type, torch.bfloat16, enabled=self._bf16):
            output = self._model(**arguments)
        outputs = (output.logits,) if "logits" in output else (output.start_logits, output.end_logits)
        return tuple(logits.float().cpu().numpy() for logits in outputs)


def run_rows(engine: Engine, rows: Sequence[Encoded], pad_id: int, batch_tokens: int = BATCH_TOKENS) -> list[RowLogits]:
    """The logits of each row, in order; rows of like length run together, `engine.workers` batches at once."""
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i]))
    batches: list[list[int]] = []
    for i in order:
        if batches and len(rows[batches[-1][0]]) * (len(batches[-1]) + 1) <= batch_tokens:
            batches[-1].append(i)
        else:
            batches.append([i])
    logits: list[RowLogits] = [()] * len(rows)

    def run(batch: list[int]) -> None:
        outputs = engine.run(pad([rows[i] for i in batch], pad_id))
        for position, i in enumerate(batch):
            logits[i] = tuple(output[position] for output in outputs)

    with ThreadPoolExecutor(engine.workers) as pool:
        list(pool.map(run, batches))
    return logits


@dataclass(frozen=True, slots=True)
class LabelOutcome:
    """A text's label and the one that was predicted."""

    label: str
    predicted: str


Outcome = LabelOutcome | metrics.TagOutcome | metrics.SpanOutcome | metrics.ChoiceOutcome
Predictions = dict[str, str] | list[str] | list[list[str]] | list[int]


@dataclass(frozen=True, slots=True)
class Inferred:
    """A labelled example, its rows and their logits: what a task decodes to an answer."""

    reference: Labelled
    rows: Sequence[Encoded]
    logits: Sequence[RowLogits]


def bundle(
    served: Bundle, path: str, *, limit: int = 0, device: str = "auto", layout: Mapping[str, Any] | None = None
) -> tuple[dict[str, Any], Predictions]:
    """Scores a bundle on a labelled file, as it is served: its tokenizer, the device's best graph, its threshold.

    Args:
        layout: see `read`; what it leaves open is as in the bundle's own dev files.

    Returns:
        The scores, with the model, graph and provider that they are of; and the predictions: {question id: text} as the
        official SQuAD scripts read it, or the labels, lists of labels or options' indices in the order of the file.

    Raises:
        BertieError: the bundle cannot run on the device.
        DataError: the file cannot be read or holds a bad record.
    """
    tokenizer = Tokenizer.from_file(served.folder / bundles.TOKENIZER)
    task = make_task(served, tokenizer)
    examples = read(task, path, limit, {**served.manifest.layout, **(layout or {})})
    engine, graph = open_engine(served, device=device, workers=0, intra_op_threads=0, cores=cpu_quota())
    identity = {"model": served.name, "graph": graph.file, "provider": engine.provider}
    answered = outcomes(task, engine, tokenizer.pad_id, examples, served.name)
    return {**scores(task, answered), **identity}, predictions(task, answered)


def score(
    task: ServedTask,
    engine: Engine,
    pad_id: int,
    examples: Sequence[Labelled],
    title: str = "dev",
) -> dict[str, float]:
    """Scores of the examples: accuracy, or exact match and F1, with the threshold where some are unanswerable."""
    return scores(task, outcomes(task, engine, pad_id, examples, title))


def outcomes(
    task: ServedTask,
    engine: Engine,
    pad_id: int,
    examples: Sequence[Labelled],
    title: str = "dev",
) -> list[Outcome]:
    """What came of each example, under a progress bar."""
    answered: list[Outcome] = []
    version_2 = any(isinstance(example, Question) and example.is_impossible for example in examples)
    with tqdm(total=len(examples), unit="examples", desc=title) as bar:
        for begin in range(0, len(examples), CHUNK):
            for inferred in infer(task, engine, pad_id, examples[begin : begin + CHUNK]):
                answered.append(_outcome(inferred.reference, decode(task, inferred), version_2))
            bar.update(len(answered) - bar.n)
    return answered


def scores(task: ServedTask, answered: Sequence[Outcome]) -> dict[str, float]:
    """Accuracy; F1 of several labels; or SQuAD's scores, with the task's threshold where some questions are
    unanswerable, else with an answer to each."""
    if isinstance(task, MultipleChoiceTask):
        return metrics.multiple_choice([o for o in answered if isinstance(o, metrics.ChoiceOutcome)])
    if isinstance(task, MultiLabelTask):
        return metrics.multi_label([o for o in answered if isinstance(o, metrics.TagOutcome)], task.threshold)
    if isinstance(task, SpanTask):
        spans = [o for o in answered if isinstance(o, metrics.SpanOutcome)]
        return metrics.squad(spans, _threshold(task, spans))
    labels = [o for o in answered if isinstance(o, LabelOutcome)]
    return metrics.accuracy([o.predicted for o in labels], [o.label for o in labels])


def predictions(task: ServedTask, answered: Sequence[Outcome]) -> Predictions:
    """{question id: text} as the official SQuAD scripts read it, or the labels or options in order."""
    if isinstance(task, MultipleChoiceTask):
        return [o.option for o in answered if isinstance(o, metrics.ChoiceOutcome)]
    if isinstance(task, MultiLabelTask):
        tags = [o for o in answered if isinstance(o, metrics.TagOutcome)]
        return [[label for label, score in o.scores.items() if score > task.threshold] for o in tags]
    if isinstance(task, SpanTask):
        spans = [o for o in answered if isinstance(o, metrics.SpanOutcome)]
        threshold = _threshold(task, spans)
        return {o.question.id: "" if o.margin > threshold else o.text for o in spans}
    return [o.predicted for o in answered if isinstance(o, LabelOutcome)]


def read(task: ServedTask, path: str, limit: int = 0, layout: Mapping[str, Any] | None = None) -> list[Labelled]:
    """Reads a labelled file.

    Args:
        layout: `data`, as in a recipe (by default what suits the task and its labels), and what a recipe's `table` has.

    Raises:
        DataError: it cannot be read, holds a bad record, or nothing at all; or its layout is of another task.
    """
    columns = dict(layout or {})
    kind = _kind(task)
    data: Layout = columns.pop("data", "") or _layout(task)
    if data not in LAYOUTS[kind]:
        raise DataError(f"{path}: layout {data!r} is of another task than {kind}")
    labels = task.labels if isinstance(task, ClassificationTask) else ()
    multi_label = isinstance(task, MultiLabelTask)
    report = Report()
    records = read_data(path, data, report, labels=labels, table=Table(**columns), multi_label=multi_label)
    examples = list(islice(records, limit or None))
    report.check(allow_bad=False)
    if report.set_aside:
        logger.info("%s: %s", path, report.summary())
    if not examples:
        raise DataError(f"{path} holds no example")
    return examples


def _kind(task: ServedTask) -> str:
    if isinstance(task, SpanTask):
        return "span"
    return "multiple_choice" if isinstance(task, MultipleChoiceTask) else "classification"


def _layout(task: ServedTask) -> Layout:
    """The layout that suits the task and its labels."""
    if not isinstance(task, ClassificationTask):
        return "squad" if isinstance(task, SpanTask) else "race"
    return "table" if isinstance(task, MultiLabelTask) else LAYOUT_OF_LABELS.get(frozenset(task.labels), "table")


def _threshold(task: SpanTask, outcomes: Sequence[metrics.SpanOutcome]) -> float:
    """The margin over which "no answer" is taken; never, where every question has an answer (SQuAD 1.1)."""
    return task.no_answer_threshold if any(o.question.is_impossible for o in outcomes) else float("inf")


def infer(task: ServedTask, engine: Engine, pad_id: int, examples: Sequence[Labelled]) -> list[Inferred]:
    """The rows and logits of each example, all in memory: for what is decoded more than once."""
    task_: Any = task
    encoded = task_.encode([example.example for example in examples])
    logits = iter(run_rows(engine, [row for rows in encoded for row in rows], pad_id))
    return [
        Inferred(example, rows, [next(logits) for _ in rows]) for example, rows in zip(examples, encoded, strict=True)
    ]


def decode(task: Any, inferred: Inferred) -> Any:
    """The task's prediction."""
    return task.decode(inferred.reference.example, inferred.rows, inferred.logits)


def _outcome(reference: Labelled, prediction: Any, version_2: bool) -> Outcome:
    if isinstance(reference, LabelledText):
        return LabelOutcome(reference.label, prediction.label)
    if isinstance(reference, TaggedText):
        return metrics.TagOutcome(reference, prediction.scores)
    if isinstance(reference, ChoiceQuestion):
        return metrics.ChoiceOutcome(reference, prediction.answer.option, prediction.truncated)
    text = prediction.answers[0].text if prediction.answers else ""
    return metrics.SpanOutcome.of(reference, text, prediction.no_answer_margin, version_2=version_2)
