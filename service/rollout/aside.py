"""Long work beside the serving: on a thread of its own, which yields the processor to those that answer clients."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

NICE = 10
"""How much the thread yields: beside one at 0 it gets about a tenth of a core."""


async def run(function: Callable[[], T], *, nice: int = NICE) -> T:
    """Run a function on a thread, and get what it returns or raises.

    The thread is a daemon: a process that stops does not wait for a bundle to be loaded. Cancelled, the function goes
    on, and what it returns is dropped.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if future.done():  # cancelled
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]

    def work() -> None:
        if nice and hasattr(os, "setpriority"):
            with contextlib.suppress(OSError):  # on Linux a thread has a priority of its own
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), nice)
        result, error = None, None
        try:
            result = function()
        except BaseException as raised:
            error = raised
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=work, name="aside", daemon=True).start()
    return await future
