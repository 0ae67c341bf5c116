"""The logits of rows that were run, kept so that the same rows need not run again.

Sound only where a row's logits do not depend on the rows beside it. Owns the bound in bytes and which rows go first
(least recently used, of all models). Knows nothing of text, tasks or queues. For one event loop; a version may be freed
on any thread.
"""

from __future__ import annotations

import contextlib
import itertools
import sys
import threading
import weakref
from collections import OrderedDict
from typing import TypeAlias

import numpy as np

from service.engine.batch import Encoded, RowLogits
from service.metrics import Metrics

Key: TypeAlias = bytes
ENTRY = 250
"""Bytes of a row's place in the order, as the process grows by it: a slot of a hash table, a link, a tuple, a number,
and what malloc rounds up."""


class Rows:
    """The kept rows of one loaded version, least recently used first."""

    def __init__(self, cache: Cache, name: str) -> None:
        self.bytes = 0
        self.kept: OrderedDict[Key, tuple[int, RowLogits]] = OrderedDict()
        self._cache = cache
        self._hits = cache.metrics.cache_hits.labels(name)
        self._misses = cache.metrics.cache_misses.labels(name)

    def find(self, key: Key) -> RowLogits | None:
        """Get a row's logits; None where they are not kept."""
        if (entry := self.kept.get(key)) is None:
            self._misses.inc()
            return None
        self._hits.inc()
        self.kept[key] = self._cache.tick(), entry[1]
        self.kept.move_to_end(key)
        return entry[1]

    def keep(self, key: Key, logits: RowLogits) -> None:
        """Keep a row's logits, and drop what was not used for longest where there is no room.

        Args:
            logits: arrays of the row's own; they must not change.
        """
        size = _size(key, logits)
        if key in self.kept or size > self._cache.most_bytes:
            return
        self.kept[key] = self._cache.tick(), logits
        self.bytes += size
        self._cache.limit()

    @property
    def oldest(self) -> float:
        """When its least recently used row was used."""
        return next(iter(self.kept.values()))[0] if self.kept else float("inf")

    def drop_oldest(self) -> None:
        """Drop its least recently used row."""
        key, (_, logits) = self.kept.popitem(last=False)
        self.bytes -= _size(key, logits)


class Cache:
    """The kept rows of all models of a process. Those of a version are gone when it is freed."""

    def __init__(self, most_bytes: int, metrics: Metrics) -> None:
        self.most_bytes, self.metrics = most_bytes, metrics
        self._clock = itertools.count()
        self._rows: weakref.WeakKeyDictionary[object, Rows] = weakref.WeakKeyDictionary()
        metrics.cache_bytes.set_function(lambda: self.bytes)

    def of(self, version: object, name: str) -> Rows:
        """Get the kept rows of a loaded version of the model of that name."""
        if (rows := self._rows.get(version)) is None:
            rows = self._rows[version] = Rows(self, name)
            weakref.finalize(version, _free_aside, rows).atexit = False
        return rows

    @property
    def bytes(self) -> int:
        """What is kept, with all that keeping it takes."""
        return sum(rows.bytes for rows in list(self._rows.values()))

    def tick(self) -> int:
        """Get a number greater than all before."""
        return next(self._clock)

    def limit(self) -> None:
        """Drop the least recently used rows of all models until the rest has room."""
        every = list(self._rows.values())
        while sum(rows.bytes for rows in every) > self.most_bytes:
            min(every, key=lambda rows: rows.oldest).drop_oldest()


def _free_aside(rows: Rows) -> None:
    """Free what a version kept, row by row on a thread: at once, 100 MB held up the event loop for 72 ms."""

    def work() -> None:
        while rows.kept:
            rows.drop_oldest()

    with contextlib.suppress(RuntimeError):  # no thread to be had: they go with `rows`
        threading.Thread(target=work, name="forget", daemon=True).start()


def key_of(row: Encoded) -> Key:
    """Get what a row's logits depend on: its ids and segments, five bytes a token."""
    return row.input_ids.astype(np.uint32).tobytes() + row.token_type_ids.astype(np.uint8).tobytes()


def _size(key: Key, logits: RowLogits) -> int:
    return ENTRY + sys.getsizeof(key) + sys.getsizeof(logits) + sum(map(sys.getsizeof, logits))
