"""The profile of a dev set: what the service holds its inputs and answers to (`service.drift`)."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from service.drift import LEAST, Histogram, Profile, count_unknown, describe
from service.engine.processor import cpu_quota
from service.engine.session import Engine
from service.engine.tokenizer import Tokenizer
from service.repository import bundle as bundles
from service.repository import loading
from service.repository.manifest import MANIFEST
from service.repository.opening import open_engine
from training import files, tasks
from training.data import records
from training.evaluate import runner as evaluate
from training.tasks import Labelled, Served

logger = logging.getLogger(__name__)

PROFILED = 2000
"""Inputs that a profile is of: a share of a tenth is known to 0.7 % by them."""
BINS = 10
"""Of scores and of tokens, of like counts: what is usual for a population stability index."""


def measure(task: Served, engine: Engine, tokenizer: Tokenizer, examples: Mapping[str, Sequence[Labelled]]) -> Profile:
    """Profile what the task, as it is served, makes of dev examples.

    Args:
        examples: by data set; the profile is of `PROFILED` of them, spread over all.
    """
    every = [example for dev in examples.values() for example in dev]
    some = [every[i * len(every) // PROFILED] for i in range(PROFILED)] if len(every) > PROFILED else every
    labels: Counter[str] = Counter()
    scores: list[float] = []
    lengths, unknown = [], 0
    asked = tasks.of(task).asked
    for inferred in evaluate.infer(task, engine, tokenizer.pad_id, some):
        prediction = task.decode(asked(inferred.reference), inferred.rows, inferred.logits)
        own, score, tokens = describe(task, inferred.rows, prediction)
        labels.update(own)
        if score is not None:
            scores.append(score)
        lengths.append(tokens)
        unknown += count_unknown(inferred.rows, tokenizer.unknown_id)
    if len(some) < LEAST:
        logger.warning("a profile of %d inputs: the service tells drift from %d on", len(some), LEAST)
    return Profile(
        data=tuple(examples),
        inputs=len(some),
        labels=dict(sorted(labels.items())),
        scores=_histogram(scores),
        tokens=_histogram(lengths),
        known=sum(lengths) - unknown,
        unknown=unknown,
    )


def add(
    folder: Path, paths: Sequence[str], *, layout: Mapping[str, Any] | None = None, device: str = "auto"
) -> Profile:
    """Give a bundle the profile of labelled files, in the place of what it had. Nothing else of it changes.

    Args:
        layout: see `evaluate.read`; what it leaves open is as in the bundle's own dev files.

    Raises:
        BertieError: the bundle is broken, or cannot run on the device.
        DataError: a file cannot be read or holds a bad record.
    """
    bundle = bundles.load(folder)
    tokenizer, task = loading.open_task(bundle)
    layout = {**bundle.manifest.layout, **(layout or {})}
    examples = {records.name(path): evaluate.read(task, path, layout=layout) for path in paths}
    engine, _ = open_engine(bundle, device=device, workers=0, intra_op_threads=0, cores=cpu_quota())
    profile = measure(task, engine, tokenizer, examples)
    values = json.loads((folder / MANIFEST).read_bytes()) | {"profile": dataclasses.asdict(profile)}
    with files.written_aside(folder / MANIFEST) as path:
        path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return profile


def _histogram(values: ArrayLike) -> Histogram:
    """Bins of like counts, as near as can be: where many values are the same, they are in one bin; of none, one.

    An edge is half-way between two values: what rounding does to one of them moves it to no other bin.
    """
    found, counts = np.unique(np.asarray(values, dtype=np.float64), return_counts=True)
    if len(found) < 2:
        return Histogram((), (int(counts.sum()),))
    below = counts.cumsum()
    wanted = np.arange(1, BINS)[:, None] * below[-1] / BINS
    cuts = np.unique(np.abs(below[:-1] - wanted).argmin(axis=1))
    edges = (found[cuts] + found[cuts + 1]) / 2
    binned = np.diff([0, *below[cuts], below[-1]])
    return Histogram(tuple(map(float, edges)), tuple(map(int, binned)))
