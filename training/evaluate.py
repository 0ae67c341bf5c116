"""A task, an engine and labelled examples to scores: through the very encode and decode that production runs.

Owns the loop over batches. Knows nothing of checkpoints; `TorchEngine` lets the same loop score a model in training.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm
from transformers import PreTrainedModel

from service import bundle as bundles
from service.batch import Batch, Encoded, pad
from service.bundle import Bundle
from service.engine import Engine, open_engine
from service.predict import make_task
from service.settings import cpu_quota
from service.tasks import ClassificationTask, RowLogits, SpanExample, SpanTask
from service.tokenizer import Tokenizer
from training import metrics
from training.data import LabelledText, Question, Report, read_nli, read_squad, read_sst2
from training.errors import DataError

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


def bundle(
    served: Bundle, path: str, *, limit: int = 0, device: str = "auto"
) -> tuple[dict[str, Any], dict[str, str] | list[str]]:
    """Scores a bundle on a labelled file, as it is served: its tokenizer, the device's best graph, its threshold.

    Returns:
        The scores, with the model, graph and provider that they are of; and the predictions: {question id: text} as the
        official SQuAD scripts read it, or the labels in the order of the file.

    Raises:
        BertieError: the bundle cannot run on the device.
        DataError: the file cannot be read or holds a bad record.
    """
    tokenizer = Tokenizer.from_file(served.folder / bundles.TOKENIZER)
    task = make_task(served, tokenizer)
    examples = read(task, path, limit)
    engine, graph = open_engine(served, device=device, workers=0, intra_op_threads=0, cores=cpu_quota())
    identity = {"model": served.name, "graph": graph.file, "provider": engine.provider}
    with tqdm(total=len(examples), unit="examples", desc=served.name) as bar:

        def progress(done: int) -> None:
            bar.update(done - bar.n)

        if isinstance(task, SpanTask):
            questions = [e for e in examples if isinstance(e, Question)]
            outcomes = answer(task, engine, tokenizer.pad_id, questions, progress)
            scores = squad_scores(task, outcomes)
            threshold = _threshold(task, outcomes)
            texts = {o.question.id: "" if o.margin > threshold else o.text for o in outcomes}
            return {**scores, **identity}, texts
        labelled = [e for e in examples if isinstance(e, LabelledText)]
        predicted = classify(task, engine, tokenizer.pad_id, labelled, progress)
        return {**metrics.accuracy(predicted, [e.label for e in labelled]), **identity}, predicted


def score(
    task: ClassificationTask | SpanTask,
    engine: Engine,
    pad_id: int,
    examples: Sequence[LabelledText] | Sequence[Question],
) -> dict[str, float]:
    """Scores of the examples: accuracy, or exact match and F1, with the threshold where some are unanswerable."""
    if isinstance(task, SpanTask):
        return squad_scores(task, answer(task, engine, pad_id, [e for e in examples if isinstance(e, Question)]))
    labelled = [e for e in examples if isinstance(e, LabelledText)]
    return metrics.accuracy(classify(task, engine, pad_id, labelled), [e.label for e in labelled])


def squad_scores(task: SpanTask, outcomes: Sequence[metrics.SpanOutcome]) -> dict[str, float]:
    """SQuAD's scores: with the task's threshold where some questions are unanswerable, else with an answer to each."""
    return metrics.squad(outcomes, _threshold(task, outcomes))


def read(task: ClassificationTask | SpanTask, path: str, limit: int = 0) -> list[LabelledText] | list[Question]:
    """Reads a labelled file in the layout that suits the task: SQuAD's, SST-2's, or NLI's.

    Raises:
        DataError: it cannot be read, holds a bad record, or nothing at all.
    """
    report = Report()
    examples: list[LabelledText] | list[Question]
    if isinstance(task, SpanTask):
        examples = list(islice(read_squad(path, report), limit or None))
    else:
        reader = read_nli if "entailment" in task.labels else read_sst2
        examples = list(islice(reader(path, task.labels, report), limit or None))
    report.check(allow_bad=False)
    if not examples:
        raise DataError(f"{path} holds no example")
    return examples


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


def _threshold(task: SpanTask, outcomes: Sequence[metrics.SpanOutcome]) -> float:
    """The margin over which "no answer" is taken; never, where every question has an answer (SQuAD 1.1)."""
    return task.no_answer_threshold if any(o.question.is_impossible for o in outcomes) else float("inf")


def _predict(
    task: Any, engine: Engine, pad_id: int, examples: Sequence[Any], progress: Callable[[int], object]
) -> list[Any]:
    predictions: list[Any] = []
    for begin in range(0, len(examples), CHUNK):
        chunk = examples[begin : begin + CHUNK]
        encoded = task.encode(chunk)
        logits = iter(run_rows(engine, [row for rows in encoded for row in rows], pad_id))
        for example, rows in zip(chunk, encoded, strict=True):
            predictions.append(task.decode(example, rows, [next(logits) for _ in rows]))
        progress(len(predictions))
    return predictions
