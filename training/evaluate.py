"""A task, an engine and labelled examples to scores: through the very encode and decode that production runs.

Owns the loop over batches. Knows nothing of checkpoints; `TorchEngine` lets the same loop score a model in training.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from service.batch import Batch, Encoded, pad
from service.engine import Engine
from service.tasks import ClassificationTask, RowLogits, SpanExample, SpanTask
from training import metrics
from training.data import LabelledText, Question

CHUNK = 2048
"""Examples encoded, run and decoded at a time: bounds memory, and is enough to sort by length."""
BATCH_TOKENS = 4096


class TorchEngine:
    """A torch model behind the service's `Engine`."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self.workers = 1

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
        output = self._model(**arguments)
        outputs = (output.logits,) if "logits" in output else (output.start_logits, output.end_logits)
        return tuple(logits.float().cpu().numpy() for logits in outputs)


def run_rows(engine: Engine, rows: Sequence[Encoded], pad_id: int, batch_tokens: int = BATCH_TOKENS) -> list[RowLogits]:
    """The logits of each row, in order; rows of about the same length run together, `engine.workers` batches at once."""
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


def score(
    task: ClassificationTask | SpanTask,
    engine: Engine,
    pad_id: int,
    examples: Sequence[LabelledText] | Sequence[Question],
    progress: Callable[[int], object] = lambda done: None,
) -> dict[str, float]:
    """Scores of the examples: accuracy, or exact match and F1 (with the task's threshold where some are unanswerable)."""
    if isinstance(task, SpanTask):
        outcomes = answer(task, engine, pad_id, [e for e in examples if isinstance(e, Question)], progress)
        version_2 = any(outcome.question.is_impossible for outcome in outcomes)
        return metrics.squad(outcomes, task.no_answer_threshold if version_2 else None)
    labelled = [e for e in examples if isinstance(e, LabelledText)]
    return dict(metrics.accuracy(classify(task, engine, pad_id, labelled, progress), [e.label for e in labelled]))


def classify(
    task: ClassificationTask,
    engine: Engine,
    pad_id: int,
    examples: Sequence[LabelledText],
    progress: Callable[[int], object] = lambda done: None,
) -> list[str]:
    """The predicted label of each example."""
    inputs = [labelled.example for labelled in examples]
    return [prediction.label for prediction in _predict(task, engine, pad_id, inputs, progress)]


def answer(
    task: SpanTask,
    engine: Engine,
    pad_id: int,
    questions: Sequence[Question],
    progress: Callable[[int], object] = lambda done: None,
) -> list[metrics.SpanOutcome]:
    """The scored answer to each question."""
    version_2 = any(question.is_impossible for question in questions)
    # Without the "no answer" choice here: thresholds are applied, and fitted, on the margins afterwards.
    inputs = [SpanExample(question.question, (question.context,), no_answer=False) for question in questions]
    outcomes = []
    for question, prediction in zip(questions, _predict(task, engine, pad_id, inputs, progress), strict=True):
        text = prediction.answers[0].text if prediction.answers else ""
        outcomes.append(metrics.SpanOutcome.of(question, text, prediction.no_answer_margin, version_2=version_2))
    return outcomes


def _predict(task: Any, engine: Engine, pad_id: int, examples: Sequence[Any], progress: Callable[[int], object]) -> list[Any]:
    predictions: list[Any] = []
    for begin in range(0, len(examples), CHUNK):
        chunk = examples[begin : begin + CHUNK]
        encoded = task.encode(chunk)
        logits = iter(run_rows(engine, [row for rows in encoded for row in rows], pad_id))
        for example, rows in zip(chunk, encoded, strict=True):
            predictions.append(task.decode(example, rows, [next(logits) for _ in rows]))
        progress(len(predictions))
    return predictions
