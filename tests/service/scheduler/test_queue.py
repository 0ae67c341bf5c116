"""Whose turn it is among the jobs that wait, and what is counted of them."""

import asyncio
from collections.abc import Iterator
from itertools import count

import numpy as np
import pytest

from service.engine.batch import Encoded
from service.scheduler.queue import LOWER_EVERY, Job, Priority, Turns


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


_clock = count()


def make(loop: asyncio.AbstractEventLoop, *lengths: int, priority: Priority = "normal", deadline: float = 9.0) -> Job:
    """A job of rows of these lengths, admitted after every other one."""
    rows = {i: Encoded(np.zeros(n, np.int64), np.zeros(n, np.int64)) for i, n in enumerate(lengths)}
    return Job(loop.create_future(), deadline, float(next(_clock)), rows, [()] * len(rows), len(rows), priority)


def filled(*jobs: Job, turn_tokens: int = 100, most_counted: int = 100) -> Turns:
    turns = Turns(turn_tokens=turn_tokens, most_counted=most_counted)
    for job in jobs:
        turns.add(job)
    return turns


def run(turns: Turns) -> Job:
    """Runs the one row whose turn it is."""
    rows, _ = turns.first(1, now=0.0)
    turns.take(rows)
    return rows[0].job


def test_a_job_passes_the_turn_on_when_it_has_run_its_share(loop: asyncio.AbstractEventLoop) -> None:
    book, question = make(loop, *[50] * 6), make(loop, 10)
    turns = filled(book, question)
    assert [run(turns) for _ in range(7)] == [book, book, question, book, book, book, book]
    assert not turns


def test_counts_follow_every_row(loop: asyncio.AbstractEventLoop) -> None:
    """Of a long job the most that is counted is counted to its end, then what is left of it."""
    book, question = make(loop, *[50] * 4), make(loop, 10)
    turns = filled(book, question)
    seen = [(turns.rows, turns.tokens, turns.counted, turns.held, turns.gone)]
    for _ in range(2):
        run(turns)
        seen.append((turns.rows, turns.tokens, turns.counted, turns.held, turns.gone))
    assert seen == [(5, 210, 110, 100, 0), (4, 160, 110, 50, 50), (3, 110, 110, 0, 100)]
    assert turns.drop(book) == 2
    assert turns.drop(book) == 0
    assert (turns.rows, turns.tokens, turns.counted, turns.held, turns.gone) == (1, 10, 10, 0, 200)
    assert list(turns) == [question]


def test_what_is_late_has_no_turn_wherever_it_waits(loop: asyncio.AbstractEventLoop) -> None:
    jobs = [make(loop, 1, deadline=1.0 if i % 2 else 9.0) for i in range(1000)]
    rows, late = filled(*jobs).first(10**6, now=2.0)
    assert [waiting.job for waiting in rows] == jobs[::2]
    assert late == jobs[1::2]
    assert filled(*jobs[1::2]).first(1, now=2.0) == ([], jobs[1::2])


@pytest.mark.parametrize("priority", ["normal", "low"])
def test_a_higher_priority_goes_first_and_starves_nobody(loop: asyncio.AbstractEventLoop, priority: Priority) -> None:
    waiting = make(loop, 10, 10, priority=priority)
    turns = filled(waiting)
    ran = []
    for _ in range(2 * LOWER_EVERY):
        turns.add(make(loop, 10, priority="high"))
        turns.add(make(loop, 10, priority="normal"))
        ran.append(run(turns))
    assert [i for i, job in enumerate(ran) if job is waiting] == [LOWER_EVERY - 1, 2 * LOWER_EVERY - 1]
    assert {job.priority for job in ran if job is not waiting} == {"high"}


def test_tokens_until_are_those_that_run(loop: asyncio.AbstractEventLoop) -> None:
    """The forecast, against the turns themselves."""
    for counted, held in ((150, 10**6), (0, 10**6), (10**6, 300), (120, 200)):
        jobs = [make(loop, *[50] * 10), make(loop, 10), make(loop, *[50] * 4), make(loop, *[50] * 30)]
        turns = filled(*jobs)
        forecast = turns.tokens_until(counted, held)
        while turns.counted > counted or turns.held > held:
            run(turns)
        assert 0 < turns.gone <= forecast <= turns.gone + 100  # to the end of the turn
    assert turns.tokens_until(10**6) == 0


def test_word_of_batches_may_come_in_any_order(loop: asyncio.AbstractEventLoop) -> None:
    job = Job(loop.create_future(), deadline=9.0, admitted=0.5, waiting={}, logits=[(), ()], missing=2)
    job.start(1.0)
    job.start(2.0)
    job.finish(5.0)
    job.finish(4.0)
    assert (job.queue_seconds, job.inference_seconds) == (0.5, 4.0)


def test_the_background_has_turns_of_its_own_until_half_of_the_time_is_over(loop: asyncio.AbstractEventLoop) -> None:
    book, question = make(loop, 50, 50), make(loop, 10)
    book.background, book.deadline = True, book.admitted + 10
    turns = filled(book, question)
    assert (turns.rows, turns.rows_in(background=True), turns.rows_in(background=False)) == (3, 2, 1)
    assert [each.job for each in turns.first(1, now=0.0, background=True)[0]] == [book]
    assert [run(turns)] == [question]
    assert not turns.first(1, now=0.0)[0]
    assert not turns.promote(book.admitted + 5)
    assert turns.promote(book.admitted + 5.1)
    assert not turns.promote(book.admitted + 5.1)
    assert (turns.rows_in(background=True), turns.rows_in(background=False)) == (0, 2)
    assert run(turns) is book
    assert turns.drop(book) == 1
    assert not turns
