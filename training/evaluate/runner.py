"""A task, an engine and labelled examples to scores: through the very encode and decode that production runs.

Owns the loop over examples. Knows nothing of checkpoints, nor of what a task's scores are.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from tqdm import tqdm

from service.engine.batch import Encoded
from service.engine.processor import cpu_quota
from service.engine.session import Engine
from service.engine.tokenizer import Tokenizer
from service.repository.bundle import Bundle
from service.repository.manifest import TOKENIZER
from service.repository.opening import open_engine
from service.tasks import RowLogits, build
from training import tasks
from training.data import Report, Table
from training.errors import DataError
from training.evaluate.engine import run_rows
from training.tasks import Labelled, Predictions, Served

logger = logging.getLogger(__name__)

CHUNK = 2048
"""Examples encoded, run and decoded at a time: bounds memory, and is enough to sort by length."""


@dataclass(frozen=True, slots=True)
class Inferred:
    """A labelled example, its rows and their logits: what a task decodes to an answer."""

    reference: Any
    rows: Sequence[Encoded]
    logits: Sequence[RowLogits]


def bundle(
    served: Bundle, path: str, *, limit: int = 0, device: str = "auto", layout: Mapping[str, Any] | None = None
) -> tuple[dict[str, Any], Predictions]:
    """Score a bundle on a labelled file, as it is served: its tokenizer, the device's best graph, its threshold.

    Args:
        layout: see `read`; what it leaves open is as in the bundle's own dev files.

    Returns:
        The scores, with the model, graph and provider that they are of; and the predictions: {question id: text} as the
        official SQuAD scripts read it, or the labels, lists of labels or options' indices in the order of the file.

    Raises:
        BertieError: the bundle cannot run on the device.
        DataError: the file cannot be read or holds a bad record.
    """
    tokenizer = Tokenizer.from_file(served.folder / TOKENIZER, served.manifest.markers)
    task = build(served.manifest, tokenizer)
    examples = read(task, path, limit, {**served.manifest.layout, **(layout or {})})
    engine, graph = open_engine(served, device=device, workers=0, intra_op_threads=0, cores=cpu_quota())
    identity = {"model": served.name, "graph": graph.file, "provider": engine.provider}
    answered = outcomes(task, engine, tokenizer.pad_id, examples, served.name)
    return {**scores(task, answered), **identity}, tasks.of(task).predictions(task, answered)


def outcomes(task: Served, engine: Engine, pad_id: int, examples: Sequence[Labelled], title: str = "dev") -> list[Any]:
    """What came of each example, under a progress bar."""
    answered: list[Any] = []
    judged = tasks.of(task).judge(examples)
    with tqdm(total=len(examples), unit="examples", desc=title) as bar:
        for begin in range(0, len(examples), CHUNK):
            for inferred in infer(task, engine, pad_id, examples[begin : begin + CHUNK]):
                answered.append(judged(inferred.reference, decode(task, inferred)))
            bar.update(len(answered) - bar.n)
    return answered


def scores(task: Served, answered: Sequence[Any]) -> dict[str, float]:
    """Return the task's scores of outcomes, under its threshold."""
    return tasks.of(task).scores(task, answered)


def read(task: Served, path: str, limit: int = 0, layout: Mapping[str, Any] | None = None) -> list[Any]:
    """Read a labelled file.

    Args:
        layout: `data`, as in a recipe (by default what suits the task and its labels), and what a recipe's `table` has.

    Raises:
        DataError: it cannot be read, holds a bad record, or nothing at all; or its layout is of another task.
    """
    columns = dict(layout or {})
    kind = tasks.of(task)
    labels = task.labels if kind.labelled else ()
    data = columns.pop("data", "") or kind.layout(labels)
    if data not in kind.layouts:
        raise DataError(f"{path}: layout {data!r} is of another task than {kind.name}")
    report = Report()
    records = kind.layouts[data](path, report, labels, Table(**columns))
    examples = list(islice(records, limit or None))
    report.check(allow_bad=False)
    if report.set_aside:
        logger.info("%s: %s", path, report.summary())
    if not examples:
        raise DataError(f"{path} holds no example")
    return examples


def infer(task: Served, engine: Engine, pad_id: int, examples: Sequence[Labelled]) -> list[Inferred]:
    """The rows and logits of each example, all in memory: for what is decoded more than once."""
    encoded = task.encode([example.example for example in examples])
    logits = iter(run_rows(engine, [row for rows in encoded for row in rows], pad_id))
    return [
        Inferred(example, rows, [next(logits) for _ in rows]) for example, rows in zip(examples, encoded, strict=True)
    ]


def decode(task: Any, inferred: Inferred) -> Any:
    """The task's prediction."""
    return task.decode(inferred.reference.example, inferred.rows, inferred.logits)
