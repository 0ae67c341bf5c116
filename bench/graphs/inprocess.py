"""A bundle opened in this process, for measurements without HTTP.

The one place in bench/ that knows how the service opens a bundle, encodes and runs. Owns no measurement.
"""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from service.engine.batch import Encoded, pad
from service.engine.session import parameters
from service.repository import bundle as bundles
from service.repository import loading
from service.repository.opening import open_engine
from service.tasks import ClassificationExample, MultipleChoiceExample, SpanExample

Logits = Sequence[np.ndarray]
Run = Callable[[Sequence[Encoded]], Logits]


class Opened:
    """A bundle with its tokenizer and its task.

    Raises:
        BundleError: the folder holds no bundle that can be served.
    """

    def __init__(self, folder: Path) -> None:
        self.bundle = bundles.load(folder)
        self.name = self.bundle.name
        self.labels = self.bundle.manifest.labels
        self._folder = folder
        self._tokenizer, self._task = loading.open_task(self.bundle)

    def sentence_rows(self, sentences: Sequence[str]) -> list[Encoded]:
        """Encode sentences for a classifier, a row each."""
        return [first for first, *_ in self._task.encode([ClassificationExample(text) for text in sentences])]

    def encode_seconds(self, sentence: str) -> float:
        """Time the encoding of one sentence."""
        example = ClassificationExample(sentence)
        began = time.perf_counter()
        self._task.encode([example])
        return time.perf_counter() - began

    def mixed_rows(self, sentences: Sequence[str], count: int, chance: random.Random) -> list[Encoded]:
        """Encode random texts of one to twelve sentences, as the task takes them: the first `count` rows."""
        examples = list(itertools.islice(self._examples(sentences, chance), count))
        return list(itertools.chain.from_iterable(self._task.encode(examples)))[:count]

    def engine(self) -> tuple[Run, str]:
        """Open the engine that serves the bundle on a CPU, with one thread; get its call and its graph's file."""
        engine, graph = open_engine(self.bundle, device="cpu", workers=1, intra_op_threads=1, cores=1)
        return lambda rows: engine.run(pad(rows, self._tokenizer.pad_id)), graph.file

    def session(self, threads: int, precision: str = "") -> Run:
        """Open a bare ONNX Runtime session with so many threads on the graph of `precision`, or the best for a CPU."""
        path = self._folder / (f"model.{precision}.onnx" if precision else self.bundle.graph_for("cpu").file)
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        fixed = parameters(session, path) if "int8" in path.name else {}

        def run(rows: Sequence[Encoded]) -> Logits:
            batch = pad(rows, self._tokenizer.pad_id)
            inputs = {name: getattr(batch, name) for name in ("input_ids", "attention_mask", "token_type_ids")}
            outputs: Logits = session.run(None, inputs | fixed)
            return outputs

        return run

    def _examples(self, sentences: Sequence[str], chance: random.Random) -> Iterator[Any]:
        """What the task takes, without end."""
        pairs = "entailment" in self.labels
        while True:
            text = " ".join(chance.choices(sentences, k=chance.choice((1, 1, 2, 3, 12))))
            other = chance.choice(sentences)
            if self.bundle.manifest.task == "span":
                yield SpanExample("What is the film about?", (text,))
            elif self.bundle.manifest.task == "multiple_choice":
                yield MultipleChoiceExample("What is the film about?", text, ("Love", other))
            else:
                yield ClassificationExample(text, other if pairs else None)
