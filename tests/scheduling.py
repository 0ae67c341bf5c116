"""A scheduler around fake engines, and the requests that tests make of it. No test can hang: all is bounded in time."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Hashable, Sequence
from typing import Any

from service.engine.batch import Encoded
from service.engine.session import Engine
from service.metrics import Metrics
from service.scheduler.queue import Runner
from service.scheduler.workers import Scheduler
from tests.engines import FakeEngine, name, rows, until

SECONDS = 10.0
"""What no test takes."""


@contextlib.asynccontextmanager
async def running(
    *engines: FakeEngine, workers: int = 1, hang_seconds: float = SECONDS, metrics: Metrics | None = None
) -> AsyncIterator[Scheduler]:
    """A scheduler while the block runs.

    Args:
        engines: whose gates are opened at the end.
    """
    scheduler = Scheduler(workers, metrics or Metrics(), hang_seconds=hang_seconds)
    try:
        async with asyncio.timeout(2 * SECONDS):
            yield scheduler
    finally:
        for engine in engines:
            engine.gate.set()
        scheduler.stop()


def runner(engine: Engine, *, name: str = "m", batch_tokens: int = 256, **changes: Any) -> Runner:
    """How a model's batches run: on this engine."""
    return Runner(name, engine, 0, batch_tokens, **changes)


async def ask(
    scheduler: Scheduler, model: Runner, wanted: Sequence[Encoded], client: Hashable = None
) -> list[tuple[float, ...]]:
    """Run rows. Returns the first numbers of each row's outputs."""
    job = await scheduler.run(model, wanted, client)
    return [tuple(float(part[0]) for part in logits) for logits in job.logits]


def echo(wanted: Sequence[Encoded]) -> list[tuple[float, ...]]:
    """What `Echo` answers to these rows."""
    return [(float(name(row)), float(len(row))) for row in wanted]


def asking(scheduler: Scheduler, model: Runner, *requests: Sequence[Encoded]) -> list[asyncio.Task[Any]]:
    """Ask for each; they are queued when the loop has turned once."""
    return [asyncio.create_task(ask(scheduler, model, wanted)) for wanted in requests]


async def queued(scheduler: Scheduler, model: Runner, *requests: Sequence[Encoded]) -> list[asyncio.Task[Any]]:
    """Ask for each, and wait until all of their rows are in the queue beside those that were."""
    expected = waiting(scheduler) + sum(map(len, requests))
    asked = asking(scheduler, model, *requests)
    await until(lambda: waiting(scheduler) == expected)
    return asked


def waiting(scheduler: Scheduler) -> int:
    """Number of rows that wait."""
    return scheduler._short.rows + scheduler._long.rows


def told(metrics: Metrics, model: Runner) -> tuple[float, float]:
    """Rows and tokens that wait for a model, as Prometheus reads them."""
    value, labels = metrics.registry.get_sample_value, {"model": model.name}
    return value("bertie_queue_rows", labels) or 0, value("bertie_queue_tokens", labels) or 0


@contextlib.asynccontextmanager
async def busy(scheduler: Scheduler, model: Runner) -> AsyncIterator[asyncio.Task[Any]]:
    """Shut the gate with one row of 8 tokens in the engine; open it at the end and see that row answered."""
    engine: Any = model.engine
    engine.gate.clear()
    engine.entered.clear()
    (first,) = asking(scheduler, model, rows(8))
    await until(engine.entered.is_set)
    try:
        yield first
    finally:
        engine.gate.set()
        await asyncio.wait([first], timeout=SECONDS)
