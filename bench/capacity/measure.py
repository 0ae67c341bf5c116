"""Unit costs, measured on the real service: under loads of a few lengths, from one client and from many.

Owns the loads and what is read from them. What comes out is `costs.Costs`.

Times are the processor's, of the service's main thread (its event loop) and of all its others (its workers), by the
requests answered and the batches that its metrics count; so what other programs take does not count. Only of the
low-latency session it is the clock's: how long a request alone takes to run.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import random
import re
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import uvloop

from bench import client, machine, rows, serving
from bench.capacity.costs import Costs, Curve, ModelCosts
from bench.capacity.quiet import Quiet
from bench.errors import BenchError
from bench.process import Server
from service.engine.processor import cpu_quota
from service.repository import bundle as bundles
from service.repository.bundle import Bundle
from service.repository.loading import BATCH_TOKENS, LOW_LATENCY_TOKENS

WORDS = (4, 12, 30, 80)
"""Of the texts, a load each."""
FEW, MANY = 2, 32
"""Clients that keep every core busy, with a row a batch and with as many as fit."""
TEXTS = 100
QUESTION = "What is the film about?"


@dataclass(frozen=True, slots=True)
class Sample:
    """What one load showed, as means.

    Attributes:
        rows, length: of a batch: its rows, and the tokens of each with padding.
        batch: seconds of the workers for a batch; `loop`: of the event loop for a request; `client`: of this process.
        inference: seconds from a request's first batch's beginning to its last one's end.
    """

    rows: float
    length: float
    batch: float
    loop: float
    client: float
    inference: float


def measure(models_dir: Path, names: Sequence[str], *, seconds: float, quiet: Quiet) -> Costs:
    """Measure all of it.

    Args:
        names: bundles; the event loop's costs are those of the first one.
        seconds: of each load.
        quiet: of the machine meanwhile.

    Raises:
        BenchError: the service does not start, or refuses what it is sent.
    """
    described = machine.describe(("onnxruntime", "uvicorn", "fastapi"))
    cores = cpu_quota()
    found = [_model(models_dir, name, cores, seconds, quiet) for name in names]
    ratios = [one.batch / each.batch.seconds(one.rows, one.length) for each, alone, _ in found for one in alone]
    busy = min(1.0, statistics.median(ratios)) if cores > 1 else 1.0
    models = {name: each.scaled(busy) for name, (each, _, _) in zip(names, found, strict=True)}
    _, alone, many = found[0]
    request, token = _line([(each.length, each.loop * busy) for each in many])
    load = statistics.fmean(each.client for each in many) * busy
    # A request finds the loop idle twice: when it comes, and when its rows have run.
    wakes = [(one.loop - each.loop * busy) / 2 for one, each in zip(alone, many, strict=True)]
    client_wakes = [(one.client - load) / 2 for one in alone]
    return Costs(
        described, cores, busy, request, token, _refusal(models_dir, names[0], seconds) * busy,
        max(0.0, statistics.fmean(wakes)), load, max(0.0, statistics.fmean(client_wakes)),
        _memory(models_dir, names, seconds), models,
    )  # fmt: skip


def texts(count: int, words: Sequence[int], chance: random.Random) -> list[str]:
    """Make so many texts of the bundled sentences' words, each of a number of words drawn from `words`."""
    pool = list(itertools.chain.from_iterable(sentence.split() for sentence in rows.sentences()))
    made = []
    for _ in range(count):
        size, at = chance.choice(words), chance.randrange(len(pool))
        made.append(" ".join(itertools.islice(itertools.cycle(pool), at, at + size)))
    return made


def request(url: str, bundle: Bundle, text: str) -> bytes:
    """Make the request that asks a bundle for a text: to classify it, beside a short one where it takes pairs, or to
    answer a question from it."""
    if bundle.manifest.task == "span":
        return client.request(f"{url}/qa", json.dumps({"question": QUESTION, "context": text}).encode())
    one = {"premise": text, "hypothesis": "It is good."} if "entailment" in bundle.manifest.labels else {"text": text}
    return client.request(f"{url}/classify", json.dumps({**one, "model": bundle.name}).encode())


def _model(
    models_dir: Path, name: str, cores: int, seconds: float, quiet: Quiet
) -> tuple[ModelCosts, list[Sample], list[Sample]]:
    """Measure one model: its costs while all cores are busy, and the samples of one client and of many."""
    bundle = bundles.load(models_dir / name)
    with _load(models_dir, bundle, quiet, low_latency=False) as load:
        few, many, alone = ([load.sample(words, n, seconds) for words in WORDS] for n in (FEW, MANY, 1))
    with _load(models_dir, bundle, quiet) as load:
        wide = [load.sample(words, 1, seconds) for words in WORDS]
    batch = Curve.fit([(each.rows, each.length, each.batch) for each in (*few, *many)])
    costs = ModelCosts(
        batch,
        Curve.fit([(each.rows, each.length, each.inference) for each in wide]),
        max(BATCH_TOKENS["cpu"], bundle.manifest.max_length),
        LOW_LATENCY_TOKENS if cores > 1 else 0,
    )
    return costs, alone, many


class _Load:
    def __init__(self, server: Server, url: str, bundle: Bundle, quiet: Quiet) -> None:
        self._server, self._url, self._bundle, self._quiet = server, url, bundle, quiet

    def sample(self, words: int, connections: int, seconds: float) -> Sample:
        """Ask for texts of so many words, from so many clients without pause, while it is quiet."""
        return self._quiet.run(self._server, lambda: self._sample(words, connections, seconds))

    def _sample(self, words: int, connections: int, seconds: float) -> Sample:
        made = texts(TEXTS, (words,), random.Random(words))
        feed = itertools.cycle([request(self._url, self._bundle, text) for text in made])
        url = self._url
        uvloop.run(client.closed(url, feed, connections=connections, seconds=seconds / 4))  # the first ones are slower
        before, own, loop, all_of_it = self._counted(), *self._spent()
        answers = uvloop.run(client.closed(url, feed, connections=connections, seconds=seconds))
        own, loop, all_of_it = (now - then for now, then in zip(self._spent(), (own, loop, all_of_it), strict=True))
        if bad := [answer for answer in answers if not answer.ok]:
            raise BenchError(f"a request was answered with {bad[0].status}: {bad[0].body[:200]!r}")
        count, batches, tokens, inferring = (b - a for a, b in zip(before, self._counted(), strict=True))
        return Sample(
            count / batches, tokens / count, (all_of_it - loop) / batches, loop / len(answers), own / len(answers),
            inferring / len(answers),
        )  # fmt: skip

    def _spent(self) -> tuple[float, float, float]:
        return time.process_time(), self._server.main_thread_seconds(), self._server.usage().cpu_seconds

    def _counted(self) -> list[float]:
        """Get the rows, batches, tokens and seconds of inference so far, by the service's own metrics."""
        body = client.get(f"{self._url}/metrics").body.decode()
        series = (
            r"bertie_batch_rows_sum\{", r"bertie_batch_rows_count\{", r"bertie_batch_tokens_sum\{",
            r'bertie_phase_duration_seconds_sum\{.*phase="inference"',
        )  # fmt: skip
        return [
            sum(float(line.split()[-1]) for line in body.splitlines() if re.match(pattern, line)) for pattern in series
        ]


@contextlib.contextmanager
def _load(models_dir: Path, bundle: Bundle, quiet: Quiet, *, low_latency: bool = True) -> Iterator[_Load]:
    with serving.bertie(models_dir, (bundle.name,), BERTIE_LOW_LATENCY=str(low_latency)) as (server, url):
        yield _Load(server, url, bundle, quiet)


def _line(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Fit a line, its slope not below zero: its value at 0 and its slope."""
    slope, intercept = statistics.linear_regression(*zip(*points, strict=True))
    return (intercept, slope) if slope > 0 else (statistics.fmean(y for _, y in points), 0.0)


def _refusal(models_dir: Path, name: str, seconds: float) -> float:
    """Get the event loop's seconds for a refused request: of a service that takes one at a time."""
    bundle = bundles.load(models_dir / name)
    with serving.bertie(models_dir, (name,), BERTIE_MAX_REQUESTS="1") as (server, url):
        feed = itertools.cycle([request(url, bundle, text) for text in texts(TEXTS, (WORDS[-1],), random.Random(0))])
        before = server.main_thread_seconds()
        answers = uvloop.run(client.closed(url, feed, connections=MANY, seconds=seconds))
        spent = server.main_thread_seconds() - before
    refused = sum(answer.status == 429 for answer in answers)
    if refused < len(answers) / 2:
        raise BenchError(f"{refused} of {len(answers)} requests were refused where all but one at a time should be")
    return spent / len(answers)


def _memory(models_dir: Path, names: Sequence[str], seconds: float) -> int:
    """Get the bytes of a service with all of the models, after a load of long texts on each (PSS)."""
    with serving.bertie(models_dir, tuple(names)) as (server, url):
        for name in names:
            bundle = bundles.load(models_dir / name)
            feed = itertools.cycle([request(url, bundle, text) for text in texts(TEXTS, WORDS, random.Random(0))])
            uvloop.run(client.closed(url, feed, connections=MANY, seconds=seconds / 2))
        return server.pss()
