"""A measurement on a shared machine: taken again until other programs left the cores alone meanwhile.

Owns the looking and the waiting. Knows nothing of what is measured.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TypeVar

import psutil

from bench.process import Server

T = TypeVar("T")
LOOK_SECONDS = 0.5


class Quiet:
    """The quiet that is asked for.

    Attributes:
        worst: greatest share of the cores that others took during a measurement that counted.
    """

    def __init__(self, most: float = 1.0, patience: float = 0.0) -> None:
        """
        Args:
            most: share of the cores that other programs may take. Those with a raised nice value don't count: they
                give way.
            patience: seconds, of all measurements together, to wait for it; then what comes counts.
        """
        self.worst = 0.0
        self._most, self._patience = most, patience

    def run(self, server: Server, measurement: Callable[[], T]) -> T:
        """Measure, beside a server that is measured, when it is quiet, and again where it was not meanwhile."""
        while True:
            while self._patience > 0 and self._share(server, lambda: time.sleep(LOOK_SECONDS))[1] > self._most:
                self._patience -= LOOK_SECONDS
            began = time.perf_counter()
            found, share = self._share(server, measurement)
            if share <= self._most or self._patience <= 0:
                self.worst = max(self.worst, share)
                return found
            self._patience -= time.perf_counter() - began

    @staticmethod
    def _share(server: Server, measurement: Callable[[], T]) -> tuple[T, float]:
        """Measure, and get the share of the cores that others took meanwhile."""

        def others() -> float:
            spent = psutil.cpu_times()
            all_of_it = spent.user + spent.system + spent.irq + spent.softirq
            return float(all_of_it - server.usage().cpu_seconds - time.process_time())

        before, began = others(), time.perf_counter()
        found = measurement()
        passed = time.perf_counter() - began
        return found, max(0.0, others() - before) / (passed * (os.cpu_count() or 1))
