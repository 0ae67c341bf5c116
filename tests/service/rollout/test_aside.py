"""Work on a thread that yields."""

import asyncio
import os
import threading

import pytest

from service.rollout import aside


async def test_it_returns_and_raises_what_the_function_does() -> None:
    assert await aside.run(lambda: 3) == 3
    with pytest.raises(KeyError):
        await aside.run(lambda: {}["x"])


async def test_the_thread_yields_and_the_process_does_not() -> None:
    before = os.getpriority(os.PRIO_PROCESS, 0)
    found = await aside.run(lambda: os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
    assert found == min(19, aside.NICE)
    assert os.getpriority(os.PRIO_PROCESS, 0) == before


async def test_cancelled_it_lets_the_function_go_on() -> None:
    gate, ended = threading.Event(), threading.Event()

    def work() -> None:
        gate.wait(10)
        ended.set()

    task = asyncio.create_task(aside.run(work))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    gate.set()
    assert await asyncio.to_thread(ended.wait, 10)


def test_a_loop_that_is_gone_is_no_matter() -> None:
    gate = threading.Event()

    async def leave() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(aside.run(lambda: gate.wait(10)), 0.05)

    asyncio.run(leave())
    gate.set()
    for thread in threading.enumerate():
        if thread.name == "aside":
            thread.join(10)
            assert not thread.is_alive()
