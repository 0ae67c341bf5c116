"""The worker pool: whom a free worker serves, that every row gets its own answer, and how it stops."""

import asyncio
import contextlib
import gc
import random
import threading
import time
import weakref
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.engine.batch import Batch
from service.engine.session import OrtEngine, Outputs
from service.engine.tokenizer import Tokenizer
from service.errors import Draining, InferenceError
from service.metrics import Metrics
from service.scheduler import workers as module
from service.scheduler.batcher import PADDING
from service.scheduler.queue import LONG_BATCHES
from service.scheduler.workers import Scheduler
from tests.engines import Death, Echo, FakeEngine, name, rows, until
from tests.scheduling import SECONDS, ask, asking, busy, echo, queued, runner, running, told, waiting

BOOK = [64] * (LONG_BATCHES * 4 + 4)
"""A long job, of one batch more than a short one may have."""


# ---- batches --------------------------------------------------------------------------------------------------------


@given(
    jobs=st.lists(st.lists(st.integers(1, 64), min_size=1, max_size=20), min_size=1, max_size=12),
    budget=st.integers(64, 300),
    workers=st.integers(1, 3),
)
@settings(deadline=None, max_examples=25)
def test_every_row_is_answered_once_within_budget_and_padding(jobs: list[list[int]], budget: int, workers: int) -> None:
    engines = Echo(), Echo()
    models = [runner(engine, name=str(i), batch_tokens=budget) for i, engine in enumerate(engines)]

    async def main() -> None:
        async with running(*engines, workers=workers) as scheduler:
            for engine in engines:
                engine.gate.clear()
            asked = [rows(*lengths) for lengths in jobs]
            tasks = [
                asyncio.create_task(ask(scheduler, models[i % 2], wanted, client=i % 3))
                for i, wanted in enumerate(asked)
            ]
            await asyncio.sleep(0)
            for engine in engines:
                engine.gate.set()
            assert await asyncio.gather(*tasks) == [echo(wanted) for wanted in asked]
            batches = [batch for engine in engines for batch in engine.batches]
            names = [int(each) for batch in batches for each in batch.input_ids[:, 0]]
            assert sorted(names) == sorted(name(row) for wanted in asked for row in wanted)
            for batch in batches:
                count, tokens = batch.shape
                assert count * tokens <= budget
                assert batch.padding_ratio <= PADDING + 1e-9
            assert not waiting(scheduler)

    asyncio.run(main())


async def test_there_is_no_timer() -> None:
    """A free worker takes a row at once; a batch is what came while it was busy."""
    engine = Echo()
    model = runner(engine)
    async with running(engine) as scheduler:
        async with busy(scheduler, model):
            tasks = await queued(scheduler, model, *(rows(8) for _ in range(5)))
            await asyncio.sleep(0.02)
            assert len(engine.batches) == 1
        await asyncio.gather(*tasks)
        assert [batch.shape[0] for batch in engine.batches] == [1, 5]
        job = await scheduler.run(model, rows(8))
        assert 0 <= job.started - job.admitted < 1
        assert job.ended > job.started


async def test_several_workers_run_side_by_side() -> None:
    """Two rows wait and two workers are free: each takes one, instead of one taking both."""
    barrier = threading.Barrier(2, timeout=SECONDS)

    class Pair(Echo):
        def run(self, batch: Batch) -> Outputs:
            barrier.wait()
            return super().run(batch)

    engine = Pair()
    async with running(engine, workers=2) as scheduler:
        wanted = rows(8, 8)
        assert await ask(scheduler, runner(engine), wanted) == echo(wanted)
        assert [batch.shape[0] for batch in engine.batches] == [1, 1]


async def test_a_row_alone_equals_the_row_in_a_batch(models_dir: Path) -> None:
    class Gated(FakeEngine):
        """A real engine behind a gate."""

        def run(self, batch: Batch) -> Outputs:
            super().run(batch)
            return real.run(batch)

    real = OrtEngine(models_dir / "nli" / "model.fp32.onnx", provider="cpu", workers=1, intra_op_threads=1)
    tokenizer = Tokenizer.from_file(models_dir / "nli" / "tokenizer.json")
    texts = ["the dog is sleeping", "the dog is not good", "a good film", "nobody in paris", "it", "a b c d e f g"]
    ids = tokenizer.ids(texts)
    wanted = [tokenizer.pair.fill(a, b) for a in ids for b in ids]
    engine = Gated()
    model = runner(engine, batch_tokens=1024)
    async with running(engine) as scheduler:
        alone = [(await scheduler.run(model, [row])).logits[0][0] for row in wanted]
        engine.batches.clear()
        async with busy(scheduler, model):
            task = asyncio.create_task(scheduler.run(model, wanted))
            await until(lambda: waiting(scheduler) == len(wanted))
        together = [logits for (logits,) in (await task).logits]
    assert len(engine.batches) < len(wanted) / 2
    assert len({tuple(logits.tolist()) for logits in alone}) > 3
    np.testing.assert_allclose(np.stack(alone), np.stack(together), atol=1e-5)


async def test_one_pool_serves_several_models() -> None:
    """No batch mixes them, and what waits is told for each."""
    first, second, metrics = Echo(), Echo(), Metrics()
    one, other = runner(first, name="one"), runner(second, name="other")
    async with running(first, second, metrics=metrics) as scheduler:
        scheduler.watch(one.name)
        scheduler.watch(other.name)
        async with busy(scheduler, one):
            mine, others = rows(8, 9), rows(8, 8, *BOOK)
            tasks = await queued(scheduler, one, mine) + await queued(scheduler, other, others)
            assert not second.batches
            assert told(metrics, one) == (2, 17)
            assert told(metrics, other) == (2 + len(BOOK), 16 + sum(BOOK))
        assert await asyncio.gather(*tasks) == [echo(mine), echo(others)]
        assert second.seen == set(map(name, others))
        assert told(metrics, one) == told(metrics, other) == (0, 0)


async def test_batches_are_measured() -> None:
    engine, metrics = Echo(), Metrics()
    model = runner(engine)
    async with running(engine, metrics=metrics) as scheduler:
        async with busy(scheduler, model):
            (task,) = await queued(scheduler, model, rows(25, 24))
        await task

    def value(name: str) -> float | None:
        return metrics.registry.get_sample_value(name, {"model": "m"})

    assert value("bertie_batch_rows_count") == 2
    assert value("bertie_batch_rows_sum") == 3
    assert value("bertie_batch_tokens_sum") == 8 + 50
    assert value("bertie_padding_ratio_sum") == pytest.approx(1 / 50)


# ---- long jobs and short ones ---------------------------------------------------------------------------------------


def kinds(engine: Echo, book: list[int]) -> list[bool]:
    """Of each batch in order: whether it was the book's."""
    return [int(batch.input_ids[0, 0]) in book for batch in engine.batches]


async def test_a_single_worker_takes_turns_between_long_and_short() -> None:
    engine = Echo()
    model = runner(engine)
    async with running(engine) as scheduler:
        async with busy(scheduler, model):
            book, questions = rows(*BOOK), [rows(60) for _ in range(12)]
            tasks = await queued(scheduler, model, book, *questions)
        assert await asyncio.gather(*tasks) == [echo(book), *map(echo, questions)]
    ran = kinds(engine, list(map(name, book)))[1:]
    assert ran[:6] in ([True, False] * 3, [False, True] * 3)
    assert ran[6:] == [True] * (len(ran) - 6)


async def test_long_jobs_hold_half_of_the_workers_while_short_ones_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """A short one finds a free worker, whatever is posted; after a quiet time the long ones get all."""
    monkeypatch.setattr(module, "SHORT_SECONDS", 0.3)
    reading, quick = Echo(), Echo()
    long, short = runner(reading, name="long"), runner(quick, name="short")
    async with running(reading, quick, workers=4) as scheduler:
        await ask(scheduler, short, rows(8))
        reading.gate.clear()
        books = [rows(*BOOK), rows(*BOOK)]
        tasks = asking(scheduler, long, *books)
        await until(lambda: len(reading.batches) == 2)
        for _ in range(3):
            wanted = rows(8)
            assert await ask(scheduler, short, wanted) == echo(wanted)
        assert len(reading.batches) == 2
        await until(lambda: len(reading.batches) == 4)  # in time, though nothing was added and no call has ended
        reading.gate.set()
        assert await asyncio.gather(*tasks) == list(map(echo, books))


async def test_long_jobs_alone_get_all_workers_at_once() -> None:
    engine = Echo()
    async with running(engine, workers=2) as scheduler:
        engine.gate.clear()
        (task,) = asking(scheduler, runner(engine), rows(*BOOK))
        await until(lambda: len(engine.batches) == 2)
        engine.gate.set()
        await task


async def test_a_worker_that_hangs_leaves_short_jobs_their_turn() -> None:
    """With one worker in a call without end, the other must not serve the long ones alone."""
    stuck, engine = Echo(), Echo()
    stuck.gate.clear()
    model = runner(engine)
    async with running(stuck, engine, workers=2) as scheduler:
        hanging = asking(scheduler, runner(stuck, name="stuck"), rows(8))
        await until(stuck.entered.is_set)
        async with busy(scheduler, model):
            book, question = rows(*BOOK, *BOOK), rows(8)
            tasks = await queued(scheduler, model, book, question)
        assert await asyncio.gather(*tasks) == [echo(book), echo(question)]
        assert kinds(engine, list(map(name, book)))[:3].count(False) == 2  # what kept it busy, and the question
        stuck.gate.set()
        await asyncio.gather(*hanging)


# ---- clients that leave ---------------------------------------------------------------------------------------------


async def test_a_client_that_went_away_costs_no_inference() -> None:
    engine, metrics = Echo(), Metrics()
    model = runner(engine)
    async with running(engine, metrics=metrics) as scheduler:
        scheduler.watch(model.name)
        gone, book, stays = rows(8, 9, 10), rows(*BOOK), rows(8)
        async with busy(scheduler, model):
            leaving, *tasks = await queued(scheduler, model, gone, book, stays)
            reading, staying = tasks
            for each in (leaving, reading):
                each.cancel()
            await asyncio.wait([leaving, reading])
            assert told(metrics, model) == (1, 8)  # their places are free at once, not when a worker comes by
        assert await staying == echo(stays)
        assert not engine.seen & set(map(name, gone + book))


async def test_a_client_that_leaves_while_its_rows_run_harms_nobody() -> None:
    engine = Echo()
    model = runner(engine)
    async with running(engine) as scheduler:
        async with busy(scheduler, model) as first:
            first.cancel()
        wanted = rows(8, 20)
        assert await ask(scheduler, model, wanted) == echo(wanted)


async def test_thousands_of_waiting_rows_make_nothing_slow() -> None:
    """In the loop thread's own time: others may keep the machine busy."""
    engine = Echo()
    model = runner(engine)
    async with running(engine) as scheduler:
        async with busy(scheduler, model):
            began = time.thread_time()
            tasks = await queued(scheduler, model, *(rows(8) for _ in range(4096)))
            for task in tasks[:-1]:
                task.cancel()
            await asyncio.wait(tasks[:-1])
            assert time.thread_time() - began < 2.0
            assert waiting(scheduler) == 1
        await tasks[-1]
        assert engine.rows == 2


async def test_a_job_that_is_over_is_not_held() -> None:
    """An idle worker remembers nothing of the last batch: it may have been of a book."""
    engine = Echo()
    async with running(engine) as scheduler:
        job = await scheduler.run(runner(engine), rows(8))
        held = weakref.ref(job.future)
        del job
        await asyncio.sleep(0.02)
        gc.collect()
        assert held() is None


@given(seed=st.integers(0, 2**32 - 1), workers=st.integers(1, 3), failing=st.sampled_from([0.0, 0.2]))
@settings(deadline=None, max_examples=8)
def test_under_any_traffic_every_client_hears_once(seed: int, workers: int, failing: float) -> None:
    """Clients come and leave while batches fail: each hears the truth, and nothing is left."""
    randomness = random.Random(seed)

    class Flaky(Echo):
        def run(self, batch: Batch) -> Outputs:
            outputs = super().run(batch)
            time.sleep(randomness.random() * 0.0005)
            if randomness.random() < failing:
                raise RuntimeError("broken")
            return outputs

    async def main() -> None:
        engine = Flaky()
        model = runner(engine, batch_tokens=64)

        async def client(scheduler: Scheduler, number: int) -> None:
            await asyncio.sleep(randomness.random() * 0.01)
            wanted = rows(*[randomness.randint(1, 64) for _ in range(randomness.choice([1, 2, 6, 20]))])
            with contextlib.suppress(InferenceError):
                assert await ask(scheduler, model, wanted, client=number % 5) == echo(wanted)

        async with running(engine, workers=workers) as scheduler:
            tasks = [asyncio.create_task(client(scheduler, number)) for number in range(40)]
            for task in randomness.sample(tasks, 10):
                await asyncio.sleep(randomness.random() * 0.002)
                task.cancel()
            for outcome in await asyncio.gather(*tasks, return_exceptions=True):
                assert outcome is None or isinstance(outcome, asyncio.CancelledError)
            assert not waiting(scheduler)
            await until(lambda: not any(worker.rows for worker in scheduler._workers))
            assert scheduler.stop()

    asyncio.run(main())


# ---- the end --------------------------------------------------------------------------------------------------------


async def test_what_waits_at_the_stop_is_told_and_what_runs_is_answered() -> None:
    engine = Echo()
    model = runner(engine)
    async with running(engine) as scheduler:
        async with busy(scheduler, model) as first:
            tasks = await queued(scheduler, model, rows(64), rows(8), rows(*BOOK))
            assert scheduler.ready
            assert not scheduler.stop()  # a call is left running
            assert not scheduler.ready
            for task in tasks:
                with pytest.raises(Draining, match="stopped before"):
                    await task
            errors = [task.exception() for task in tasks]
            assert len({id(error) for error in errors}) == len(errors)  # each raises its own, with its own traceback
            with pytest.raises(Draining):
                await scheduler.run(model, rows(8))
        assert first.result()
        await until(lambda: not any(thread.name.startswith("engine-") for thread in threading.enumerate()))
        assert scheduler.stop()


async def test_a_worker_that_dies_after_the_stop_leaves_nobody_waiting() -> None:
    engine = Echo()
    engine.error = Death()
    async with running(engine) as scheduler:
        async with busy(scheduler, runner(engine)) as first:
            scheduler.stop()
        with pytest.raises(InferenceError, match="died"):
            await asyncio.wait_for(first, 1.0)
        assert scheduler.stop()


def test_a_loop_that_is_gone_kills_no_worker() -> None:
    engine = Echo()
    schedulers: list[Scheduler] = []

    async def leave() -> None:
        schedulers.append(Scheduler(1, Metrics(), hang_seconds=SECONDS))
        engine.gate.clear()
        task = asyncio.create_task(schedulers[0].run(runner(engine), rows(8)))
        await until(engine.entered.is_set)
        task.cancel()

    asyncio.run(leave())
    (thread,) = [thread for thread in threading.enumerate() if thread.name.startswith("engine-")]
    engine.gate.set()
    time.sleep(0.05)
    assert thread.is_alive()
    schedulers[0].stop()
    thread.join(SECONDS)
    assert not thread.is_alive()
