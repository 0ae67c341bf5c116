"""What the scheduler does about engines that fail, hang, or kill their workers; and that readiness tells the truth."""

import asyncio
import gc
import threading
import time
import weakref

import numpy as np
import pytest

from service.engine.batch import Batch
from service.engine.session import Outputs
from service.errors import InferenceError, NotReady
from service.metrics import Metrics
from service.scheduler import workers as module
from service.scheduler.queue import LONG_BATCHES, Runner
from service.scheduler.workers import FAILURES, LOSSES, Scheduler
from tests.engines import Death, Echo, name, rows, until
from tests.scheduling import SECONDS, ask, asking, busy, echo, queued, runner, running, told, waiting

HANG = 0.05


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.005)
    monkeypatch.setattr(module, "BACK_OFF", 0.01)


def lost(metrics: Metrics) -> float:
    return metrics.registry.get_sample_value("bertie_workers_lost_total") or 0


async def fails(scheduler: Scheduler, model: Runner, match: str = "failed") -> None:
    with pytest.raises(InferenceError, match=match):
        await ask(scheduler, model, rows(8))


# ---- failures -------------------------------------------------------------------------------------------------------


async def test_an_engines_exception_fails_that_batch_alone() -> None:
    engine = Echo()
    model = runner(engine)
    async with running(engine) as scheduler:
        engine.error = RuntimeError("broken")
        await fails(scheduler, model)
        engine.error = None
        assert scheduler.ready
        wanted = rows(8)
        assert await ask(scheduler, model, wanted) == echo(wanted)


async def test_one_guilty_row_does_not_fail_its_neighbours() -> None:
    class Picky(Echo):
        def run(self, batch: Batch) -> Outputs:
            first, second = super().run(batch)
            if 13 in batch.attention_mask.sum(axis=1):
                raise RuntimeError("thirteen")
            return np.where(second == 12, np.nan, first), second

    engine = Picky()
    model = runner(engine)
    async with running(engine) as scheduler:
        async with busy(scheduler, model):
            fine, broken, no_number = rows(14, 14), rows(13), rows(12)
            tasks = await queued(scheduler, model, fine, broken, no_number)
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert answers[0] == echo(fine)
        assert [type(answer) for answer in answers[1:]] == [InferenceError] * 2
        assert "finite" in str(answers[2])
        assert scheduler.ready


async def test_rows_of_a_failed_job_in_other_batches_cost_no_inference() -> None:
    class FailsOnLong(Echo):
        def run(self, batch: Batch) -> Outputs:
            outputs = super().run(batch)
            if batch.shape[1] > 40:
                raise RuntimeError("too long")
            return outputs

    engine, metrics = FailsOnLong(seconds=0.001), Metrics()
    model = runner(engine, batch_tokens=64)
    async with running(engine, metrics=metrics) as scheduler:
        scheduler.watch(model.name)
        broken, fine = rows(50, *[8] * 2000), rows(20, 8)
        async with busy(scheduler, model):
            failing, working = await queued(scheduler, model, broken, fine)
        with pytest.raises(InferenceError):
            await failing
        assert await working == echo(fine)
        assert name(broken[-1]) not in engine.seen
        assert told(metrics, model) == (0, 0)


async def test_failures_one_after_another_turn_readiness_off_and_a_probe_turns_it_on() -> None:
    """Nobody asks a service that is not ready: so it asks itself."""
    engine, other = Echo(), Echo()
    model, healthy = runner(engine), runner(other, name="other")
    async with running(engine, other, workers=2) as scheduler:
        engine.error = RuntimeError("broken")
        for _ in range(FAILURES - 1):
            await fails(scheduler, model)
            await ask(scheduler, healthy, rows(8))  # does not hide it
        assert scheduler.ready
        await fails(scheduler, model)
        assert not scheduler.ready
        assert scheduler.alive
        tried = len(engine.batches)
        await until(lambda: len(engine.batches) > tried + 1)
        assert not scheduler.ready
        engine.error = None
        await until(lambda: scheduler.ready)
        tried = len(engine.batches)
        await asyncio.sleep(0.03)
        assert len(engine.batches) == tried


async def test_failures_with_successes_between_are_no_outage() -> None:
    engine = Echo()
    model = runner(engine)
    async with running(engine) as scheduler:
        for _ in range(2 * FAILURES):
            engine.error = RuntimeError("broken")
            await fails(scheduler, model)
            engine.error = None
            await ask(scheduler, model, rows(8))
            assert scheduler.ready


async def test_a_probe_suits_a_model_of_the_shortest_rows() -> None:
    class Short(Echo):
        def run(self, batch: Batch) -> Outputs:
            if batch.shape[1] > 3:
                raise RuntimeError("too long")
            return super().run(batch)

    engine = Short()
    async with running(engine) as scheduler:
        model = runner(engine)
        for _ in range(FAILURES):
            await fails(scheduler, model)
        assert not scheduler.ready
        await until(lambda: scheduler.ready)


async def test_failures_at_full_speed_are_no_measure() -> None:
    """Batches that fail at once do not promise that what waits will soon have run."""
    engine = Echo(seconds=0.02)
    model = runner(engine)
    async with running(engine) as scheduler:
        await ask(scheduler, model, rows(50))
        measured = scheduler.tokens_per_second
        assert 0 < measured <= 50 / 0.02
        engine.error, engine.seconds = RuntimeError("broken"), 0.0
        await fails(scheduler, model)
        assert scheduler.tokens_per_second == measured


async def test_a_runner_that_is_forgotten_keeps_nobody_from_being_ready() -> None:
    engine, other = Echo(), Echo()
    broken, healthy = runner(engine), runner(other)
    async with running(engine, other) as scheduler:
        engine.error = RuntimeError("broken")
        for _ in range(FAILURES):
            await fails(scheduler, broken)
        assert not scheduler.ready
        scheduler.forget(broken)
        assert scheduler.ready
        tried = len(engine.batches)
        await asyncio.sleep(0.03)
        assert len(engine.batches) == tried  # nor is it probed
        wanted = rows(8)
        assert await ask(scheduler, healthy, wanted) == echo(wanted)


async def test_what_a_forgotten_runner_still_ran_is_no_news() -> None:
    engine = Echo()
    model = runner(engine)
    async with running(engine, hang_seconds=HANG) as scheduler:
        engine.gate.clear()
        (hanging,) = asking(scheduler, model, rows(8))
        await until(engine.entered.is_set)
        scheduler.forget(model)
        with pytest.raises(InferenceError, match="did not return"):
            await hanging
        engine.gate.set()
        await until(lambda: scheduler.ready)  # without a probe of it
        assert engine.rows == 1


async def test_a_forgotten_runner_is_freed() -> None:
    """A version that another replaced gives its memory back, though no batch has come since."""
    metrics = Metrics()
    async with running(metrics=metrics, workers=2) as scheduler:
        engine = Echo()
        model, held = runner(engine), weakref.ref(engine)
        scheduler.watch(model.name)
        for _ in range(4):
            await ask(scheduler, model, rows(8))
        scheduler.forget(model)
        del engine, model

        def freed() -> bool:
            gc.collect()
            return held() is None

        await until(freed)


# ---- workers that die -----------------------------------------------------------------------------------------------


async def test_a_worker_that_dies_fails_its_batch_and_is_replaced() -> None:
    engine, metrics = Echo(), Metrics()
    model = runner(engine)
    async with running(engine, metrics=metrics) as scheduler:
        async with busy(scheduler, model) as first:
            engine.error = Death()
            book, question = rows(*[64] * (4 * LONG_BATCHES + 4)), rows(8)
            tasks = await queued(scheduler, model, book, question)
        with pytest.raises(InferenceError, match="died"):
            await first
        assert not scheduler.ready
        engine.error = None
        assert await asyncio.gather(*tasks) == [echo(book), echo(question)]  # by the one that takes its place
        await until(lambda: scheduler.ready)
        assert lost(metrics) == 1
        assert scheduler.alive


async def test_what_a_dead_worker_leaves_is_finished_by_the_others() -> None:
    class DiesOfOne(Echo):
        def run(self, batch: Batch) -> Outputs:
            outputs = super().run(batch)
            if batch.shape[1] == 13:
                raise Death
            return outputs

    engine = DiesOfOne()
    model = runner(engine, batch_tokens=64)
    async with running(engine, workers=2) as scheduler:
        engine.gate.clear()
        (doomed,) = asking(scheduler, model, rows(13, *[64] * 6))  # with rows that wait still
        await until(engine.entered.is_set)
        fine = [rows(length) for length in (20, 30, 40, 50)]
        tasks = asking(scheduler, model, *fine)
        await asyncio.sleep(0)
        engine.gate.set()
        with pytest.raises(InferenceError):
            await doomed
        assert await asyncio.gather(*tasks) == list(map(echo, fine))
        assert not waiting(scheduler)


async def test_all_workers_dying_at_once_are_one_loss_and_leave_nobody_waiting() -> None:
    barrier = threading.Barrier(LOSSES + 1, timeout=SECONDS)

    class DieTogether(Echo):
        def run(self, batch: Batch) -> Outputs:
            if self.error:
                barrier.wait()
            return super().run(batch)

    engine, metrics = DieTogether(), Metrics()
    engine.error = Death()
    model = runner(engine, batch_tokens=64)
    async with running(engine, workers=LOSSES + 1, metrics=metrics) as scheduler:
        tasks = asking(scheduler, model, *(rows(60) for _ in range(LOSSES + 1)))
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            assert isinstance(outcome, InferenceError)
        engine.error = None
        assert lost(metrics) == LOSSES + 1
        assert scheduler.alive
        wanted = rows(8)
        assert await ask(scheduler, model, wanted) == echo(wanted)
        await until(lambda: scheduler.ready)


async def test_losses_one_after_another_turn_liveness_off() -> None:
    """Each is replaced later than the one before; when that does not help, the process is to be restarted."""
    engine, metrics = Echo(), Metrics()
    engine.error = Death()
    model = runner(engine)
    async with running(engine, metrics=metrics) as scheduler:
        await fails(scheduler, model, match="died")
        began = time.perf_counter()
        await until(lambda: not scheduler.alive)  # probes find out
        assert time.perf_counter() - began >= module.BACK_OFF * (2 ** (LOSSES - 1) - 1)
        assert lost(metrics) == LOSSES
        with pytest.raises(NotReady, match="lost its workers"):
            await ask(scheduler, model, rows(8))
        assert not scheduler.ready
        await asyncio.sleep(0.03)
        assert lost(metrics) == LOSSES  # none is started any more
        assert not waiting(scheduler)


async def test_a_batch_that_runs_makes_up_for_earlier_losses() -> None:
    engine = Echo()
    model = runner(engine)
    async with running(engine) as scheduler:
        for _ in range(LOSSES + 1):
            engine.error = Death()
            await fails(scheduler, model, match="died")
            engine.error = None
            await until(lambda: scheduler.ready)
        assert scheduler.alive


async def test_a_thread_that_cannot_be_started_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, start, refused = Echo(), threading.Thread.start, []

    def refuse(thread: threading.Thread) -> None:
        if thread.name.startswith("engine-") and len(refused) < 3:
            refused.append(thread)
            raise RuntimeError("can't start new thread")
        start(thread)

    model = runner(engine)
    async with running(engine) as scheduler:
        monkeypatch.setattr(threading.Thread, "start", refuse)
        engine.error = Death()
        await fails(scheduler, model, match="died")
        engine.error = None
        await until(lambda: scheduler.ready)
        assert len(refused) == 3


# ---- calls that hang ------------------------------------------------------------------------------------------------


async def test_a_call_that_hangs_is_given_up_and_its_worker_replaced() -> None:
    engine, metrics = Echo(), Metrics()
    model = runner(engine)
    async with running(engine, hang_seconds=HANG, metrics=metrics) as scheduler:
        engine.gate.clear()
        hanging = asking(scheduler, model, rows(8))[0]
        await until(engine.entered.is_set)
        wanted = rows(8)
        (later,) = asking(scheduler, model, wanted)
        with pytest.raises(InferenceError, match="did not return"):
            await hanging
        assert not scheduler.ready
        gate, engine.gate = engine.gate, threading.Event()
        engine.gate.set()  # for the next call, not for the one that hangs
        assert await later == echo(wanted)
        await until(lambda: scheduler.ready)
        assert lost(metrics) == 1
        assert not scheduler.stop()  # that call is left running still
        gate.set()
        await until(scheduler.stop)


async def test_a_call_that_returns_late_is_no_news() -> None:
    """Its rows have been given up; what it brings changes nothing, and its thread ends."""
    engine, others = Echo(), set(threading.enumerate())
    model = runner(engine)
    async with running(engine, hang_seconds=HANG) as scheduler:
        (worker,) = set(threading.enumerate()) - others
        engine.gate.clear()
        await fails(scheduler, model, match="did not return")
        engine.gate.set()
        worker.join(1.0)
        assert not worker.is_alive()
        wanted = rows(8)
        assert await ask(scheduler, model, wanted) == echo(wanted)
        await until(lambda: scheduler.ready)


async def test_hanging_again_and_again_turns_liveness_off() -> None:
    engine = Echo()
    async with running(engine, hang_seconds=0.02) as scheduler:
        engine.gate.clear()
        await fails(scheduler, runner(engine), match="did not return")
        await until(lambda: not scheduler.alive)


async def test_a_lost_worker_is_replaced_when_it_is_due_and_no_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever replaces it does not wait for a probe that nobody can run."""
    engine = Echo()
    async with running(engine) as scheduler:
        engine.error = Death()
        await fails(scheduler, runner(engine), match="died")
        engine.error = None
        began = time.perf_counter()
        wanted = rows(8)
        await ask(scheduler, runner(engine), wanted)
        assert time.perf_counter() - began < 0.5
