"""The bare session: a bundle's graph called on rows that are tokenised already, without queue, HTTP or tasks.

The ceiling of any service on the same cores, so it is tried under several schedules and the best one counts. Runs as a
process of its own (`python -m bench.graphs.bare`), so that no other's memory or threads are in its way.
"""

from __future__ import annotations

import functools
import itertools
import statistics
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench import child, rows
from bench.graphs.inprocess import Opened, Run
from bench.load import percentile
from service.engine.batch import Encoded

BEST_BATCH = 4
"""Rows of a batch where lengths are sorted: on a CPU larger ones win nothing."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """How rows in flight become calls.

    Attributes:
        name: in the table.
        workers: threads that call side by side.
        threads: inside a call.
        batch: rows of a call; 0 for all that are in flight.
        sort: whether rows in flight are sorted by length first.
    """

    name: str
    workers: int
    threads: int
    batch: int
    sort: bool = True


def schedules(in_flight: int, cores: int) -> list[Schedule]:
    """List what is tried with so many rows in flight."""
    workers = min(in_flight, cores)
    found = [Schedule("one by one", workers, 1, 1), Schedule("as they come", 1, cores, 0, sort=False)]
    if in_flight >= BEST_BATCH * 2:
        found.append(Schedule(f"sorted batches of {BEST_BATCH}", workers, 1, BEST_BATCH))
    return found


class Bare:
    """A bundle's rows and the sessions of one of its graphs: of `precision`, or the best for a CPU."""

    def __init__(self, folder: Path, texts: Sequence[str], precision: str = "") -> None:
        self._opened = Opened(folder)
        self._precision = precision
        self._texts = texts
        self._rows: list[Encoded] = self._opened.sentence_rows(texts)
        session = self._session(1)
        self.labels = [self._opened.labels[int(session([row])[0][0].argmax())] for row in self._rows]

    def run(self, schedule: Schedule, *, in_flight: int, seconds: float) -> dict[str, Any]:
        """Call for so long. Get rows a second, CPU seconds a row, and percentiles of a call's seconds."""
        session = self._session(schedule.threads)
        lock, feed, took = threading.Lock(), self._calls(schedule, in_flight), []
        started, cpu = time.perf_counter(), time.process_time()
        until = started + seconds

        def call_in_turn() -> None:
            while (now := time.perf_counter()) < until:
                with lock:
                    call = next(feed)
                session(call)
                took.append((len(call), time.perf_counter() - now))

        threads = [threading.Thread(target=call_in_turn) for _ in range(schedule.workers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        count, elapsed = sum(size for size, _ in took), time.perf_counter() - started
        calls = [took_seconds for _, took_seconds in took]
        return {
            "schedule": asdict(schedule),
            "rows_per_second": count / elapsed,
            "cpu_seconds": (time.process_time() - cpu) / count,
            **{f"p{q}": percentile(calls, q) for q in (50, 95, 99)},
        }

    def tokenise_seconds(self) -> float:
        """Get the median seconds of encoding one text."""
        texts = itertools.islice(itertools.cycle(self._texts), max(500, len(self._texts)))
        return statistics.median(map(self._opened.encode_seconds, texts))

    def _calls(self, schedule: Schedule, in_flight: int) -> Iterator[list[Encoded]]:
        """Make batches without end: windows of the rows in flight, sorted by length, cut."""
        endless = itertools.cycle(self._rows)
        while True:
            window = list(itertools.islice(endless, in_flight))
            if schedule.sort:
                window.sort(key=len)
            step = schedule.batch or in_flight
            yield from (window[i : i + step] for i in range(0, in_flight, step))

    @functools.cache  # noqa: B019 - one `Bare` lives as long as its process
    def _session(self, threads: int) -> Run:
        run = self._opened.session(threads, self._precision)
        for size in (1, BEST_BATCH, 32):
            run(self._rows[:size])
        return run


def measure(request: Mapping[str, Any]) -> dict[str, Any]:
    """Do the child's work: try every schedule at every number of rows in flight, and time tokenising.

    Args:
        request: `bundle` and `rows` (paths), `in_flight` (numbers), `cores`, `seconds`; `precision` may be left out.
    """
    bare = Bare(Path(request["bundle"]), rows.sentences(Path(request["rows"])), request.get("precision", ""))
    points: dict[str, Any] = {}
    for in_flight in request["in_flight"]:
        points[str(in_flight)] = [
            bare.run(schedule, in_flight=in_flight, seconds=request["seconds"])
            for schedule in schedules(in_flight, request["cores"])
        ]
    return {"labels": bare.labels, "tokenise_seconds": bare.tokenise_seconds(), "points": points}


if __name__ == "__main__":
    child.answer(measure)
