"""Bundles called in this process, without a server: the arguments and answers of transformers' pipelines.

Owns the forms of calls and answers, a file a pipeline, and the batches (`model`). Knows nothing of HTTP. Defaults are
the pipelines', but for windows, which are the bundle's.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from service import tasks
from service.engine.processor import cpu_quota
from service.inprocess.model import Model
from service.inprocess.multiple_choice import MultipleChoice
from service.inprocess.pipeline import Pipeline
from service.inprocess.question_answering import QuestionAnswering
from service.inprocess.scoring import Scoring
from service.inprocess.text_classification import TextClassification
from service.repository import bundle as bundles
from service.repository.loading import BATCH_TOKENS, open_task, warm_up
from service.repository.opening import open_engine

__all__ = ["PIPELINES", "Model", "Pipeline", "load"]

PIPELINES: Mapping[str, type[Pipeline]] = {
    "classification": TextClassification,
    "multiple_choice": MultipleChoice,
    "score": Scoring,
    "span": QuestionAnswering,
}
"""By a bundle's task."""


def load(folder: str | os.PathLike[str], *, device: str = "auto", threads: int = 0) -> Pipeline:
    """Open the bundle in `folder` to be called.

    Args:
        device: `auto`, `cpu` or `cuda`.
        threads: cores to use; 0: all that this process may use.

    Raises:
        BundleError, ConfigurationError: it cannot be used, or not on this device; the message says why.
    """
    bundle = bundles.load(Path(folder))
    tokenizer, task = open_task(bundle)
    cores = threads or cpu_quota()
    engine, graph = open_engine(bundle, device=device, workers=0, intra_op_threads=0, cores=cores)
    warm_up(bundle, task, tokenizer, engine)
    return PIPELINES[bundle.manifest.task](
        Model(
            bundle,
            graph,
            (task, *tasks.derived(task)),
            engine,
            engine.workers,
            cores,
            max(BATCH_TOKENS[engine.provider], task.max_length),
            tokenizer.pad_id,
            low_latency=engine.provider == "cpu" and cores > 1,
        )
    )
