"""How an engine's work is cut up, chosen by measurement while the service warms up, not guessed.

Two choices depend on the machine, the model and its precision: how many tokens a batch may hold before more make it no
quicker a token, and from what length a row that is alone on the machine is worth all cores. Owns, too, the count that
says what is alone. Knows engines and batches; the queue that uses the schedule is the batcher's.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from service.engine.batch import Batch, Encoded, pad
from service.engine.session import Engine

ROW_TOKENS = 32
"""Length of the rows that the batches are measured with: a sentence or two."""
LEAST_TOKENS, MOST_TOKENS = 256, 1 << 16
"""Of the batches that are tried: with fewer tokens, what a batch costs on its way tells on any machine."""
SHORTEST = 8
"""Tokens of the shortest row that all cores are tried on."""
ALIKE = 0.01
"""Models whose parameters differ by no more are of one shape, if they are of one family."""
GAIN = 1.04
"""A batch of twice the tokens must run so many times the tokens a second: it keeps other rows waiting longer."""
LONE_WORTH = 1.25
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


@dataclass(frozen=True, slots=True)
class Subject:
    """An engine whose work is to be cut up.

    Attributes:
        engine: warmed up.
        lone: the same graph on all cores, or None where it is not wanted.
        longest: tokens of the longest row.
        kind: what engines of the same speed have in common: family, precision, where and how they run.
        parameters: of the model.
    """

    engine: Engine
    lone: Engine | None
    longest: int
    kind: tuple[str, ...]
    parameters: int

    def resembles(self, other: Subject) -> bool:
        """Whether what is measured of one does for the other: they may differ by their heads and their weights."""
        return self.kind == other.kind and abs(self.parameters - other.parameters) <= ALIKE * other.parameters


def measure(subjects: Sequence[Subject], *, most_tokens: int = 0, clock: Clock = time.perf_counter) -> list[Schedule]:
    """The schedule of each engine. Of those that resemble one another the one with the longest rows is measured.

    Args:
        most_tokens: of a batch; 0: measured.
    """
    measured: list[tuple[Subject, int, int | None]] = []
    for subject in sorted(subjects, key=lambda subject: subject.longest, reverse=True):
        if not any(subject.resembles(other) for other, *_ in measured):
            tokens = most_tokens or batch_tokens(subject.engine, subject.longest, clock)
            found = lone_tokens(subject.engine, subject.lone, subject.longest, clock) if subject.lone else None
            measured.append((subject, tokens, found))
    schedules = []
    for subject in subjects:
        tokens, found = next((tokens, found) for other, tokens, found in measured if subject.resembles(other))
        tokens = most_tokens or max(tokens, subject.longest)
        if found is not None and found <= subject.longest:
            schedules.append(Schedule(tokens, subject.lone, found))
        else:
            schedules.append(Schedule(tokens))
    return schedules


def batch_tokens(engine: Engine, longest: int, clock: Clock = time.perf_counter) -> int:
    """The tokens of a batch from which twice as many would be no quicker a token, all workers being busy.

    Args:
        engine: warmed up.
        longest: tokens of the longest row.
    """
    tokens, best = LEAST_TOKENS, 0.0
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

    def gain(tokens: int) -> float:
        row = _batch(1, tokens)
        return _quickest(lambda: engine.run(row), clock) / _quickest(lambda: lone.run(row), clock)

    if gain(longest) < LONE_WORTH:
        return None
    lengths = [longest]
    while lengths[-1] // 2 >= SHORTEST:
        lengths.append(lengths[-1] // 2)
    # From the shortest on, which cost the least: a long row's calls take most of what a start takes.
    return next((tokens for tokens in reversed(lengths[1:]) if gain(tokens) >= LONE_GAIN), longest)


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
