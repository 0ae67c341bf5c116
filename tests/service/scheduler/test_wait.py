"""How long what waits will take, estimated: held to how long it took."""

import asyncio
import functools
import math
import time

import pytest

from service.engine.batch import Batch
from service.engine.session import Outputs
from service.metrics import Metrics
from service.settings import Settings
from service.tasks import ClassificationExample
from tests.engines import Echo, FakeEngine, load_with, rows, until
from tests.scheduling import ask, asking, busy, queued, runner, running, waiting


class Paced(Echo):
    """Takes so long for a call, and so long for each of its tokens."""

    def __init__(self, *, call: float = 0.0, token: float = 0.0) -> None:
        super().__init__()
        self.call, self.token = call, token

    def run(self, batch: Batch) -> Outputs:
        self.seconds = 0.0
        time.sleep(self.call + self.token * batch.input_ids.size)
        return super().run(batch)


async def test_nothing_waits_for_nothing_and_before_the_first_batch_nobody_knows() -> None:
    engine = Echo()
    model = runner(engine)
    async with running(engine) as scheduler:
        assert scheduler.wait_seconds == 0.0
        async with busy(scheduler, model):
            tasks = await queued(scheduler, model, rows(8))
            assert math.isnan(scheduler.wait_seconds)
        await asyncio.gather(*tasks)
        assert scheduler.wait_seconds == 0.0


@pytest.mark.parametrize("workers", [1, 3])
async def test_what_waits_takes_as_long_as_was_said(workers: int) -> None:
    engine = Paced(token=0.5e-3)
    model = runner(engine, batch_tokens=64)
    async with running(engine, workers=workers) as scheduler:
        await ask(scheduler, model, rows(*[16] * 8 * workers))  # after which it is idle
        assert scheduler.wait_seconds == 0.0
        tasks = asking(scheduler, model, *(rows(*[16] * 8) for _ in range(12 * workers)))
        while waiting(scheduler) == 0:
            await asyncio.sleep(0)
        said, began = scheduler.wait_seconds, time.perf_counter()
        await until(lambda: not waiting(scheduler))  # the last batch has begun
        took = time.perf_counter() - began
        assert said == pytest.approx(took, rel=0.4)
        await asyncio.gather(*tasks)


async def test_after_light_load_the_estimate_is_soon_that_of_a_heavy_one() -> None:
    """A row by itself takes ten times longer a token than one in a batch: a burst after it looks longer than it is."""
    engine = Paced(call=10e-3)
    model = runner(engine)
    async with running(engine) as scheduler:
        for _ in range(5):
            await ask(scheduler, model, rows(16))
        tasks = asking(scheduler, model, *(rows(*[16] * 16) for _ in range(60)))
        await until(lambda: len(engine.batches) >= 5 + 30)
        said, began = scheduler.wait_seconds, time.perf_counter()
        await until(lambda: not waiting(scheduler))
        assert said == pytest.approx(time.perf_counter() - began, rel=0.6)
        await asyncio.gather(*tasks)


async def test_the_gauge_tells_of_the_device_where_it_is_longest(settings: Settings, metrics: Metrics) -> None:
    engine = FakeEngine()
    predictor = load_with(sentiment=engine)(settings, metrics)
    model = predictor.models["sentiment"]
    gauge = functools.partial(metrics.registry.get_sample_value, "bertie_queue_wait_seconds")
    try:
        async with asyncio.timeout(10):
            await predictor.predict(model, model.tasks[0], [ClassificationExample("fun")])
            assert gauge() == 0.0
            async with busy(model.scheduler, model.runner):
                tasks = await queued(model.scheduler, model.runner, rows(30))
                assert gauge() == pytest.approx(30 / model.scheduler.tokens_per_second)
            await asyncio.gather(*tasks)
    finally:
        await predictor.drain(5)
