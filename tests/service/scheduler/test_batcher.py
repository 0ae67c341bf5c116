"""What a batch holds, and what becomes of it: each row gets its own logits, or an error of its own."""

import asyncio
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.engine.batch import Batch, Encoded
from service.engine.session import Outputs
from service.errors import InferenceError
from service.metrics import Metrics
from service.scheduler import batcher
from service.scheduler.batcher import PADDING
from service.scheduler.queue import BatchRun, Job, Runner, Waiting
from tests.engines import Death, Echo, name, rows


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


def waiting(loop: asyncio.AbstractEventLoop, given: Sequence[Encoded], batch_tokens: int = 256) -> list[Waiting]:
    """The rows of one job."""
    job = Job(Runner("m", Echo(), 0, batch_tokens), given, None, loop.create_future())
    return [Waiting(job, place, row) for place, row in enumerate(given)]


def ran(rows: Sequence[Waiting], ended: float) -> BatchRun:
    """These rows as a batch that has run."""
    return BatchRun("m", 0.0, ended, len(rows), sum(len(waiting.row) for waiting in rows))


def compose(loop: asyncio.AbstractEventLoop, *lengths: int, budget: int = 256, most_rows: int = 1000) -> list[int]:
    """Lengths of the rows that are chosen."""
    return [len(each.row) for each in batcher.compose(waiting(loop, rows(*lengths), budget), most_rows, budget)]


# ---- what it holds --------------------------------------------------------------------------------------------------


@given(
    lengths=st.lists(st.integers(1, 120), min_size=1, max_size=60),
    budget=st.integers(1, 300),
    most_rows=st.integers(1, 20),
)
@settings(deadline=None)
def test_a_batch_keeps_its_budget_and_its_padding(
    loop: asyncio.AbstractEventLoop, lengths: list[int], budget: int, most_rows: int
) -> None:
    given = waiting(loop, rows(*lengths), budget)
    chosen = batcher.compose(given, most_rows, budget)
    assert chosen[0] is given[0]  # whoever is due first is in, whatever its length
    assert len(set(chosen)) == len(chosen) <= most_rows
    assert set(chosen) <= set(given)
    tokens, longest = sum(len(each.row) for each in chosen), max(len(each.row) for each in chosen)
    assert len(chosen) == 1 or longest * len(chosen) <= budget
    assert 1 - tokens / (longest * len(chosen)) <= PADDING + 1e-9


def test_rows_of_like_length_go_together(loop: asyncio.AbstractEventLoop) -> None:
    assert compose(loop, 10, 40, 10, 40, 10, 40) == [10, 10, 10]
    assert compose(loop, 40, 10, 40, 10, 39) == [40, 40, 39]


def test_a_batch_is_full_at_its_budget(loop: asyncio.AbstractEventLoop) -> None:
    assert compose(loop, *[64] * 6) == [64] * 4
    assert compose(loop, 300, 300) == [300]


def test_what_other_workers_are_free_for_is_left_to_them(loop: asyncio.AbstractEventLoop) -> None:
    assert compose(loop, *[8] * 6, most_rows=3) == [8] * 3


# ---- what becomes of it ---------------------------------------------------------------------------------------------


def run(loop: asyncio.AbstractEventLoop, engine: Echo, given: Sequence[Encoded]) -> list[batcher.Result]:
    return batcher.run(waiting(loop, given), engine, Metrics())


def echo(row: Encoded) -> tuple[float, float]:
    """What `Echo` answers to the row."""
    return float(name(row)), float(len(row))


def told(results: Sequence[batcher.Result]) -> list[object]:
    """The answers of `Echo`, and the errors' kinds."""
    return [type(each) if isinstance(each, Exception) else tuple(float(part[0]) for part in each) for each in results]


def test_each_row_gets_its_own_logits(loop: asyncio.AbstractEventLoop) -> None:
    engine, given = Echo(), rows(10, 9, 10)
    assert told(run(loop, engine, given)) == [echo(row) for row in given]
    assert [batch.shape for batch in engine.batches] == [(3, 10)]


class Picky(Echo):
    """Fails every batch with a row of 13 tokens."""

    def run(self, batch: Batch) -> Outputs:
        outputs = super().run(batch)
        if 13 in batch.attention_mask.sum(axis=1):
            raise RuntimeError("thirteen: a client's words")
        return outputs


def test_an_exception_fails_the_guilty_row_alone(loop: asyncio.AbstractEventLoop) -> None:
    engine, given = Picky(), rows(12, 13, 14, 13)
    results = run(loop, engine, given)
    assert told(results) == [echo(given[0]), InferenceError, echo(given[2]), InferenceError]
    assert [batch.shape[0] for batch in engine.batches] == [4, 1, 1, 1, 1]
    assert isinstance(results[1], InferenceError)
    assert "thirteen" not in results[1].detail  # an engine's own words may hold a client's
    assert isinstance(results[1].__cause__, RuntimeError)
    assert results[1] is not results[3]


def test_an_engine_that_loses_rows_is_an_error(loop: asyncio.AbstractEventLoop) -> None:
    class Loses(Echo):
        def run(self, batch: Batch) -> Outputs:
            return tuple(output[1:] for output in super().run(batch))

    (error,) = run(loop, Loses(), rows(8))
    assert isinstance(error, InferenceError)
    assert "[0, 0] rows came back of 1" in str(error.__cause__)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_an_error_of_that_row_alone(loop: asyncio.AbstractEventLoop, value: float) -> None:
    class Broken(Echo):
        def run(self, batch: Batch) -> Outputs:
            first, second = super().run(batch)
            second[1] = value
            return first, second

    given = rows(8, 8, 8)
    results = run(loop, Broken(), given)
    assert told(results) == [echo(given[0]), InferenceError, echo(given[2])]
    assert "finite" in str(results[1])


def test_what_stands_at_paddings_places_may_be_anything(loop: asyncio.AbstractEventLoop) -> None:
    class Spans(Echo):
        def run(self, batch: Batch) -> Outputs:
            super().run(batch)
            logits = np.where(batch.attention_mask == 1, 1.0, np.nan).astype(np.float32)
            return logits, logits

    results = run(loop, Spans(), rows(12, 11))
    assert not any(isinstance(each, Exception) for each in results)


def test_what_kills_a_worker_is_not_held_up(loop: asyncio.AbstractEventLoop) -> None:
    engine = Echo()
    engine.error = Death()
    with pytest.raises(Death):
        run(loop, engine, rows(8, 8))


def test_a_job_is_complete_when_its_last_row_is(loop: asyncio.AbstractEventLoop) -> None:
    """Word of several batches comes in any order."""
    given = waiting(loop, rows(8, 8, 8))
    job, logits = given[0].job, tuple(np.full(1, i, np.float32) for i in range(3))
    later, sooner = ran(given[1:], 5.0), ran(given[:1], 4.0)
    batcher.deliver(given[1:], [(logits[1],), (logits[2],)], later)
    assert not job.future.done()
    batcher.deliver(given[:1], [(logits[0],)], sooner)
    assert job.future.done()
    assert [each for (each,) in job.logits] == list(logits)
    assert job.ended == 5.0
    assert job.batches == [later, sooner]


def test_the_first_error_of_a_job_is_its_outcome(loop: asyncio.AbstractEventLoop) -> None:
    given = waiting(loop, rows(8, 8, 8))
    job, first = given[0].job, InferenceError("first")
    batcher.deliver(given[:2], [first, InferenceError("second")], ran(given[:2], 1.0))
    batcher.deliver(given[2:], [(np.zeros(1, np.float32),)], ran(given[2:], 2.0))
    assert job.future.exception() is first
    assert job.missing


def test_a_client_that_is_gone_hears_nothing(loop: asyncio.AbstractEventLoop) -> None:
    given = waiting(loop, rows(8))
    given[0].job.future.cancel()
    batcher.deliver(given, [(np.zeros(1, np.float32),)], ran(given, 1.0))
    batcher.fail(given[0].job, InferenceError("late"))
    assert given[0].job.future.cancelled()
