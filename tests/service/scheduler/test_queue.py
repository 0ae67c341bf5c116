"""Whose turn it is among the jobs that wait, and what is counted of them."""

import asyncio
import sys
import threading
import time
from collections.abc import Hashable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.engine.batch import Encoded
from service.scheduler.queue import LONG_BATCHES, Job, Queue, Runner
from tests.engines import FakeEngine

BATCH = 100
RUNNER = Runner("m", FakeEngine(), 0, BATCH)
OTHER = Runner("other", FakeEngine(), 0, BATCH)


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


@pytest.fixture
def job(loop: asyncio.AbstractEventLoop) -> Any:
    """`job(10, 20, client="a")`: a job of rows of these lengths."""

    def make(*lengths: int, client: Hashable = None, runner: Runner = RUNNER) -> Job:
        rows = [Encoded(np.zeros(n, np.int64), np.zeros(n, np.int64)) for n in lengths]
        return Job(runner, rows, client, loop.create_future())

    return make


def filled(*jobs: Job) -> Queue:
    queue = Queue()
    for each in jobs:
        queue.add(each)
    return queue


def run(queue: Queue) -> Job:
    """Take the one row that is due first."""
    rows = queue.first()[:1]
    queue.take(rows)
    return rows[0].job


def order(queue: Queue) -> list[Job]:
    """Take row by row until nothing waits."""
    jobs = []
    while queue.jobs:
        jobs.append(run(queue))
    return jobs


# ---- the order ------------------------------------------------------------------------------------------------------


def test_a_short_job_passes_a_long_one(job: Any) -> None:
    long, short = job(50, 50, client="a"), job(10, client="b")
    assert order(filled(long, short)) == [short, long, long]
    long, short = job(50, 50, client="a"), job(10, client="a")
    assert order(filled(long, short)) == [short, long, long]  # its own client's too


def test_a_clients_only_job_passes_anothers_many(job: Any) -> None:
    many = [job(10, client="flood") for _ in range(100)]
    one = job(20, client="polite")
    ran = order(filled(*many, one))
    assert ran.index(one) == 2
    assert [each for each in ran if each is not one] == many


def test_a_newcomer_passes_what_a_flood_left_waiting(job: Any) -> None:
    queue = filled(*(job(10, client="flood") for _ in range(100)))
    for _ in range(50):
        run(queue)
    one = job(10, client="polite")
    queue.add(one)
    assert order(queue).index(one) <= 1


def test_equal_jobs_of_one_client_are_first_in_first_out(job: Any) -> None:
    jobs = [job(10) for _ in range(20)]
    queue, ran = filled(*jobs[:10]), []
    for late in jobs[10:]:
        ran += [run(queue)]
        queue.add(late)
    assert ran + order(queue) == jobs


def test_a_busy_neighbour_changes_nobodys_own_order(job: Any) -> None:
    """However the clock stands when they come: other clients' jobs must not let a later one pass an earlier one."""
    jobs = [job(10, client="a") for _ in range(20)]
    queue = filled(*jobs[:10], *(job(90, client=i) for i in range(5)))
    ran = [run(queue) for _ in range(6)]
    for late in jobs[10:]:
        queue.add(late)
    assert [each for each in ran + order(queue) if each.client == "a"] == jobs


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3)), max_size=80), st.lists(st.integers(1, 120), min_size=4))
@settings(deadline=None)
def test_equal_jobs_of_a_client_keep_their_order_under_any_traffic(
    loop: asyncio.AbstractEventLoop, steps: list[tuple[bool, int]], lengths: list[int]
) -> None:
    queue = Queue()
    came: dict[int, list[Job]] = {client: [] for client in range(4)}
    ran: dict[int, list[Job]] = {client: [] for client in range(4)}
    for adds, client in [*steps, *[(False, 0)] * 80]:
        if adds:
            row = Encoded(np.zeros(lengths[client], np.int64), np.zeros(lengths[client], np.int64))
            came[client].append(Job(RUNNER, [row], client, loop.create_future()))
            queue.add(came[client][-1])
        elif queue.jobs:
            done = run(queue)
            ran[done.client].append(done)  # type: ignore[index]
    assert ran == came


@pytest.mark.parametrize("clients", [1, 8])
def test_short_jobs_without_end_do_not_starve_a_long_one(job: Any, clients: int) -> None:
    """Its slices run on, each after the short ones' fair share: a batch's tokens for each client that waits."""
    long = job(*[50] * 8, client="reader")
    queue = filled(long)
    gaps, passed = [], 0
    for i in range(10_000):
        queue.add(job(10, client=i % clients))
        if run(queue) is long:
            gaps.append(passed)
            passed = 0
            if not long.waiting:
                break
        passed += 10
    assert len(gaps) == 8
    assert max(gaps) <= BATCH * (clients + 1)


def test_a_job_runs_slice_by_slice(job: Any) -> None:
    """Another that comes meanwhile waits for a batch's tokens at most, not for all of it."""
    long = job(*[50] * 8, client="a")
    queue = filled(long)
    first = queue.first()
    assert [waiting.place for waiting in first] == [0, 1]
    queue.take(first)
    other = job(60, client="b")
    queue.add(other)
    assert order(queue)[0] is other


def test_the_rows_that_are_due_first_are_a_batch_of_one_model(job: Any) -> None:
    mine, others, next_one = job(10, client="a"), job(20, client="b", runner=OTHER), job(95, client="c")
    queue = filled(mine, others, next_one)
    assert [waiting.job for waiting in queue.first()] == [mine, next_one]
    queue.take(queue.first())
    assert [waiting.job for waiting in queue.first()] == [others]


def test_a_row_longer_than_a_batch_is_looked_at_alone(job: Any) -> None:
    whole = job(3 * BATCH, 5)
    assert [waiting.place for waiting in filled(whole).first()] == [0]


def test_a_job_of_many_batches_is_long(job: Any) -> None:
    assert not job(*[BATCH] * LONG_BATCHES).long
    assert job(*[BATCH] * LONG_BATCHES, 1).long


# ---- the counts -----------------------------------------------------------------------------------------------------


def test_counts_return_to_zero(job: Any) -> None:
    queue = filled(job(10, 20), job(30), job(5, 6, runner=OTHER))
    jobs = list(queue.jobs)
    assert queue.rows == 5
    assert sorted(each.tokens for each in jobs) == [11, 30, 30]
    order(queue)
    assert queue.rows == 0
    assert not any(each.tokens for each in jobs)
    assert not queue.jobs
    assert not queue._clients


def test_a_job_leaves_from_the_middle(job: Any) -> None:
    jobs = [job(10, 10, client=i) for i in range(3)]
    queue = filled(*jobs)
    queue.take(queue.first()[:3])  # a row of each is out
    queue.drop(jobs[1])
    queue.drop(jobs[1])
    queue.drop(jobs[0])
    assert queue.jobs == [jobs[2]]
    assert (queue.rows, [each.tokens for each in jobs]) == (1, [0, 0, 10])
    assert order(queue) == [jobs[2]]


def test_a_thousand_clients_make_no_batch_slow(job: Any) -> None:
    """The workers look under the lock. In this thread's own time: others may keep the machine busy."""
    queue = filled(*(job(20, client=i) for i in range(1000)))
    began = time.thread_time()
    for i in range(100):
        rows = queue.first()
        assert sum(len(waiting.row) for waiting in rows) == BATCH
        queue.take(rows)
        for number in range(len(rows)):
            queue.add(job(20, client=(i, number)))
    assert time.thread_time() - began < 0.25


def test_what_waits_can_be_looked_at_from_another_thread(job: Any) -> None:
    """The metrics are read on the thread of the operations' port, without the lock."""
    queue = filled(*(job(8, client=i) for i in range(200)))
    jobs, errors, over = [job(8, client=200 + i) for i in range(100)], [], threading.Event()
    row = Encoded(np.zeros(8, np.int64), np.zeros(8, np.int64))

    def look() -> None:
        try:
            while not over.is_set():
                assert len(queue.jobs) >= 200
        except Exception as error:
            errors.append(error)

    thread, interval = threading.Thread(target=look), sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    thread.start()
    try:
        for _ in range(30):
            for each in jobs:
                each.waiting, each.tokens = {0: row}, len(row)
                queue.add(each)
            for each in jobs:
                queue.drop(each)
    finally:
        sys.setswitchinterval(interval)
        over.set()
        thread.join()
    assert not errors


@given(
    steps=st.lists(
        st.one_of(
            st.tuples(st.lists(st.integers(1, 120), min_size=1, max_size=12), st.integers(0, 3), st.booleans()),
            st.integers(0, 7),  # takes so many of those that are due
            st.integers(-8, -1),  # drops one
        ),
        max_size=60,
    )
)
@settings(deadline=None, max_examples=150)
def test_any_traffic_keeps_the_counts_and_yields_every_row_once(loop: asyncio.AbstractEventLoop, steps: Any) -> None:
    queue, jobs = Queue(), []
    taken: set[tuple[Job, int]] = set()
    dropped: set[tuple[Job, int]] = set()

    def take(count: int) -> None:
        rows = queue.first()[:count]
        names = {(waiting.job, waiting.place) for waiting in rows}
        assert len(names) == len(rows)
        assert not names & (taken | dropped)
        assert len({waiting.job.runner for waiting in rows}) == 1
        taken.update(names)
        queue.take(rows)

    def check() -> None:
        assert queue.rows == sum(len(each.waiting) for each in jobs)
        assert all(each.tokens == sum(map(len, each.waiting.values())) for each in jobs)
        assert set(queue.jobs) == {each for each in jobs if each.waiting}
        for client, waiting in queue._clients.items():
            assert waiting.jobs
            assert {each.client for each in waiting.jobs} == {client}
            assert [each.due for each in waiting.jobs] == sorted(each.due for each in waiting.jobs)

    for step in steps:
        match step:
            case (lengths, client, other):
                rows = [Encoded(np.zeros(n, np.int64), np.zeros(n, np.int64)) for n in lengths]
                jobs.append(Job(OTHER if other else RUNNER, rows, client, loop.create_future()))
                queue.add(jobs[-1])
            case int(count) if count >= 0 and queue.jobs:
                take(count + 1)
            case int(number) if number < 0 and jobs:
                dropped |= {(jobs[number % len(jobs)], place) for place in jobs[number % len(jobs)].waiting}
                queue.drop(jobs[number % len(jobs)])
        check()
    while queue.jobs:
        take(10)
    check()
    assert len(taken) + len(dropped) == sum(len(each.logits) for each in jobs)
