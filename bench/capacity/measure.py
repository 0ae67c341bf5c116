"""Unit costs, measured: engines in this process, the event loop and memory of the real service.

Owns how each is found. What is found is `costs.Costs`.

*Engines*: batches of many shapes in as many threads as there are cores, and in one, by the processor's seconds of each
thread, of which other programs take none; and in a session on all cores, by the clock.
*Event loop*: the processor's seconds of the service's main thread under a full load of short texts and of long ones,
over the requests. *Refusals*: likewise, where all but one request at a time are refused. *Memory*: PSS after that load.
"""

from __future__ import annotations

import itertools
import json
import random
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import uvloop

from bench import client, machine, rows, serving
from bench.capacity.costs import Costs, Curve, ModelCosts
from bench.errors import BenchError
from bench.graphs.inprocess import Opened, Run
from service.engine.batch import Encoded
from service.engine.processor import cpu_quota
from service.repository.loading import BATCH_TOKENS, LOW_LATENCY_TOKENS

SHAPES = (
    (1, 8),
    (1, 16),
    (4, 16),
    (16, 16),
    (1, 32),
    (8, 32),
    (1, 64),
    (4, 64),
    (1, 128),
    (2, 128),
    (1, 256),
    (1, 384),
)
"""(rows, length) of the batches that are timed, as far as a model takes them."""
CONNECTIONS = 32
WORDS = (6, 60)
"""Of the texts whose requests the event loop is timed on."""


def measure(models_dir: Path, names: Sequence[str], *, seconds: float) -> Costs:
    """Measure all of it.

    Args:
        names: bundles; the first one is a classifier of single texts, by which the event loop is timed.
        seconds: of each load on the service; an engine's shape takes a tenth.

    Raises:
        BenchError: the service does not start, or refuses what it is sent.
    """
    cores = cpu_quota()
    described = machine.describe(("onnxruntime", "uvicorn", "fastapi"))
    ratios: list[float] = []
    models = {name: _model(models_dir / name, cores, seconds / 10, ratios) for name in names}
    busy = min(1.0, statistics.median(ratios)) if cores > 1 else 1.0
    models = {name: replace(each, batch=_scaled(each.batch, busy)) for name, each in models.items()}
    request, token, load, memory = _event_loop(models_dir, names, busy, seconds)
    refusal = _refusal(models_dir, names[0], busy, seconds)
    return Costs(described, cores, busy, request, token, refusal, load, memory, models)


def texts(count: int, words: Sequence[int], chance: random.Random) -> list[str]:
    """Make so many texts of the bundled sentences' words, each of a number of words drawn from `words`."""
    pool = list(itertools.chain.from_iterable(sentence.split() for sentence in rows.sentences()))
    made = []
    for _ in range(count):
        size, at = chance.choice(words), chance.randrange(len(pool))
        made.append(" ".join(itertools.islice(itertools.cycle(pool), at, at + size)))
    return made


def classify(url: str, text: str) -> bytes:
    """Make the request that classifies one text."""
    return client.request(f"{url}/classify", json.dumps({"text": text}).encode())


def _model(folder: Path, cores: int, seconds: float, ratios: list[float]) -> ModelCosts:
    """Measure a model's engine; add the speed of a busy core over one alone, of each shape, to `ratios`."""
    opened = Opened(folder)
    longest = opened.bundle.manifest.max_length
    shapes = [shape for shape in SHAPES if shape[1] <= longest]
    run, _ = opened.engine(workers=cores)
    side_by_side = []
    for count, length in shapes:
        together = _timed(run, count, length, cores, seconds)
        side_by_side.append((count, length, together))
        ratios.append(_timed(run, count, length, 1, seconds) / together)
    wide, _ = opened.engine(threads=cores)
    alone = [(count, length, _timed(wide, count, length, 1, seconds, time.perf_counter)) for count, length in shapes]
    low_latency = LOW_LATENCY_TOKENS if cores > 1 else 0
    return ModelCosts(Curve.fit(side_by_side), Curve.fit(alone), max(BATCH_TOKENS["cpu"], longest), low_latency)


def _timed(
    run: Run, count: int, length: int, threads: int, seconds: float, clock: Callable[[], float] = time.thread_time
) -> float:
    """Time a call of a batch while so many threads make such calls: the median of all their calls."""
    ids = np.arange(length, dtype=np.int64) % 1000 + 5
    batch = [Encoded(ids, np.zeros(length, dtype=np.int64))] * count
    took: list[float] = []
    start = threading.Barrier(threads)

    def work() -> None:
        run(batch)
        start.wait()
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            began = clock()
            run(batch)
            took.append(clock() - began)

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return statistics.median(took)


def _scaled(curve: Curve, factor: float) -> Curve:
    return Curve(curve.call * factor, curve.token * factor, curve.square * factor)


def _event_loop(models_dir: Path, names: Sequence[str], busy: float, seconds: float) -> tuple[float, float, float, int]:
    """Get the event loop's seconds a request and a token of its text, the client's a request, and bytes of memory."""
    opened, points, clients = Opened(models_dir / names[0]), [], []
    with serving.bertie(models_dir, tuple(names)) as (server, url):
        for words in WORDS:
            made = texts(200, (words,), random.Random(words))
            length = statistics.fmean(map(len, opened.sentence_rows(made)))
            feed = itertools.cycle([classify(url, text) for text in made])
            uvloop.run(
                client.closed(url, feed, connections=CONNECTIONS, seconds=seconds / 4)
            )  # the first ones are slower
            loop, own = server.main_thread_seconds(), time.process_time()
            answers = uvloop.run(client.closed(url, feed, connections=CONNECTIONS, seconds=seconds))
            if bad := [answer for answer in answers if not answer.ok]:
                raise BenchError(f"a request was answered with {bad[0].status}: {bad[0].body[:200]!r}")
            points.append((length, (server.main_thread_seconds() - loop) / len(answers) * busy))
            clients.append((time.process_time() - own) / len(answers) * busy)
        memory = server.pss()
    (short, few), (long, many) = points
    token = max(0.0, (many - few) / (long - short))
    return few - token * short, token, statistics.fmean(clients), memory


def _refusal(models_dir: Path, name: str, busy: float, seconds: float) -> float:
    """Get the event loop's seconds for a refused request."""
    with serving.bertie(models_dir, (name,), BERTIE_MAX_REQUESTS="1") as (server, url):
        feed = itertools.cycle([classify(url, "A fine film.")])
        before = server.main_thread_seconds()
        answers = uvloop.run(client.closed(url, feed, connections=CONNECTIONS, seconds=seconds))
        spent = (server.main_thread_seconds() - before) * busy
    refused = sum(answer.status == 429 for answer in answers)
    if refused < len(answers) / 2:
        raise BenchError(f"{refused} of {len(answers)} requests were refused where all but one at a time should be")
    return spent / len(answers)
