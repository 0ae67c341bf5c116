"""Does a row feel the company it is in? A bundle's logits of a row alone against those in random batches.

Where activations are quantised by one scale a batch, as dynamic quantisation does it, a sentence's answer changes with
the sentences beside it. Owns the rows, of real text and very mixed lengths, and the comparison.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench import rows
from service.engine.batch import Encoded, pad
from service.engine.session import Outputs, open_engine
from service.engine.tokenizer import Tokenizer
from service.predictor import make_task
from service.repository import bundle as bundles
from service.tasks import ClassificationExample, MultipleChoiceExample, SpanExample

BATCHES = 8
"""In how many random batches each row is tried."""
ROWS = 64
MOST_ROWS = 16
"""Of a batch."""


def measure(folder: Path) -> dict[str, Any]:
    """The largest difference of a logit of the graph that `folder` serves on a CPU, and of which rows it is told.

    Raises:
        BundleError: the folder holds no bundle that a CPU can serve.
    """
    bundle = bundles.load(folder)
    tokenizer = Tokenizer.from_file(folder / bundles.TOKENIZER)
    task: Any = make_task(bundle, tokenizer)
    chance = random.Random(0)
    examples = itertools.islice(_examples(bundle.manifest, chance), ROWS)
    encoded: list[Encoded] = list(itertools.chain.from_iterable(task.encode(list(examples))))[:ROWS]
    engine, graph = open_engine(bundle, device="cpu", workers=1, intra_op_threads=1, cores=1)
    alone = [_cut(engine.run(pad([row], tokenizer.pad_id)), 0, row) for row in encoded]
    worst = 0.0
    for _ in range(BATCHES):
        for places in _split(chance.sample(range(len(encoded)), len(encoded)), chance):
            outputs = engine.run(pad([encoded[i] for i in places], tokenizer.pad_id))
            for at, i in enumerate(places):
                together = _cut(outputs, at, encoded[i])
                worst = max(worst, *(float(np.abs(a - b).max()) for a, b in zip(alone[i], together, strict=True)))
    lengths = [len(row) for row in encoded]
    return {
        "bundle": bundle.name,
        "graph": graph.file,
        "rows": len(encoded),
        "shortest": min(lengths),
        "longest": max(lengths),
        "difference": worst,
    }


def _cut(outputs: Outputs, at: int, row: Encoded) -> list[np.ndarray]:
    """A row's logits; of a span graph those of its tokens, since there are others at padding that mean nothing."""
    spans = len(outputs) == 2
    return [output[at, : len(row)] if spans else output[at] for output in outputs]


def _split(places: Sequence[int], chance: random.Random) -> Iterator[Sequence[int]]:
    """Cut into batches of 2 to `MOST_ROWS`; the last one may have a row."""
    at = 0
    while at < len(places):
        size = chance.randint(2, MOST_ROWS)
        yield places[at : at + size]
        at += size


def _examples(manifest: bundles.Manifest, chance: random.Random) -> Iterator[Any]:
    """What the task reads, of one to twelve sentences, without end."""
    sentences = rows.sentences()
    pairs = "entailment" in manifest.labels
    while True:
        text = " ".join(chance.choices(sentences, k=chance.choice((1, 1, 2, 3, 12))))
        other = chance.choice(sentences)
        if manifest.task == "span":
            yield SpanExample("What is the film about?", (text,))
        elif manifest.task == "multiple_choice":
            yield MultipleChoiceExample("What is the film about?", text, ("Love", other))
        else:
            yield ClassificationExample(text, other if pairs else None)
