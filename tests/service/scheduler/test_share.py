"""A client's share of the workers: its flood leaves the others of them to others."""

import asyncio
import contextlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.engine.batch import Encoded
from service.scheduler.queue import LONG_BATCHES, Runner
from service.scheduler.workers import Scheduler
from tests.engines import Echo, rows, until
from tests.scheduling import echo, runner, running

BATCH = 256


def ask(
    scheduler: Scheduler, model: Runner, wanted: list[Encoded], client: str, share: float = 1.0
) -> asyncio.Task[list[tuple[float, ...]]]:
    async def run() -> list[tuple[float, ...]]:
        job = await scheduler.run(model, wanted, client, share=share)
        return [tuple(float(part[0]) for part in logits) for logits in job.logits]

    return asyncio.create_task(run())


def held(engine: Echo) -> int:
    """Batches that the engine was given: while its gate is shut each holds a worker."""
    return len(engine.batches)


@contextlib.asynccontextmanager
async def shut(workers: int) -> Any:
    engine = Echo()
    engine.gate.clear()
    async with running(engine, workers=workers) as scheduler:
        yield engine, scheduler, runner(engine, batch_tokens=BATCH)


@pytest.mark.parametrize(
    ("workers", "share", "most"), [(1, 0.1, 1), (2, 0.5, 1), (4, 0.5, 2), (4, 0.1, 1), (4, 0.99, 3), (4, 1.0, 4)]
)
async def test_a_flood_holds_its_share_of_the_workers_and_at_least_one(workers: int, share: float, most: int) -> None:
    async with shut(workers) as (engine, scheduler, model):
        flood = [ask(scheduler, model, rows(BATCH), "flood", share) for _ in range(8)]
        await until(lambda: held(engine) == most)
        await asyncio.sleep(0.05)
        assert held(engine) == most
        engine.gate.set()
        await asyncio.gather(*flood)


@pytest.mark.parametrize("long", [False, True])
async def test_anothers_row_runs_at_once_and_alone(long: bool) -> None:
    """Beside rows of the flood its batch would take as long as theirs."""
    async with shut(2) as (engine, scheduler, model):
        job = [64] * (4 * LONG_BATCHES + 4) if long else [16] * 8
        flood = [ask(scheduler, model, rows(*job), "flood", 0.5) for _ in range(4)]
        await until(lambda: held(engine) == 1)
        wanted = rows(12)
        other = ask(scheduler, model, wanted, "other")
        await until(lambda: held(engine) == 2)
        assert engine.batches[1].shape == (1, 12)
        engine.gate.set()
        assert await other == echo(wanted)
        await asyncio.gather(*flood)


async def test_without_a_share_rows_of_all_go_together() -> None:
    async with shut(1) as (engine, scheduler, model):
        first = ask(scheduler, model, rows(8), "flood")
        await until(lambda: held(engine) == 1)
        both = [ask(scheduler, model, rows(8), client) for client in ("flood", "other")]
        await asyncio.sleep(0.02)
        engine.gate.set()
        await asyncio.gather(first, *both)
        assert [batch.shape[0] for batch in engine.batches] == [1, 2]


async def test_a_client_that_is_held_back_goes_on_when_its_batch_has_run() -> None:
    async with shut(3) as (engine, scheduler, model):
        wanted = [rows(BATCH) for _ in range(6)]
        flood = [ask(scheduler, model, each, "flood", 0.4) for each in wanted]
        await until(lambda: held(engine) == 1)
        engine.gate.set()
        assert await asyncio.gather(*flood) == [echo(each) for each in wanted]


@given(
    jobs=st.lists(
        st.tuples(st.integers(0, 3), st.lists(st.integers(1, 64), min_size=1, max_size=24)), min_size=1, max_size=16
    ),
    shares=st.lists(st.sampled_from([0.1, 0.34, 0.5, 1.0]), min_size=4, max_size=4),
    workers=st.integers(1, 4),
)
@settings(deadline=None, max_examples=30)
def test_whatever_the_shares_every_row_is_answered(
    jobs: list[tuple[int, list[int]]], shares: list[float], workers: int
) -> None:
    async def main() -> None:
        async with shut(workers) as (engine, scheduler, model):
            asked = [(client, rows(*lengths)) for client, lengths in jobs]
            tasks = [ask(scheduler, model, wanted, str(client), shares[client]) for client, wanted in asked]
            await asyncio.sleep(0)
            engine.gate.set()
            assert await asyncio.gather(*tasks) == [echo(wanted) for _, wanted in asked]

    asyncio.run(main())
