"""The bare session: a bundle's graph called on rows that are tokenised already, without queue, HTTP or tasks.

The ceiling of any service on the same cores, so it is tried under several schedules and the best one counts. Runs as a
process of its own (`python -m bench.bare`), so that no other's memory or threads are in its way.
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

import onnxruntime as ort

from bench import child, rows
from bench.load import percentile
from service.engine.batch import Encoded, pad
from service.engine.session import parameters
from service.engine.tokenizer import Tokenizer
from service.predictor import make_task
from service.repository import bundle as bundles
from service.tasks import ClassificationExample, ClassificationTask

BEST_BATCH = 4
"""Rows of a batch where lengths are sorted: on a CPU larger ones win nothing."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """How rows in flight become calls.

    Attributes:
        name: in the table.
        callers: threads that call side by side.
        threads: inside a call.
        batch: rows of a call; 0 for all that are in flight.
        sort: whether rows in flight are sorted by length first.
    """

    name: str
    callers: int
    threads: int
    batch: int
    sort: bool = True


def schedules(in_flight: int, cores: int) -> list[Schedule]:
    """What is tried with so many rows in flight."""
    callers = min(in_flight, cores)
    found = [Schedule("one by one", callers, 1, 1), Schedule("as they come", 1, cores, 0, sort=False)]
    if in_flight >= BEST_BATCH * 2:
        found.append(Schedule(f"sorted batches of {BEST_BATCH}", callers, 1, BEST_BATCH))
    return found


class Bare:
    """A bundle's rows and the sessions of one of its graphs: of `precision`, or the best for a CPU."""

    def __init__(self, folder: Path, texts: Sequence[str], precision: str = "") -> None:
        bundle = bundles.load(folder)
        self._path = folder / (f"model.{precision}.onnx" if precision else bundle.graph_for("cpu").file)
        self._tokenizer = Tokenizer.from_file(folder / bundles.TOKENIZER)
        task = make_task(bundle, self._tokenizer)
        assert isinstance(task, ClassificationTask)
        self._task = task
        self._examples = [ClassificationExample(text) for text in texts]
        self._rows: list[Encoded] = [first for first, *_ in task.encode(self._examples)]
        self.labels = [self._label(i) for i in range(len(texts))]

    def run(self, schedule: Schedule, *, in_flight: int, seconds: float) -> dict[str, Any]:
        """Calls for so long. Returns rows a second, CPU seconds a row, and percentiles of a call's seconds."""
        session = self._session(schedule.threads)
        lock, feed, took = threading.Lock(), self._calls(schedule, in_flight), []
        started, cpu = time.perf_counter(), time.process_time()
        until = started + seconds

        def caller() -> None:
            while (now := time.perf_counter()) < until:
                with lock:
                    call = next(feed)
                self._call(session, call)
                took.append((len(call), time.perf_counter() - now))

        threads = [threading.Thread(target=caller) for _ in range(schedule.callers)]
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
        """Median seconds of encoding one text."""
        took = []
        for example in itertools.islice(itertools.cycle(self._examples), max(500, len(self._examples))):
            began = time.perf_counter()
            self._task.encode([example])
            took.append(time.perf_counter() - began)
        return statistics.median(took)

    def _calls(self, schedule: Schedule, in_flight: int) -> Iterator[list[Encoded]]:
        """Batches without end: windows of the rows in flight, sorted by length, cut."""
        endless = itertools.cycle(self._rows)
        while True:
            window = list(itertools.islice(endless, in_flight))
            if schedule.sort:
                window.sort(key=len)
            step = schedule.batch or in_flight
            yield from (window[i : i + step] for i in range(0, in_flight, step))

    @functools.cache  # noqa: B019 - one `Bare` lives as long as its process
    def _session(self, threads: int) -> ort.InferenceSession:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        session = ort.InferenceSession(self._path, options, providers=["CPUExecutionProvider"])
        self._parameters = parameters(session, self._path) if "int8" in self._path.name else {}
        for size in (1, BEST_BATCH, 32):
            self._call(session, self._rows[:size])
        return session

    def _label(self, i: int) -> str:
        logits = self._call(self._session(1), [self._rows[i]])[0]
        return self._task.labels[int(logits[0].argmax())]

    def _call(self, session: ort.InferenceSession, encoded: Sequence[Encoded]) -> list[Any]:
        batch = pad(encoded, self._tokenizer.pad_id)
        inputs = {name: getattr(batch, name) for name in ("input_ids", "attention_mask", "token_type_ids")}
        outputs: list[Any] = session.run(None, inputs | self._parameters)
        return outputs


def measure(request: Mapping[str, Any]) -> dict[str, Any]:
    """The child's work: every schedule at every number of rows in flight, and what tokenising takes.

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
