"""The queue: what a batch holds, in what order, and that every admitted row gets its own answer or an error.

No test can hang: a job's deadline bounds every wait, and gates open by themselves.
"""

import asyncio
import contextlib
import itertools
import math
import os
import random
import threading
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.engine.batch import Batch, Encoded
from service.engine.session import OrtEngine, Outputs
from service.engine.tokenizer import Tokenizer
from service.errors import ConfigurationError, DeadlineExceeded, InferenceError, NotReady, QueueFull
from service.metrics import Metrics
from service.scheduler.batcher import BACKGROUND_NICE, HELD, PADDING, TURN_BATCHES, Batcher
from service.scheduler.queue import PRIORITIES, Job, Priority
from service.scheduler.schedule import Load, Schedule
from tests.engines import FakeEngine, until

SECONDS = 10.0
"""Deadline of a job that no test lets pass."""


class Echo(FakeEngine):
    """Answers each row with its first id and its number of tokens."""

    def run(self, batch: Batch) -> Outputs:
        super().run(batch)
        return batch.input_ids[:, :1].astype(np.float32), batch.attention_mask.sum(axis=1, keepdims=True).astype(float)


class Death(BaseException):
    """What no engine may raise, and what kills a worker that lets it through."""


_names = itertools.count(1)


def row(length: int = 8) -> Encoded:
    """A row that no other row is like: its first id is its name."""
    ids = np.ones(length, dtype=np.int64)
    ids[0] = next(_names)
    return Encoded(ids, np.zeros(length, dtype=np.int64))


def rows(*lengths: int) -> list[Encoded]:
    return [row(length) for length in lengths]


def soon(seconds: float = SECONDS) -> float:
    return time.perf_counter() + seconds


def make(engine: FakeEngine, **changes: Any) -> Batcher:
    changes.setdefault("schedule", Schedule(changes.pop("max_batch_tokens", 256)))
    options = {"pad_id": 0, "max_length": 64, "max_queue_tokens": 4096, "metrics": Metrics()}
    return Batcher("m", engine, **(options | changes))


@contextlib.asynccontextmanager
async def running(engine: FakeEngine, **changes: Any) -> AsyncIterator[Batcher]:
    batcher = make(engine, **changes)
    batcher.start()
    try:
        yield batcher
    finally:
        engine.gate.set()
        await batcher.drain(5)


async def ask(batcher: Batcher, wanted: Sequence[Encoded], seconds: float = SECONDS) -> list[tuple[float, float]]:
    logits = await batcher.result(batcher.submit(wanted, deadline=soon(seconds)))
    return [(float(name[0]), float(tokens[0])) for name, tokens in logits]


def echo(wanted: Sequence[Encoded]) -> list[tuple[float, float]]:
    """What `Echo` answers to these rows."""
    return [(float(r.input_ids[0]), float(len(r))) for r in wanted]


async def queued(batcher: Batcher, *requests: Sequence[Encoded]) -> list[asyncio.Task[list[tuple[float, float]]]]:
    """Asks for each, and waits until all their rows are in the queue beside those that were."""
    expected = batcher._turns.rows + sum(map(len, requests))
    asked = [asyncio.create_task(ask(batcher, wanted)) for wanted in requests]
    await until(lambda: batcher._turns.rows == expected)
    return asked


@contextlib.asynccontextmanager
async def busy(batcher: Batcher, engine: FakeEngine) -> AsyncIterator[asyncio.Task[Any]]:
    """Shuts the gate with one row of 8 tokens in the engine; opens it at the end and sees that row answered."""
    engine.gate.clear()
    engine.entered.clear()
    first = asyncio.create_task(ask(batcher, rows(8)))
    await until(engine.entered.is_set)
    try:
        yield first
    finally:
        engine.gate.set()
        await asyncio.wait([first], timeout=SECONDS)


def seen(engine: FakeEngine) -> set[int]:
    """Names of the rows that reached the engine."""
    return {int(name) for batch in engine.batches for name in batch.input_ids[:, 0]}


def waiting(batcher: Batcher, metrics: Metrics) -> tuple[float, float]:
    """Rows and tokens in the queue, as Prometheus reads them."""
    value = metrics.registry.get_sample_value
    labels = {"model": batcher.name}
    return value("bertie_queue_rows", labels) or 0, value("bertie_queue_tokens", labels) or 0


# ---- what a batch holds ---------------------------------------------------------------------------------------------


@given(
    jobs=st.lists(st.lists(st.integers(1, 64), min_size=1, max_size=20), min_size=1, max_size=12),
    budget=st.integers(64, 300),
    workers=st.integers(1, 3),
    background=st.integers(0, 2),
)
@settings(deadline=None, max_examples=60)
def test_every_row_is_answered_once_within_budget_and_padding(
    jobs: list[list[int]], budget: int, workers: int, background: int
) -> None:
    engine = Echo(workers=workers, background=background)

    async def main() -> None:
        async with running(engine, max_batch_tokens=budget, max_queue_tokens=10**6) as batcher:
            engine.gate.clear()
            asked = [rows(*lengths) for lengths in jobs]
            tasks = [asyncio.create_task(ask(batcher, wanted)) for wanted in asked]
            await asyncio.sleep(0)
            engine.gate.set()
            for wanted, answer in zip(asked, await asyncio.gather(*tasks), strict=True):
                assert answer == echo(wanted)
            names = [int(name) for batch in engine.batches for name in batch.input_ids[:, 0]]
            everyone = [int(r.input_ids[0]) for wanted in asked for r in wanted]
            assert sorted(names) == everyone
            for batch in engine.batches:
                count, tokens = batch.shape
                assert count * tokens <= budget
                assert batch.padding_ratio <= PADDING + 1e-9
            if workers == 1 and not background:
                check_turns(asked, engine.batches, TURN_BATCHES * budget)

    asyncio.run(main())


def check_turns(asked: list[list[Encoded]], batches: Sequence[Batch], share: int) -> None:
    """Each batch holds the first waiting row of the request whose turn it is, whatever its length: none is starved. A
    turn ends after `share` tokens."""
    left = [{int(r.input_ids[0]): len(r) for r in wanted} for wanted in asked]
    turns, spent = list(range(len(asked))), [0] * len(asked)
    for batch in batches:
        names, current = batch.input_ids[:, 0].tolist(), turns[0]
        assert next(iter(left[current])) in names
        spent[current] += sum(left[current].get(name, 0) for name in names)
        for waiting_rows in left:
            for name in names:
                waiting_rows.pop(name, None)
        if spent[current] >= share:
            spent[current] = 0
            turns.append(turns.pop(0))
        turns = [job for job in turns if left[job]]
    assert not turns


async def test_there_is_no_timer() -> None:
    """A free worker takes a row at once; a batch is what came while it was busy."""
    engine = Echo()
    async with running(engine) as batcher:
        async with busy(batcher, engine):
            tasks = [asyncio.create_task(ask(batcher, rows(8))) for _ in range(5)]
            await asyncio.sleep(0.02)
            assert len(engine.batches) == 1
        await asyncio.gather(*tasks)
        assert [batch.shape[0] for batch in engine.batches] == [1, 5]
        job = batcher.submit(rows(8), deadline=soon())
        await batcher.result(job)
        assert 0 <= job.queue_seconds < 1
        assert job.inference_seconds > 0


async def test_a_long_row_is_not_passed_by_for_ever() -> None:
    """Short rows keep coming; the long one is in the very next batch, though no short one fits with it."""
    engine = Echo()
    async with running(engine) as batcher:
        async with busy(batcher, engine):
            long = asyncio.create_task(ask(batcher, rows(64)))
            await asyncio.sleep(0)
            short = [asyncio.create_task(ask(batcher, rows(5))) for _ in range(50)]
            await asyncio.sleep(0)
        await asyncio.gather(long, *short)
        assert engine.batches[1].shape == (1, 64)


async def test_a_book_does_not_keep_a_short_question_waiting() -> None:
    """Of 200 windows, so many run before the question as fill a turn; a second book takes turns with the first."""
    engine = Echo(workers=1)
    async with running(engine, max_queue_tokens=10**6) as batcher:
        async with busy(batcher, engine):
            books = [rows(*[64] * 200), rows(*[64] * 200)]
            asked = await queued(batcher, *books)
            question = rows(8)
            (short,) = await queued(batcher, question)
        assert await short == echo(question)
        for book, answers in zip(books, await asyncio.gather(*asked), strict=True):
            assert answers == echo(book)
    order = [{int(name) for name in batch.input_ids[:, 0]} for batch in engine.batches[1:]]
    names = [{int(r.input_ids[0]) for r in wanted} for wanted in (*books, question)]
    turns = [next(i for i, known in enumerate(names) if batch & known) for batch in order]
    # The question is the third in turn: after one turn of each book, of four batches of 256 tokens.
    assert turns[:10] == [0, 0, 0, 0, 1, 1, 1, 1, 2, 0]
    assert all(len(set(turns[i : i + 9])) == 2 for i in range(9, 90))


class Lanes(Echo):
    """Notes by which thread, and at what niceness, each batch runs; in the background only while `reading` is set."""

    def __init__(self) -> None:
        super().__init__(workers=1, background=1)
        self.ran: list[tuple[str, int]] = []
        self.reading = threading.Event()
        self.reading.set()

    def run(self, batch: Batch) -> Outputs:
        name = threading.current_thread().name
        self.ran.append((name, os.getpriority(os.PRIO_PROCESS, threading.get_native_id())))
        if name.startswith("background"):
            self.reading.wait(SECONDS)
        return super().run(batch)


BOOK = [64] * (TURN_BATCHES * 4 + 1)
"""A row more than may run in a turn."""


async def test_a_book_runs_in_the_background_and_a_question_beside_it() -> None:
    """The question is answered while a call for the book is under way, by a thread that goes first."""
    engine, own = Lanes(), os.getpriority(os.PRIO_PROCESS, 0)
    engine.reading.clear()
    async with running(engine, max_queue_tokens=10**6) as batcher:
        book, question = rows(*BOOK), rows(8)
        reading = batcher.submit(book, deadline=soon())
        await until(lambda: engine.ran)
        assert await ask(batcher, question) == echo(question)
        assert engine.ran == [("background-m-0", own + BACKGROUND_NICE), ("engine-m-0", own)]
        engine.reading.set()
        assert await batcher.result(reading) == echo(book)
        assert {name for name, _ in engine.ran[2:]} == {"background-m-0"}


@pytest.mark.parametrize(("lengths", "priority"), [(BOOK[:-1], "normal"), (BOOK, "high")])
async def test_what_fits_in_a_turn_or_is_urgent_does_not_run_in_the_background(
    lengths: list[int], priority: Priority
) -> None:
    engine = Lanes()
    async with running(engine, max_queue_tokens=10**6) as batcher:
        await batcher.result(batcher.submit(rows(*lengths), deadline=soon(), priority=priority))
    assert {name for name, _ in engine.ran} == {"engine-m-0"}


async def test_a_book_comes_to_the_front_when_half_of_its_time_is_over() -> None:
    """However little time the background gets, most of it is read in time: by the other threads."""
    engine = Lanes()
    async with running(engine, max_queue_tokens=10**6) as batcher:
        engine.reading.clear()
        first = batcher.submit(rows(*BOOK), deadline=soon(60))
        await until(lambda: engine.ran)
        book = rows(*BOOK)
        job = batcher.submit(book, deadline=soon(1.0))
        await asyncio.sleep(0.55)
        engine.reading.set()
        assert await batcher.result(job) == echo(book)
        assert await batcher.result(first)
        assert "engine-m-0" in {name for name, _ in engine.ran}
        assert not job.background
        assert first.background


async def test_a_dead_thread_of_the_background_fails_what_waits_there_alone() -> None:
    class DiesReading(Lanes):
        def run(self, batch: Batch) -> Outputs:
            outputs = super().run(batch)
            if threading.current_thread().name.startswith("background"):
                raise Death
            return outputs

    engine = DiesReading()
    engine.reading.clear()
    async with running(engine, max_queue_tokens=10**6) as batcher:
        reading = batcher.submit(rows(*BOOK), deadline=soon())
        await until(lambda: engine.ran)
        next_book = batcher.submit(rows(*BOOK), deadline=soon())
        engine.gate.clear()
        question = rows(8)
        asking = asyncio.create_task(ask(batcher, question))
        await until(lambda: len(engine.ran) == 2)
        engine.reading.set()
        engine.gate.set()
        with pytest.raises(InferenceError, match="died"):
            await batcher.result(reading)
        with pytest.raises(NotReady, match="lost its workers"):
            await batcher.result(next_book)
        assert await asking == echo(question)
        assert not batcher.ready


async def test_drain_waits_for_the_background() -> None:
    engine = Lanes()
    engine.reading.clear()
    async with running(engine, max_queue_tokens=10**6) as batcher:
        book = rows(*BOOK)
        job = batcher.submit(book, deadline=soon())
        await until(lambda: engine.ran)
        draining = asyncio.create_task(batcher.drain(SECONDS))
        await asyncio.sleep(0.03)
        assert not draining.done()
        engine.reading.set()
        assert await draining
        assert await batcher.result(job) == echo(book)
        await until(lambda: not any(thread.is_alive() for lane in batcher._lanes for thread in lane.threads))


async def test_a_higher_priority_goes_first() -> None:
    engine = Echo(workers=1)
    async with running(engine, max_batch_tokens=64) as batcher:
        async with busy(batcher, engine):
            jobs = {
                priority: batcher.submit(rows(64, 64), deadline=soon(), priority=priority)
                for priority in reversed(PRIORITIES)
            }
            names = {
                int(waiting_row.input_ids[0]): priority
                for priority, job in jobs.items()
                for waiting_row in job.waiting.values()
            }
        await asyncio.gather(*map(batcher.result, jobs.values()))
    # The row that kept the engine was the first batch; of the next the third is for the one that has waited longest.
    order = [names[int(batch.input_ids[0, 0])] for batch in engine.batches[1:]]
    assert order == ["high", "high", "low", "normal", "normal", "low"]


async def test_a_request_of_a_few_batches_ends_before_the_next_begins() -> None:
    """Taking turns row by row would make every request of several rows as slow as the slowest."""
    engine = Echo(workers=1)
    async with running(engine, max_queue_tokens=10**6) as batcher:
        async with busy(batcher, engine):
            both = [rows(*[64] * 16), rows(*[64] * 16)]
            asked = await queued(batcher, *both)
        await asyncio.gather(*asked)
    first = {int(r.input_ids[0]) for r in both[0]}
    assert [bool(first & set(batch.input_ids[:, 0])) for batch in engine.batches[1:]] == [True] * 4 + [False] * 4


async def test_rows_of_like_length_go_together() -> None:
    engine = Echo()
    async with running(engine) as batcher:
        async with busy(batcher, engine):
            mixed = rows(10, 40, 10, 40, 10, 40, 10, 40)
            task = asyncio.create_task(ask(batcher, mixed))
            await asyncio.sleep(0)
        assert await task == echo(mixed)
        assert [batch.shape for batch in engine.batches[1:]] == [(4, 10), (4, 40)]


async def test_an_odd_length_waits_for_few_who_came_after_it() -> None:
    """Rows like the first one's length come without end, from farther back than a batch looks: they do not go first."""
    engine = Echo(workers=1)
    async with running(engine, max_batch_tokens=64) as batcher:
        async with busy(batcher, engine):
            wanted = rows(*[8, 40] * 3, *[8] * 100)
            task = asyncio.create_task(ask(batcher, wanted))
            await asyncio.sleep(0)
        assert await task == echo(wanted)
        # A batch's tokens from the head are 8, 40, 8, 40: of those the two of 8 go, and no later one.
        assert [batch.shape for batch in engine.batches[1:3]] == [(2, 8), (1, 40)]


async def test_several_workers_run_side_by_side() -> None:
    """Two rows wait and two workers are free: each takes one, instead of one taking both."""
    barrier = threading.Barrier(2, timeout=SECONDS)

    class Pair(Echo):
        def run(self, batch: Batch) -> Outputs:
            barrier.wait()
            return super().run(batch)

    engine = Pair(workers=2)
    async with running(engine) as batcher:
        wanted = rows(8, 8)
        assert await ask(batcher, wanted) == echo(wanted)
        assert [batch.shape[0] for batch in engine.batches] == [1, 1]


async def test_a_row_alone_equals_the_row_in_a_batch(models_dir: Path) -> None:
    engine = OrtEngine(models_dir / "nli" / "model.fp32.onnx", provider="cpu", workers=1, intra_op_threads=1)
    tokenizer = Tokenizer.from_file(models_dir / "nli" / "tokenizer.json")
    texts = ["the dog is sleeping", "the dog is not good", "a good film", "nobody in paris", "it", "a b c d e f g"]
    ids = tokenizer.ids(texts)
    wanted = [tokenizer.pair.fill(a, b) for a in ids for b in ids]
    gated = GatedEngine(engine)
    async with running(gated, max_batch_tokens=1024) as batcher:
        alone = [(await batcher.result(batcher.submit([r], deadline=soon())))[0][0] for r in wanted]
        gated.batches.clear()
        async with busy(batcher, gated):
            task = asyncio.create_task(batcher.result(batcher.submit(wanted, deadline=soon())))
            await asyncio.sleep(0)
        together = [logits for (logits,) in await task]
    assert len(gated.batches) < len(wanted) / 2
    assert len({tuple(logits.tolist()) for logits in alone}) > 3
    np.testing.assert_allclose(np.stack(alone), np.stack(together), atol=1e-5)


class GatedEngine(FakeEngine):
    """A real engine behind a gate."""

    def __init__(self, engine: OrtEngine) -> None:
        super().__init__()
        self._engine = engine

    def run(self, batch: Batch) -> Outputs:
        super().run(batch)
        return self._engine.run(batch)


# ---- callers that leave or come too late ----------------------------------------------------------------------------


async def test_a_caller_who_went_away_costs_no_inference() -> None:
    engine, metrics = Echo(), Metrics()
    async with running(engine, metrics=metrics) as batcher:
        gone = rows(8, 9, 10)
        stays = rows(8)
        async with busy(batcher, engine):
            leaving = asyncio.create_task(ask(batcher, gone))
            await asyncio.sleep(0)
            staying = asyncio.create_task(ask(batcher, stays))
            await asyncio.sleep(0)
            assert waiting(batcher, metrics) == (4, 35)
            leaving.cancel()
            with pytest.raises(asyncio.CancelledError):
                await leaving
            assert waiting(batcher, metrics) == (1, 8)  # its place is free at once, not when a worker comes by
        assert await staying == echo(stays)
        assert not seen(engine) & {int(r.input_ids[0]) for r in gone}


async def test_a_caller_who_leaves_while_its_rows_run_harms_nobody() -> None:
    engine = Echo()
    async with running(engine) as batcher:
        async with busy(batcher, engine) as first:
            first.cancel()
        wanted = rows(8, 20)
        assert await ask(batcher, wanted) == echo(wanted)


async def test_rows_past_their_deadline_cost_no_inference() -> None:
    engine, metrics = Echo(), Metrics()
    async with running(engine, metrics=metrics) as batcher:
        late = rows(8, 8)
        async with busy(batcher, engine):
            with pytest.raises(DeadlineExceeded):
                await ask(batcher, late, seconds=0.02)
            assert waiting(batcher, metrics) == (0, 0)
        wanted = rows(8)
        assert await ask(batcher, wanted) == echo(wanted)
        assert not seen(engine) & {int(r.input_ids[0]) for r in late}


async def test_a_worker_drops_late_rows_whose_caller_does_not_watch() -> None:
    """The loop may be too busy to fire the caller's own timer: the worker looks at the clock itself."""
    engine, metrics = Echo(), Metrics()
    async with running(engine, metrics=metrics, max_queue_tokens=10**6) as batcher:
        late = [row() for _ in range(600)]
        before, after = rows(8), rows(8)
        async with busy(batcher, engine):
            # The one before them is on time, and so short that the batch looks at those behind it too.
            tasks = await queued(batcher, before)
            deadline = soon(0.2)
            jobs = [batcher.submit([one], deadline=deadline) for one in late]
            tasks += await queued(batcher, after)
            while time.perf_counter() < deadline:
                time.sleep(0.01)  # the loop is too busy
        assert await asyncio.gather(*tasks) == [echo(before), echo(after)]
        for job in jobs:
            assert isinstance(job.future.exception(), DeadlineExceeded)
        assert not seen(engine) & {int(one.input_ids[0]) for one in late}
        assert waiting(batcher, metrics) == (0, 0)


async def test_what_is_late_already_is_not_admitted() -> None:
    engine, metrics = Echo(), Metrics()
    async with running(engine, metrics=metrics) as batcher:
        with pytest.raises(DeadlineExceeded):
            batcher.submit(rows(8), deadline=soon(-0.001))
        assert waiting(batcher, metrics) == (0, 0)
        assert not engine.batches


async def test_deadline_and_answer_at_the_same_moment() -> None:
    """Whichever wins, the caller gets the answer or the error, and nothing is left behind."""
    engine, metrics = Echo(seconds=0.004), Metrics()
    outcomes = set()
    async with running(engine, metrics=metrics) as batcher:
        for i in range(60):
            wanted = rows(8, 16)
            try:
                assert await ask(batcher, wanted, seconds=0.004 + i * 0.0002) == echo(wanted)
                outcomes.add("answer")
            except DeadlineExceeded:
                outcomes.add("late")
        wanted = rows(8)
        assert await ask(batcher, wanted) == echo(wanted)
        assert waiting(batcher, metrics) == (0, 0)
    assert "late" in outcomes


# ---- a full queue ---------------------------------------------------------------------------------------------------


async def test_a_full_queue_refuses_all_or_none_and_says_when() -> None:
    engine, metrics = Echo(seconds=0.05), Metrics()
    async with running(engine, metrics=metrics, max_queue_tokens=100) as batcher:
        await ask(batcher, rows(50))  # measures: 50 tokens in about 0.05 s
        async with busy(batcher, engine):
            waits = asyncio.create_task(ask(batcher, rows(50, 40)))
            await asyncio.sleep(0)
            with pytest.raises(QueueFull, match=r"90 tokens wait.*100$") as error:
                batcher.submit(rows(4, 7), deadline=soon())
            assert 0.01 < error.value.retry_after < 5  # 90 tokens at 1000 a second or less
            assert waiting(batcher, metrics) == (2, 90)
            with pytest.raises(QueueFull):  # before any work on a request, and though this one would fit
                batcher.check_open()
            with pytest.raises(QueueFull):
                batcher.submit(rows(4, 6), deadline=soon())
        await waits
        batcher.check_open()
        await ask(batcher, rows(60))


async def test_a_queue_that_has_never_been_full_takes_what_fits() -> None:
    engine, metrics = Echo(), Metrics()
    async with running(engine, metrics=metrics, max_queue_tokens=100) as batcher, busy(batcher, engine):
        jobs = [batcher.submit(wanted, deadline=soon()) for wanted in (rows(50, 40), rows(4, 6))]
        batcher.check_open()
        assert waiting(batcher, metrics) == (4, 100)
        engine.gate.set()
        for job in jobs:
            await batcher.result(job)


async def test_a_huge_request_that_does_not_fit_keeps_nobody_else_out() -> None:
    engine = Echo()
    async with running(engine, max_queue_tokens=100) as batcher, busy(batcher, engine):
        jobs = [batcher.submit(rows(30), deadline=soon())]
        with pytest.raises(QueueFull):
            batcher.submit(rows(50, 50), deadline=soon())
        jobs.append(batcher.submit(rows(20), deadline=soon()))
        engine.gate.set()
        for job in jobs:
            await batcher.result(job)


async def test_retry_after_is_when_the_queue_admits_again() -> None:
    engine = Echo(seconds=0.02)
    async with running(engine, max_batch_tokens=64, max_queue_tokens=4096) as batcher:
        await ask(batcher, rows(*[8] * 80))  # measures: 64 tokens in a little over 0.02 s
        jobs: list[Job] = []

        def fill() -> None:
            while len(jobs) < 4096:  # however quick the workers are, they run far less than this
                jobs.append(batcher.submit(rows(8), deadline=soon()))

        with pytest.raises(QueueFull) as error:
            fill()
        began = time.perf_counter()
        while True:
            with contextlib.suppress(QueueFull):
                batcher.check_open()
                break
            await asyncio.sleep(0.005)
        waited = time.perf_counter() - began
        assert waited / 2 <= error.value.retry_after <= waited * 2
        assert 0 < batcher._turns.tokens <= 2048  # half full: the workers never waited
        for job in jobs:
            await batcher.result(job)


async def test_retry_after_before_anything_was_measured() -> None:
    engine = Echo()
    async with running(engine, max_queue_tokens=10) as batcher, busy(batcher, engine):
        waits = batcher.submit(rows(8), deadline=soon())
        with pytest.raises(QueueFull) as error:
            batcher.submit(rows(8), deadline=soon())
        assert math.isfinite(error.value.retry_after)
        assert error.value.retry_after > 0
        engine.gate.set()
        await batcher.result(waits)


async def test_a_request_larger_than_the_queue_runs_when_nothing_waits() -> None:
    engine = Echo()
    async with running(engine, max_queue_tokens=100) as batcher:
        wanted = rows(*[60] * 5)
        assert await ask(batcher, wanted) == echo(wanted)
        async with busy(batcher, engine):
            job = batcher.submit(wanted, deadline=soon())
            with pytest.raises(QueueFull):
                batcher.submit(rows(1), deadline=soon())
        await batcher.result(job)


async def test_a_book_in_the_queue_keeps_no_short_request_out() -> None:
    """1,000 windows, four times what the queue holds: short requests are admitted, and answered in few batches."""
    engine, metrics = Echo(workers=1), Metrics()
    async with running(engine, metrics=metrics, max_queue_tokens=16384) as batcher:
        async with busy(batcher, engine):
            book = rows(*[64] * 1000)
            (reading,) = await queued(batcher, book)
            assert waiting(batcher, metrics) == (1000, 64_000)  # what is told is what there is
            batcher.check_open()
            questions = [rows(*[8] * 4) for _ in range(100)]
            asked = await queued(batcher, *questions)
        assert await asyncio.gather(*asked) == list(map(echo, questions))
        assert len(engine.batches) < 1 + TURN_BATCHES + 100 * 32 / 256 + TURN_BATCHES + 3
        assert await reading == echo(book)


async def test_a_flood_of_books_is_refused_in_time() -> None:
    """Before they hold many full queues' tokens; what is short is still admitted, and the next book when it may."""
    engine, metrics = Echo(seconds=0.001), Metrics()
    limit = 4096
    async with running(engine, metrics=metrics, max_queue_tokens=limit) as batcher:
        await ask(batcher, rows(*[64] * 16))
        async with busy(batcher, engine):
            jobs = [batcher.submit(rows(*[64] * 200), deadline=soon(60)) for _ in range(2)]
            with pytest.raises(QueueFull, match="long requests") as error:
                batcher.submit(rows(*[64] * 200), deadline=soon(60))
            assert waiting(batcher, metrics)[1] <= (HELD + 1) * limit
            batcher.check_open()
            jobs.append(batcher.submit(rows(8), deadline=soon(60)))
            with pytest.raises(QueueFull):
                batcher.submit(rows(*[64] * 200), deadline=soon(60))
        assert error.value.retry_after > 0
        await asyncio.gather(*map(batcher.result, jobs))
        async with busy(batcher, engine):
            job = batcher.submit(rows(*[64] * 600), deadline=soon(60))  # nothing waits: any fits
            assert waiting(batcher, metrics)[1] > (HELD + 1) * limit
            jobs = [job, batcher.submit(rows(8), deadline=soon(60))]  # and lets short ones pass even so
        await asyncio.gather(*map(batcher.result, jobs))


async def test_retry_after_knows_that_a_book_is_counted_to_its_end() -> None:
    """Books that fill a queue take turns: they count for as much as ever until all of them are nearly done."""
    engine = Echo(seconds=0.004)
    async with running(engine, max_queue_tokens=1024) as batcher:
        await ask(batcher, rows(*[64] * 100))
        async with busy(batcher, engine):
            books = [batcher.submit(rows(*[64] * 30), deadline=soon(60)) for _ in range(4)]
            with pytest.raises(QueueFull):
                batcher.submit(rows(8), deadline=soon(60))
            began = time.perf_counter()
        with pytest.raises(QueueFull) as error:
            batcher.check_open()
        while True:
            with contextlib.suppress(QueueFull):
                batcher.check_open()
                break
            await asyncio.sleep(0.002)
        waited = time.perf_counter() - began
        assert waited / 2 <= error.value.retry_after <= waited * 2
        await asyncio.gather(*map(batcher.result, books))


async def test_failures_at_full_speed_do_not_promise_a_short_queue() -> None:
    """Batches that fail at once are no measure of how fast rows are answered."""
    engine = Echo(seconds=0.05)
    async with running(engine, max_queue_tokens=100) as batcher:
        await ask(batcher, rows(50))
        engine.error, engine.seconds = RuntimeError("broken"), 0.0
        for _ in range(15):
            with pytest.raises(InferenceError):
                await ask(batcher, rows(50))
        engine.error = None
        async with busy(batcher, engine):
            job = batcher.submit(rows(50, 40), deadline=soon())
            with pytest.raises(QueueFull) as error:
                batcher.submit(rows(50), deadline=soon())
            assert error.value.retry_after > 0.01
        await batcher.result(job)


async def test_thousands_of_waiting_rows_make_nothing_slow() -> None:
    """In the loop thread's own time: others may keep the machine busy."""
    engine, metrics = Echo(), Metrics()
    async with running(engine, metrics=metrics, max_queue_tokens=65536) as batcher:
        async with busy(batcher, engine):
            jobs = [batcher.submit(rows(8), deadline=soon(60)) for _ in range(8192)]
            refused = rows(8)
            began = time.thread_time()
            for _ in range(2000):
                with contextlib.suppress(QueueFull):
                    batcher.submit(refused, deadline=soon())
            assert time.thread_time() - began < 0.5
            tasks = [asyncio.create_task(batcher.result(job)) for job in jobs]
            await asyncio.sleep(0)
            began = time.thread_time()
            for task in tasks[:-1]:
                task.cancel()
            await asyncio.wait(tasks[:-1])
            assert time.thread_time() - began < 1.0
            assert waiting(batcher, metrics) == (1, 8)
        await tasks[-1]
        assert engine.rows == 2


# ---- failures -------------------------------------------------------------------------------------------------------


async def test_an_engines_exception_fails_that_batch_alone() -> None:
    engine = Echo()
    async with running(engine) as batcher:
        async with busy(batcher, engine) as first:
            engine.error = RuntimeError("broken")
        with pytest.raises(InferenceError) as error:
            await first
        assert str(error.value.__cause__) == "broken"
        assert "broken" not in error.value.detail  # an engine's own words may hold a caller's
        engine.error = None
        assert batcher.ready
        wanted = rows(8)
        assert await ask(batcher, wanted) == echo(wanted)


async def test_rows_of_a_failed_job_in_other_batches_cost_no_inference() -> None:
    class FailsOnLong(Echo):
        def run(self, batch: Batch) -> Outputs:
            outputs = super().run(batch)
            if batch.shape[1] > 40:
                raise RuntimeError("too long")
            return outputs

    engine, metrics = FailsOnLong(), Metrics()
    async with running(engine, metrics=metrics) as batcher:
        async with busy(batcher, engine):
            broken, fine = rows(50, 8, 8), rows(20, 8)
            failing = asyncio.create_task(ask(batcher, broken))
            await asyncio.sleep(0)
            working = asyncio.create_task(ask(batcher, fine))
            await asyncio.sleep(0)
        with pytest.raises(InferenceError):
            await failing
        assert await working == echo(fine)
        assert int(broken[1].input_ids[0]) not in seen(engine)
        assert waiting(batcher, metrics) == (0, 0)


async def test_an_engine_that_loses_rows_is_an_error() -> None:
    class Loses(Echo):
        def run(self, batch: Batch) -> Outputs:
            return tuple(output[1:] for output in super().run(batch))

    async with running(Loses()) as batcher:
        with pytest.raises(InferenceError) as error:
            await ask(batcher, rows(8))
        assert "[0, 0] rows came back of 1" in str(error.value.__cause__)
        assert batcher.ready


async def test_a_dead_worker_fails_its_batch_and_turns_readiness_off() -> None:
    engine, metrics = Echo(), Metrics()
    engine.error = Death()  # type: ignore[assignment]
    async with running(engine, metrics=metrics) as batcher:
        assert batcher.ready
        engine.gate.clear()
        running_job = batcher.submit(rows(8), deadline=soon())
        await until(engine.entered.is_set)
        waiting_job = batcher.submit(rows(64, 8), deadline=soon())
        engine.gate.set()
        began = time.perf_counter()
        with pytest.raises(InferenceError, match="died"):
            await batcher.result(running_job)
        with pytest.raises(NotReady, match="lost its workers"):
            await batcher.result(waiting_job)
        assert time.perf_counter() - began < SECONDS / 2  # told, not timed out
        assert not batcher.ready
        assert waiting(batcher, metrics) == (0, 0)
        with pytest.raises(NotReady):
            batcher.submit(rows(8), deadline=soon())


async def test_what_a_dead_worker_leaves_is_finished_by_the_others() -> None:
    class DiesOfOne(Echo):
        def run(self, batch: Batch) -> Outputs:
            outputs = super().run(batch)
            if batch.shape[1] == 13:
                raise Death
            return outputs

    engine = DiesOfOne(workers=2)
    async with running(engine) as batcher:
        engine.gate.clear()
        doomed = batcher.submit(rows(13), deadline=soon())
        fine = [batcher.submit([r], deadline=soon()) for r in rows(*range(20, 60, 10))]
        engine.gate.set()
        with pytest.raises(InferenceError):
            await batcher.result(doomed)
        for job in fine:
            await batcher.result(job)
        await until(lambda: not batcher.ready)
        with pytest.raises(NotReady):
            batcher.submit(rows(8), deadline=soon())


async def test_all_workers_dying_at_once_leave_nobody_waiting() -> None:
    for _ in range(15):
        barrier = threading.Barrier(3, timeout=SECONDS)

        class DieTogether(Echo):
            def run(self, batch: Batch, barrier: threading.Barrier = barrier) -> Outputs:
                barrier.wait()
                raise Death

        batcher = make(DieTogether(workers=3), max_batch_tokens=64, max_queue_tokens=10**6)
        batcher.start()
        jobs: list[Job] = []
        with contextlib.suppress(NotReady):
            while len(jobs) < 2000:  # submits as they die
                jobs.append(batcher.submit(rows(60), deadline=soon()))
                if len(jobs) > 6:
                    await asyncio.sleep(0)
        async with asyncio.timeout(SECONDS):
            while batcher.ready:
                await asyncio.sleep(0.001)
        began = time.perf_counter()
        outcomes = await asyncio.gather(*map(batcher.result, jobs), return_exceptions=True)
        assert time.perf_counter() - began < SECONDS / 2
        assert {type(outcome) for outcome in outcomes} <= {InferenceError, NotReady}
        assert await batcher.drain(1)


# ---- start and end --------------------------------------------------------------------------------------------------


def test_a_budget_below_the_longest_row_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"BERTIE_MAX_BATCH_TOKENS=63 .*64 tokens of model 'm'"):
        make(Echo(), max_batch_tokens=63)


async def test_nothing_is_admitted_before_the_start() -> None:
    batcher = make(Echo())
    assert not batcher.ready
    with pytest.raises(NotReady):
        batcher.submit(rows(8), deadline=soon())
    assert await batcher.drain(1)


async def test_drain_finishes_what_was_admitted_and_refuses_the_rest() -> None:
    engine = Echo()
    async with running(engine) as batcher:
        async with busy(batcher, engine) as first:
            admitted = [rows(8, 30), rows(64)]
            tasks = [asyncio.create_task(ask(batcher, wanted)) for wanted in admitted]
            await asyncio.sleep(0)
            draining = asyncio.create_task(batcher.drain(SECONDS))
            await asyncio.sleep(0)
            assert not batcher.ready
            with pytest.raises(NotReady):
                batcher.submit(rows(8), deadline=soon())
            await asyncio.sleep(0.03)
            assert not draining.done()
        assert await draining
        assert first.done()
        assert [await task for task in tasks] == [echo(wanted) for wanted in admitted]


async def test_drain_gives_up_in_time() -> None:
    engine = Echo()
    async with running(engine) as batcher:
        async with busy(batcher, engine) as first:
            job = batcher.submit(rows(64), deadline=soon())
            began = time.perf_counter()
            assert not await batcher.drain(0.05)
            assert time.perf_counter() - began < SECONDS / 2
            with pytest.raises(NotReady, match="stopped before"):
                await batcher.result(job)
        await first  # what was in the engine is answered even so
        await until(lambda: not any(thread.is_alive() for thread in batcher._lanes[0].threads))


async def test_drain_at_any_moment_loses_nothing() -> None:
    """A batch that is just being taken is neither in the queue nor with a worker, for an instant."""
    randomness = random.Random(7)
    for _ in range(40):
        engine = Echo(workers=2)
        batcher = make(engine, max_batch_tokens=64)
        batcher.start()
        wanted = [rows(*[randomness.randint(1, 64) for _ in range(4)]) for _ in range(4)]
        tasks = [asyncio.create_task(ask(batcher, one)) for one in wanted]
        for _ in range(randomness.randint(1, 4)):
            await asyncio.sleep(0)
        assert await batcher.drain(SECONDS)
        assert await asyncio.gather(*tasks) == [echo(one) for one in wanted]


def test_a_loop_that_is_gone_kills_no_worker() -> None:
    engine = Echo()
    batcher = make(engine)

    async def leave() -> None:
        batcher.start()
        engine.gate.clear()
        batcher.submit(rows(8), deadline=soon())
        await until(engine.entered.is_set)

    asyncio.run(leave())
    engine.gate.set()
    assert asyncio.run(batcher.drain(SECONDS))
    for thread in batcher._lanes[0].threads:
        thread.join(SECONDS)
        assert not thread.is_alive()


async def test_batches_are_measured() -> None:
    engine, metrics = Echo(), Metrics()
    async with running(engine, metrics=metrics) as batcher:
        async with busy(batcher, engine):
            task = asyncio.create_task(ask(batcher, rows(25, 24)))
            await asyncio.sleep(0)
        await task

    def value(name: str) -> float | None:
        return metrics.registry.get_sample_value(name, {"model": "m"})

    assert value("bertie_batch_rows_count") == 2
    assert value("bertie_batch_rows_sum") == 3
    assert value("bertie_batch_tokens_sum") == 8 + 50
    assert value("bertie_padding_ratio_sum") == pytest.approx(1 / 50)


@given(
    seed=st.integers(0, 2**32 - 1),
    workers=st.integers(1, 3),
    failing=st.sampled_from([0.0, 0.2]),
)
@settings(deadline=None, max_examples=20)
def test_under_any_traffic_every_caller_hears_once(seed: int, workers: int, failing: float) -> None:
    """Callers come, leave, run late and are refused, while batches fail: each hears the truth, and nothing is left."""
    randomness = random.Random(seed)

    class Flaky(Echo):
        def run(self, batch: Batch) -> Outputs:
            outputs = super().run(batch)
            time.sleep(randomness.random() * 0.0005)
            if randomness.random() < failing:
                raise RuntimeError("broken")
            return outputs

    async def caller(batcher: Batcher) -> None:
        await asyncio.sleep(randomness.random() * 0.01)
        wanted = rows(*[randomness.randint(1, 64) for _ in range(randomness.randint(1, 6))])
        with contextlib.suppress(QueueFull, DeadlineExceeded, InferenceError):
            assert await ask(batcher, wanted, seconds=randomness.choice([0.001, 0.005, SECONDS])) == echo(wanted)

    async def main() -> None:
        metrics = Metrics()
        async with running(Flaky(workers=workers), metrics=metrics, max_queue_tokens=600) as batcher:
            tasks = [asyncio.create_task(caller(batcher)) for _ in range(40)]
            for task in randomness.sample(tasks, 10):
                await asyncio.sleep(randomness.random() * 0.002)
                task.cancel()
            for outcome in await asyncio.gather(*tasks, return_exceptions=True):
                assert outcome is None or isinstance(outcome, asyncio.CancelledError)
            assert waiting(batcher, metrics) == (0, 0)
            assert batcher.ready
            assert await batcher.drain(SECONDS)

    asyncio.run(main())


# ---- what is alone --------------------------------------------------------------------------------------------------


async def test_another_models_work_counts_too() -> None:
    """Two models of one process: while one runs or waits, nothing of the other's is alone."""
    load, lone, other = Load(), Echo(), Echo()
    async with (
        running(Echo(), schedule=Schedule(256, lone, 8), load=load) as batcher,
        running(other, load=load) as second,
    ):
        async with busy(second, other):
            await ask(batcher, rows(64))
            assert not lone.batches
        await until(lambda: not load.rows)
        await ask(batcher, rows(64))
        assert len(lone.batches) == 1


async def test_nothing_is_left_of_what_failed_left_or_came_late() -> None:
    load, engine = Load(), Echo()
    async with running(engine, load=load) as batcher:
        async with busy(batcher, engine):
            (leaving,) = await queued(batcher, rows(8, 8))
            late = batcher.submit(rows(9, 9), deadline=soon(0.02))
            with pytest.raises(DeadlineExceeded):
                await batcher.result(late)
            leaving.cancel()
            await asyncio.wait([leaving])
            engine.error = RuntimeError("broken")
            failing = batcher.submit(rows(60, 8, 30), deadline=soon())
            assert load.rows == 4
        with pytest.raises(InferenceError):
            await batcher.result(failing)
        await until(lambda: not load.rows)


async def test_the_rate_of_all_cores_is_not_that_of_each_worker() -> None:
    engine, lone = Echo(workers=4), Echo(seconds=0.05)
    async with running(engine, schedule=Schedule(256, lone, 8)) as batcher:
        await ask(batcher, rows(50))
        await until(batcher._idle)
        assert len(lone.batches) == 1
        assert batcher._tokens_per_second <= 50 / 0.05


async def test_what_is_alone_and_long_runs_on_all_cores() -> None:
    engine, lone = Echo(workers=2), Echo()
    async with running(engine, schedule=Schedule(256, lone, 32)) as batcher:
        for length, expected in ((31, engine), (32, lone), (64, lone)):
            wanted = rows(length)
            await until(batcher._idle)
            assert await ask(batcher, wanted) == echo(wanted)
            assert seen(expected) >= {int(wanted[0].input_ids[0])}


async def test_under_load_each_batch_has_one_core() -> None:
    engine, lone = Echo(workers=2, seconds=0.1), Echo()
    async with running(engine, schedule=Schedule(256, lone, 8)) as batcher:
        wanted = rows(64, 64)  # one for each worker: neither is alone
        assert await ask(batcher, wanted) == echo(wanted)
        assert not lone.batches
        await until(batcher._idle)  # the answer is on its way before its worker is free
        lone.gate.clear()
        first = asyncio.create_task(ask(batcher, rows(64)))
        await until(lone.entered.is_set)
        later = rows(64)
        assert await ask(batcher, later) == echo(later)  # runs beside the one on all cores
        lone.gate.set()
        await first
        assert (len(lone.batches), len(engine.batches)) == (1, 3)


async def test_a_failure_of_the_lone_session_is_the_batchs_alone() -> None:
    engine, lone = Echo(), Echo()
    lone.error = RuntimeError("no memory")
    async with running(engine, schedule=Schedule(256, lone, 8)) as batcher:
        with pytest.raises(InferenceError):
            await ask(batcher, rows(8))
        lone.error = None
        wanted = rows(8)
        assert await ask(batcher, wanted) == echo(wanted)
