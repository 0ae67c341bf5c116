"""Fake engines, rows for them, and the seam through which they serve:
`create_app(settings, load=load_with(qa=FakeEngine()))`."""

import asyncio
import itertools
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from service.engine.batch import Batch, Encoded
from service.engine.session import Engine, Outputs
from service.metrics import Metrics
from service.predictor import Predictor
from service.repository import loading
from service.repository.bundle import Bundle
from service.repository.opening import open_engine
from service.settings import Settings


class FakeEngine:
    """An engine that answers at once, late, on permission, or not at all.

    Attributes:
        batches: every batch that it was given, in order.
        gate: each call waits for this event; set at first, `gate.clear()` blocks the engine.
        entered: set as soon as a call has begun.
        error: raised by each call while it is not None; a BaseException kills the worker that called.
        seconds: each call takes so long.
    """

    def __init__(self, *outputs: tuple[float, ...] | None, workers: int = 1, seconds: float = 0.0) -> None:
        """
        Args:
            workers: calls that go side by side, where this engine alone decides.
            outputs: each a row's logits, given to every row; by default (0.0, 1.0), a class graph with two labels.
                None is an output of zeros with a logit for each token (a span graph: `FakeEngine(None, None)`).
        """
        self.workers = workers
        self.seconds = seconds
        self.error: BaseException | None = None
        self.batches: list[Batch] = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self._outputs = outputs or ((0.0, 1.0),)

    @property
    def rows(self) -> int:
        """Rows that it was given in all."""
        return sum(batch.shape[0] for batch in self.batches)

    def run(self, batch: Batch) -> Outputs:
        self.batches.append(batch)
        self.entered.set()
        if not self.gate.wait(timeout=30):
            raise TimeoutError("a test left the gate shut")
        time.sleep(self.seconds)
        if self.error is not None:
            raise self.error
        rows, tokens = batch.shape
        return tuple(
            np.tile(np.array(o if o is not None else [0.0] * tokens, dtype=np.float32), (rows, 1))
            for o in self._outputs
        )


class Echo(FakeEngine):
    """Answers each row with its first id and its number of tokens."""

    def run(self, batch: Batch) -> Outputs:
        super().run(batch)
        return batch.input_ids[:, :1].astype(np.float32), batch.attention_mask.sum(axis=1, keepdims=True).astype(float)

    @property
    def seen(self) -> set[int]:
        """Names of the rows that it was given."""
        return {int(name) for batch in self.batches for name in batch.input_ids[:, 0]}


class Death(BaseException):
    """What no engine may raise, and what kills a worker that lets it through."""


_names = itertools.count(1)


def rows(*lengths: int) -> list[Encoded]:
    """Rows of these lengths, none like another: the first id of each is its name."""
    made = [Encoded(np.ones(length, np.int64), np.zeros(length, np.int64)) for length in lengths]
    for row in made:
        row.input_ids[0] = next(_names)
    return made


def name(row: Encoded) -> int:
    """Name of a row that `rows` made."""
    return int(row.input_ids[0])


async def until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    """Wait for what another thread or task is to bring about; `TimeoutError` where it does not come to pass."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.001)


def open_with(engines: Mapping[str, Engine]) -> Callable[..., loading.Opened]:
    """Like `service.repository.loading.open_bundle`, with these engines behind the versions of those names."""

    def open_bundle(bundle: Bundle, settings: Settings, metrics: Metrics, tokenizers: Any) -> loading.Opened:
        tokenizer, task = loading.open_task(bundle, tokenizers)
        engine = engines[bundle.version]
        runner = loading.runner(bundle, tokenizer, engine, settings.max_batch_tokens or 1024)
        return loading.Opened(bundle, bundle.graph_for("cpu"), "cpu", tokenizer, task, runner, 1)

    return open_bundle


def load_with(**engines: Engine) -> Callable[[Settings, Metrics], Predictor]:
    """Like `service.repository.loading.load`, with these engines behind the models of those names and ONNX Runtime
    behind the others."""

    def load(settings: Settings, metrics: Metrics) -> Predictor:
        opened = []
        for bundle in loading.find(settings.models_dir, settings.models):
            tokenizer, task = loading.open_task(bundle)
            engine, graph = engines.get(bundle.name), bundle.graph_for("cpu")
            if engine is None:
                engine, graph = open_engine(bundle, device="cpu", workers=1, intra_op_threads=1, cores=1)
            runner = loading.runner(bundle, tokenizer, engine, settings.max_batch_tokens or 1024)
            workers = getattr(engine, "workers", 1)
            opened.append(loading.Opened(bundle, graph, "cpu", tokenizer, task, runner, workers))
        return loading.serve(opened, settings, metrics)

    return load
