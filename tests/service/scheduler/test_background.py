"""Background jobs: they run where a core is free, no client's row waits for them, and their fate is theirs alone."""

import asyncio
import gc
import threading
import weakref
from typing import Any

import pytest

from service.engine.batch import Batch
from service.engine.session import Outputs
from service.errors import Draining, InferenceError, NotReady, QueueFull
from service.metrics import Metrics
from service.scheduler import background as module
from service.scheduler import workers
from service.scheduler.queue import Runner
from service.scheduler.workers import FAILURES, LOSSES, Scheduler
from tests.engines import Death, Echo, name, rows, until
from tests.scheduling import ask, asking, busy, echo, queued, runner, running, told, waiting

HANG = 0.05


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "LOOK_SECONDS", 0.005)


async def beside(scheduler: Scheduler, model: Runner, *lengths: int) -> list[tuple[float, ...]]:
    """Run rows in the background. Returns the first numbers of each row's outputs."""
    job = await scheduler.run(model, rows(*lengths), background=True)
    return [tuple(float(part[0]) for part in logits) for logits in job.logits]


def sent(scheduler: Scheduler, model: Runner, *requests: tuple[int, ...]) -> list[asyncio.Task[Any]]:
    """Ask for rows of these lengths in the background."""
    return [asyncio.create_task(beside(scheduler, model, *lengths)) for lengths in requests]


def told_rows(scheduler: Scheduler) -> int:
    """Number of rows that wait in the background."""
    return scheduler._background._queue.rows


async def test_rows_get_their_own_answers_and_times() -> None:
    engine = Echo()
    async with running(engine) as scheduler:
        wanted = rows(8, 20, 9)
        job = await scheduler.run(runner(engine), wanted, background=True)
        assert [tuple(float(part[0]) for part in logits) for logits in job.logits] == echo(wanted)
        assert job.admitted <= job.started < job.ended
        assert sum(ran.rows for ran in job.batches) == 3


async def test_nothing_is_started_before_it_is_asked_for() -> None:
    engine, others = Echo(), set(threading.enumerate())
    async with running(engine, workers=2) as scheduler:
        await ask(scheduler, runner(engine), rows(8))
        assert len(set(threading.enumerate()) - others) == 2
        await beside(scheduler, runner(engine), 8)
        await beside(scheduler, runner(engine), 8)
        assert len(set(threading.enumerate()) - others) == 3


async def test_it_waits_while_all_cores_are_busy() -> None:
    engine, shadow = Echo(), Echo()
    async with running(engine, shadow) as scheduler:
        async with busy(scheduler, runner(engine)):
            (later,) = sent(scheduler, runner(shadow), (8,))
            await until(lambda: told_rows(scheduler) == 1)
            await asyncio.sleep(0.03)
            assert not shadow.batches
        assert len(await later) == 1


async def test_it_runs_on_a_core_that_is_free() -> None:
    engine, shadow = Echo(), Echo()
    async with running(engine, shadow, workers=2) as scheduler, busy(scheduler, runner(engine)) as first:
        assert len(await beside(scheduler, runner(shadow), 8)) == 1
        assert not first.done()


async def test_it_leaves_a_request_on_all_cores_alone() -> None:
    engine, all_cores, shadow = Echo(), Echo(), Echo()
    model = runner(engine, low_latency=all_cores)
    async with running(engine, all_cores, shadow, workers=2) as scheduler:
        all_cores.gate.clear()
        (first,) = asking(scheduler, model, rows(64))
        await until(all_cores.entered.is_set)
        (later,) = sent(scheduler, runner(shadow), (8,))
        await asyncio.sleep(0.03)
        assert not shadow.batches
        all_cores.gate.set()
        await asyncio.gather(first, later)


async def test_a_request_that_comes_meanwhile_has_every_worker_and_all_cores() -> None:
    engine, all_cores, shadow = Echo(), Echo(), Echo()
    model = runner(engine, low_latency=all_cores)
    async with running(engine, all_cores, shadow) as scheduler:
        async with busy(scheduler, runner(shadow, name="none")):
            pass
        shadow.gate.clear()
        shadow.entered.clear()
        (slow,) = sent(scheduler, runner(shadow), (8,))
        await until(shadow.entered.is_set)
        await until(lambda: not any(worker.rows for worker in scheduler._workers))
        wanted = rows(64)
        assert await ask(scheduler, model, wanted) == echo(wanted)
        assert len(all_cores.batches) == 1
        assert not slow.done()
        shadow.gate.set()
        await slow


async def test_clients_rows_pass_all_that_waits() -> None:
    engine, shadow = Echo(), Echo()
    async with running(engine, shadow) as scheduler:
        model = runner(engine)
        async with busy(scheduler, model):
            later = sent(scheduler, runner(shadow), (64, 64, 64))
            tasks = await queued(scheduler, model, rows(64), rows(64))
            engine.entered.clear()
        await asyncio.gather(*tasks)
        await asyncio.gather(*later)
        assert len(shadow.batches) == 3  # a quarter of a full batch each


async def test_between_its_batches_clients_go_first() -> None:
    """What is under way is finished, and no more of it: a long background job is no wall."""
    engine, shadow = Echo(), Echo()
    async with running(engine, shadow) as scheduler:
        shadow.gate.clear()
        (long,) = sent(scheduler, runner(shadow), (64,) * 8)
        await until(shadow.entered.is_set)
        async with busy(scheduler, runner(engine)):
            shadow.gate.set()
            await until(lambda: told_rows(scheduler) == 7)
            await asyncio.sleep(0.03)
            assert len(shadow.batches) == 1
        assert len(await long) == 8


async def test_models_in_the_background_take_turns() -> None:
    first, second = Echo(), Echo()
    async with running(first, second) as scheduler:
        first.gate.clear()
        (long,) = sent(scheduler, runner(first), (64,) * 20)
        await until(first.entered.is_set)
        (other,) = sent(scheduler, runner(second), (8,))
        await until(lambda: told_rows(scheduler) == 20)
        ahead: list[int] = []
        run, second.run = second.run, lambda batch: ahead.append(len(first.batches)) or run(batch)  # type: ignore
        first.gate.set()
        await asyncio.gather(long, other)
        assert ahead[0] < 5


async def test_a_full_queue_refuses_what_comes() -> None:
    engine = Echo()
    model = runner(engine, batch_tokens=64)
    async with running(engine) as scheduler:
        engine.gate.clear()
        tasks = sent(scheduler, model, (16,))
        await until(engine.entered.is_set)
        tasks += sent(scheduler, model, *[(64,)] * module.BATCHES)
        await until(lambda: told_rows(scheduler) == module.BATCHES)
        with pytest.raises(QueueFull, match="in the background"):
            await beside(scheduler, model, 1)
        tasks[-1].cancel()
        await until(lambda: told_rows(scheduler) == module.BATCHES - 1)
        tasks[-1] = sent(scheduler, model, (64,))[0]  # there is room again
        engine.gate.set()
        await asyncio.gather(*tasks)
        longest = (64,) * (module.BATCHES + 1)
        assert len(await beside(scheduler, model, *longest)) == len(longest)  # by itself it fits, whatever its length


async def test_it_counts_neither_as_waiting_nor_as_speed() -> None:
    engine, metrics = Echo(seconds=0.001), Metrics()
    model = runner(engine)
    async with running(engine, metrics=metrics) as scheduler:
        scheduler.watch(model.name)
        engine.gate.clear()
        tasks = sent(scheduler, model, (8,))
        await until(engine.entered.is_set)
        tasks += sent(scheduler, model, (8, 9))
        await until(lambda: told_rows(scheduler) == 2)
        assert scheduler.wait_seconds == 0.0
        assert told(metrics, model) == (0, 0)
        engine.gate.set()
        await asyncio.gather(*tasks)
        assert scheduler.tokens_per_second == 0.0
        assert metrics.registry.get_sample_value("bertie_batch_rows_count", {"model": "m"}) is None


async def test_a_runner_that_fails_fails_its_jobs_and_nothing_else() -> None:
    engine, shadow = Echo(), Echo()
    async with running(engine, shadow) as scheduler:
        shadow.error = RuntimeError("broken")
        for _ in range(2 * FAILURES):
            with pytest.raises(InferenceError, match="failed"):
                await beside(scheduler, runner(shadow), 8)
            assert scheduler.ready
        tried = len(shadow.batches)
        await asyncio.sleep(0.03)
        assert len(shadow.batches) == tried  # and is not probed
        wanted = rows(8)
        assert await ask(scheduler, runner(engine), wanted) == echo(wanted)


@pytest.mark.parametrize("fate", ["dies", "hangs"])
async def test_a_runner_that_takes_the_worker_down_runs_no_more(fate: str) -> None:
    engine, shadow, other, metrics = Echo(), Echo(), Echo(), Metrics()
    model, fine = runner(shadow), runner(other)
    async with running(engine, shadow, other, hang_seconds=HANG, metrics=metrics) as scheduler:
        shadow.gate.clear()
        doomed = sent(scheduler, model, (8, 200))
        await until(shadow.entered.is_set)
        doomed += sent(scheduler, model, (9,))
        (beside_it,) = sent(scheduler, fine, (8,))
        await until(lambda: told_rows(scheduler) == 3)
        if fate == "dies":
            shadow.error = Death()
            shadow.gate.set()
        for outcome in await asyncio.gather(*doomed, return_exceptions=True):
            assert isinstance(outcome, InferenceError)
        assert scheduler.ready
        assert scheduler.alive
        assert len(await beside_it) == 1  # by a worker that takes its place
        with pytest.raises(NotReady, match="no more"):
            await beside(scheduler, model, 8)
        wanted = rows(8)
        assert await ask(scheduler, runner(engine), wanted) == echo(wanted)
        assert metrics.registry.get_sample_value("bertie_workers_lost_total") == 1
        shadow.error = None
        shadow.gate.set()
        scheduler.forget(model)
        assert len(await beside(scheduler, model, 8)) == 1  # loaded again, it is another


async def test_however_many_take_it_down_the_process_is_alive() -> None:
    shadow = Echo()
    shadow.error = Death()
    async with running(shadow) as scheduler:
        for _ in range(2 * LOSSES):
            with pytest.raises(InferenceError, match="died"):
                await beside(scheduler, runner(shadow), 8)
        assert scheduler.alive
        assert scheduler.ready


async def test_a_call_that_returns_late_is_no_news() -> None:
    shadow = Echo()
    async with running(shadow, hang_seconds=HANG) as scheduler:
        shadow.gate.clear()
        with pytest.raises(InferenceError, match="did not return"):
            await beside(scheduler, runner(shadow), 8)
        assert scheduler._background.calls == 1
        shadow.gate.set()
        await until(lambda: scheduler._background.calls == 0)
        assert len(await beside(scheduler, runner(shadow), 8)) == 1


async def test_a_thread_that_cannot_be_started_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    shadow, start, refused = Echo(), threading.Thread.start, []

    def refuse(thread: threading.Thread) -> None:
        if thread.name == "engine-background" and len(refused) < 3:
            refused.append(thread)
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    async with running(shadow) as scheduler:
        assert len(await beside(scheduler, runner(shadow), 8)) == 1
        assert len(refused) == 3


async def test_what_waits_for_a_forgotten_runner_fails_and_it_is_freed() -> None:
    async with running(workers=1) as scheduler:
        shadow, blocker = Echo(), Echo()
        model, held = runner(shadow), weakref.ref(shadow)
        await beside(scheduler, model, 8)
        async with busy(scheduler, runner(blocker)):
            (waits,) = sent(scheduler, model, (8, 8))
            await until(lambda: told_rows(scheduler) == 2)
            scheduler.forget(model)
            with pytest.raises(NotReady, match="no longer loaded"):
                await waits
        assert told_rows(scheduler) == 0
        del shadow, model, waits

        def freed() -> bool:
            gc.collect()
            return held() is None

        await until(freed)


async def test_a_job_that_is_cancelled_costs_no_inference() -> None:
    engine, shadow = Echo(), Echo()
    async with running(engine, shadow) as scheduler:
        async with busy(scheduler, runner(engine)):
            (task,) = sent(scheduler, runner(shadow), (8,))
            await until(lambda: told_rows(scheduler) == 1)
            task.cancel()
            await until(lambda: told_rows(scheduler) == 0)
        await asyncio.sleep(0.02)
        assert not shadow.batches


async def test_stopping_fails_what_waits_and_tells_of_a_call_that_runs() -> None:
    shadow = Echo()
    async with running(shadow) as scheduler:
        shadow.gate.clear()
        tasks = sent(scheduler, runner(shadow), (8,))
        await until(shadow.entered.is_set)
        tasks += sent(scheduler, runner(shadow), (8,))
        await until(lambda: told_rows(scheduler) == 1)
        assert not scheduler.stop()
        with pytest.raises(Draining):
            await tasks[1]
        shadow.gate.set()
        await tasks[0]
        assert scheduler.stop()
        with pytest.raises(Draining):
            await beside(scheduler, runner(shadow), 8)


async def test_under_any_mixture_every_row_gets_its_own_answer() -> None:
    class Pair(Echo):
        def run(self, batch: Batch) -> Outputs:
            threading.Event().wait(0.0003)
            return super().run(batch)

    engine, shadow = Pair(), Pair()
    model, other = runner(engine, batch_tokens=64), runner(shadow, batch_tokens=64)
    dropped = 0

    async def client(scheduler: Scheduler, number: int) -> None:
        nonlocal dropped
        for turn in range(20):
            wanted = rows(*[3 + (number * turn) % 30] * (1 + turn % 3))
            assert await ask(scheduler, model, wanted, client=number) == echo(wanted)
            try:
                job = await scheduler.run(other, wanted, background=True)
            except QueueFull:
                dropped += 1
            else:
                assert [float(logits[0][0]) for logits in job.logits] == [float(name(row)) for row in wanted]

    async with running(engine, shadow, workers=2) as scheduler:
        await asyncio.gather(*(client(scheduler, number) for number in range(12)))
        assert dropped < 12 * 20
        assert waiting(scheduler) == told_rows(scheduler) == 0
