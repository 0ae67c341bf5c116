"""A worker: a thread, and the batch that it runs. Knows neither which batch nor what becomes of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from service.scheduler.queue import Waiting


class Worker:
    """A thread, the rows that it runs since when, and whether it is given up: dead, or in a call that hangs.

    Attributes:
        all_cores: whether what it runs, it runs on all cores.
    """

    def __init__(self, work: Callable[[Worker], None], name: str) -> None:
        """Start the thread. Raises RuntimeError where there is none to be had."""
        self.rows: Sequence[Waiting] = ()
        self.began = 0.0
        self.all_cores = self.lost = False
        threading.Thread(target=work, args=(self,), name=f"engine-{name}", daemon=True).start()
