"""What a batch holds, and what becomes of it. Knows nothing of threads and turns."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from service.engine.batch import PADDING, Batch, RowLogits, pad, row_logits
from service.engine.session import Engine, Outputs
from service.errors import BertieError, InferenceError
from service.metrics import Metrics
from service.scheduler.queue import BatchRun, Job, Waiting

logger = logging.getLogger(__name__)

Result = RowLogits | BertieError


def compose(rows: Sequence[Waiting], most_rows: int, most_tokens: int) -> list[Waiting]:
    """Choose the rows of a batch: the first one, and those nearest to it in length, so that little is padding.

    Args:
        most_tokens: of the batch, padding included; a longer row is a batch by itself.
    """
    first, *others = rows
    others.sort(key=lambda waiting: abs(len(waiting.row) - len(first.row)))
    chosen, longest, total = [first], len(first.row), len(first.row)
    for waiting in others[: most_rows - 1]:
        tokens = len(waiting.row)
        padded = max(longest, tokens) * (len(chosen) + 1)
        if padded > most_tokens or total + tokens < (1 - PADDING) * padded:
            break
        chosen.append(waiting)
        longest, total = max(longest, tokens), total + tokens
    return chosen


def run(rows: Sequence[Waiting], engine: Engine, metrics: Metrics | None) -> list[Result]:
    """Run a batch; get each row's logits. Where it fails, each row runs again alone: only the guilty one fails.

    Args:
        metrics: where it is observed, if anywhere.
    """
    runner = rows[0].job.runner
    try:
        batch = pad([waiting.row for waiting in rows], runner.pad_id)
        if metrics is not None:
            metrics.observe_batch(runner.name, len(rows), batch.input_ids.size, batch.padding_ratio)
        outputs = engine.run(batch)
        if any(len(output) != len(rows) for output in outputs):
            raise ValueError(f"{[len(output) for output in outputs]} rows came back of {len(rows)}")
    except Exception as cause:
        if len(rows) > 1:
            logger.warning("a batch of %d rows failed on model %r; each row runs again alone", len(rows), runner.name)
            return [result for row in rows for result in run([row], engine, metrics)]
        logger.exception("a row failed on model %r", runner.name)
        error = InferenceError("the engine failed on this input")
        error.__cause__ = cause
        return [error]
    if all(np.isfinite(output).all() for output in outputs):
        return [tuple(output[position] for output in outputs) for position in range(len(rows))]
    return [_row(outputs, batch, position) for position in range(len(rows))]


def deliver(rows: Sequence[Waiting], results: Sequence[Result], ran: BatchRun) -> None:
    """Give each row its logits, and complete the jobs that miss none. Call it on the jobs' event loop."""
    for (job, place, _), result in zip(rows, results, strict=True):
        if isinstance(result, BertieError):
            fail(job, result)
        else:
            job.logits[place] = result
            job.missing -= 1
            if ran not in job.batches[-1:]:
                job.batches.append(ran)
            job.ended = max(job.ended, ran.ended)  # word of several batches comes in any order
            if not job.missing and not job.future.done():
                job.future.set_result(None)


def fail(job: Job, error: BertieError) -> None:
    """Give a job an error, unless it is done. Call it on the job's event loop."""
    if not job.future.done():
        job.future.set_exception(error)
        job.future.exception()  # the client may be gone: an exception that nobody asks for is no news


def _row(outputs: Outputs, batch: Batch, position: int) -> Result:
    try:
        return row_logits(outputs, batch, position)
    except InferenceError as error:
        return error
