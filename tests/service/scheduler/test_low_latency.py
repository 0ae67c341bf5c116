"""What has the process to itself runs on all cores, where it gains by them; under load each batch has one core."""

import asyncio

import pytest

from service.errors import InferenceError
from service.scheduler.workers import Scheduler
from tests.engines import Echo, name, rows, until
from tests.scheduling import ask, asking, busy, echo, runner, running

LEAST = 32


async def idle(scheduler: Scheduler) -> None:
    """Wait for the workers: an answer is on its way before its worker is free."""
    await until(lambda: not any(worker.rows for worker in scheduler._workers))


async def test_what_is_alone_and_long_runs_on_all_cores() -> None:
    engine, all_cores = Echo(), Echo()
    model = runner(engine, low_latency=all_cores, low_latency_tokens=LEAST)
    async with running(engine, all_cores, workers=2) as scheduler:
        for lengths, expected in (((31,), engine), ((32,), all_cores), ((16, 16), engine), ((64,), all_cores)):
            wanted = rows(*lengths)
            await idle(scheduler)
            assert await ask(scheduler, model, wanted) == echo(wanted)
            assert expected.seen >= set(map(name, wanted))  # of two rows each worker takes one


async def test_rows_of_one_worker_are_counted_together() -> None:
    engine, all_cores = Echo(), Echo()
    model = runner(engine, low_latency=all_cores, low_latency_tokens=LEAST)
    async with running(engine, all_cores) as scheduler:
        await ask(scheduler, model, rows(16, 16))
        assert [batch.shape for batch in all_cores.batches] == [(2, 16)]


async def test_under_load_each_batch_has_one_core() -> None:
    engine, all_cores = Echo(), Echo()
    model = runner(engine, low_latency=all_cores, low_latency_tokens=LEAST)
    async with running(engine, all_cores, workers=2) as scheduler:
        engine.gate.clear()
        (both,) = asking(scheduler, model, rows(64, 64))  # one for each worker: neither is alone
        await until(lambda: len(engine.batches) == 2)
        engine.gate.set()
        await both
        await idle(scheduler)
        all_cores.gate.clear()
        first = asking(scheduler, model, rows(64))
        await until(all_cores.entered.is_set)
        later = rows(64)
        assert await ask(scheduler, model, later) == echo(later)  # runs beside the one on all cores
        all_cores.gate.set()
        await asyncio.gather(*first)
        assert (len(all_cores.batches), len(engine.batches)) == (1, 3)


async def test_another_models_work_counts_too() -> None:
    engine, all_cores, other = Echo(), Echo(), Echo()
    model = runner(engine, low_latency=all_cores)
    async with running(engine, all_cores, other, workers=2) as scheduler:
        async with busy(scheduler, runner(other, name="other")):
            await ask(scheduler, model, rows(64))
            assert not all_cores.batches
        await idle(scheduler)
        await ask(scheduler, model, rows(64))
        assert len(all_cores.batches) == 1


async def test_what_waits_counts_too() -> None:
    engine, all_cores = Echo(), Echo()
    model = runner(engine, batch_tokens=64, low_latency=all_cores)
    async with running(engine, all_cores) as scheduler:
        await ask(scheduler, model, rows(64, 64, 64))
        assert (len(engine.batches), len(all_cores.batches)) == (2, 1)  # the last one is alone


async def test_the_rate_on_all_cores_is_not_that_of_each_worker() -> None:
    engine, all_cores = Echo(), Echo(seconds=0.02)
    model = runner(engine, low_latency=all_cores)
    async with running(engine, all_cores, workers=4) as scheduler:
        await ask(scheduler, model, rows(50))
        await idle(scheduler)
        assert len(all_cores.batches) == 1
        assert 0 < scheduler.tokens_per_second <= 50 / 0.02


async def test_the_rate_is_that_of_all_workers() -> None:
    engine = Echo(seconds=0.02)
    async with running(engine, workers=4) as scheduler:
        await ask(scheduler, runner(engine), rows(50))
        assert 50 / 0.02 < scheduler.tokens_per_second <= 4 * 50 / 0.02


async def test_a_failure_of_that_session_is_the_batchs_alone() -> None:
    engine, all_cores = Echo(), Echo()
    model = runner(engine, low_latency=all_cores)
    async with running(engine, all_cores) as scheduler:
        all_cores.error = RuntimeError("no memory")
        with pytest.raises(InferenceError):
            await ask(scheduler, model, rows(8))
        all_cores.error = None
        wanted = rows(8)
        assert await ask(scheduler, model, wanted) == echo(wanted)
