"""How an engine's work is cut up, chosen by measurement while the service warms up, not guessed.

Two choices depend on the machine, the model and its precision: how many tokens a batch may hold before more make it no
quicker a token, and from what length a row that is alone on the machine is worth all cores. Owns, too, the count that
says what is alone. Knows engines and batches; the queue that uses the schedule is the batcher's.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from service.batch import Batch, Encoded, pad
from service.engine import Engine, OrtEngine

ROW_TOKENS = 32
"""Length of the rows that the batches are measured with: a sentence or two."""
MOST_TOKENS = 1 << 16
GAIN = 1.02
"""A batch of twice the tokens must run so many times the tokens a second: it keeps other rows waiting longer. No more
is asked, for a batch also costs what is not measured here, on the way to its engine and back (docs/lab.md)."""
LONE_WORTH = 1.4
"""All cores must be so many times as quick as one for the longest row: they want a second copy of the weights."""
LONE_GAIN = 1.15
"""And so many times for any row that they get: their threads take time from whoever comes next."""
CALLS = 3
SECONDS = 0.06
"""After so long no call is repeated, and no larger batch is tried: a large model on a small machine must start too."""

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Schedule:
    """How batches are made up.

    Attributes:
        batch_tokens: most tokens of a batch, padding included.
        lone: runs a batch on all cores when nothing else runs or waits in the process; None: the engine does it.
        lone_tokens: from how many tokens on it is used.
    """

    batch_tokens: int
    lone: Engine | None = None
    lone_tokens: int = 0


class Load:
    """The rows that wait or run in the process, those of all models together: they share its cores."""

    def __init__(self) -> None:
        self.rows = 0
        self._lock = threading.Lock()

    def add(self, rows: int) -> None:
        """Counts rows that are admitted, or, below zero, that have run or been dropped."""
        with self._lock:
            self.rows += rows


def measure(engine: OrtEngine, longest: int, *, cores: int, most_tokens: int = 0, lone: bool = True) -> Schedule:
    """The schedule for an engine that is warmed up.

    Args:
        longest: tokens of the longest row.
        cores: for a row that is alone.
        most_tokens: of a batch; 0: measured.
        lone: whether to open a second session, with its own copy of the weights, for rows that are alone, if it gains.
    """
    tokens = most_tokens or batch_tokens(engine, longest)
    if lone and cores > 1 and engine.provider == "cpu":
        wide = engine.reopened(workers=1, intra_op_threads=cores)
        wide.warm_up(longest)
        found = lone_tokens(engine, wide, longest)
        if found is not None:
            return Schedule(tokens, wide, found)
    return Schedule(tokens)


def batch_tokens(engine: Engine, longest: int, clock: Clock = time.perf_counter) -> int:
    """The tokens of a batch from which twice as many would be no quicker a token, all workers being busy.

    Args:
        engine: warmed up.
        longest: tokens of the longest row: a batch holds at least one.
    """
    tokens, best = longest, 0.0
    row = min(ROW_TOKENS, longest)
    with ThreadPoolExecutor(engine.workers) as pool:
        while tokens <= MOST_TOKENS:
            batches = [_batch(tokens // row, row)] * engine.workers
            seconds = _quickest(lambda given=batches: list(pool.map(engine.run, given)), clock)  # type: ignore[misc]
            rate = tokens // row * row / seconds
            if rate < GAIN * best:
                return tokens // 2
            if seconds > SECONDS:
                return tokens
            tokens, best = 2 * tokens, rate
    return tokens // 2


def lone_tokens(engine: Engine, lone: Engine, longest: int, clock: Clock = time.perf_counter) -> int | None:
    """From how many tokens on a row that is alone gains on `lone`; None: the longest does not gain enough.

    Args:
        engine: runs each call on one core.
        lone: runs it on all of them.
        longest: tokens of the longest row.
    """
    tokens, found, wanted = longest, None, LONE_WORTH
    while tokens >= 8:
        row = _batch(1, tokens)
        one = _quickest(lambda given=row: engine.run(given), clock)  # type: ignore[misc]
        if one < wanted * _quickest(lambda given=row: lone.run(given), clock):  # type: ignore[misc]
            break
        tokens, found, wanted = tokens // 2, tokens, LONE_GAIN
    return found


def _quickest(call: Callable[[], object], clock: Clock) -> float:
    """Seconds of the quickest of a few calls: what disturbs one of them only ever makes it slower."""
    times: list[float] = []
    while len(times) < CALLS and sum(times) < SECONDS:
        start = clock()
        call()
        times.append(clock() - start)
    return max(min(times), 1e-9)


def _batch(rows: int, tokens: int) -> Batch:
    return pad([Encoded(np.zeros(tokens, dtype=np.int64), np.zeros(tokens, dtype=np.int64))] * rows, 0)
