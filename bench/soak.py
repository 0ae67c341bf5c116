"""`make soak`: very many requests of random shapes. Does memory grow, do descriptors or threads leak?

    python -m bench.soak                        # 100,000 requests to the bundles in models/
    python -m bench.soak --requests 2000        # a look

Sentiment, NLI, zero-shot and questions, as the bundles allow, from one word to a document of several windows, over a
few connections that come and go. Ends with one JSON object; exit status 1 when memory grew by more than it may, or when
an answer was anything but 200: each request is one that the service can answer, and no more wait than its queue holds.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import uvloop

from bench import client, command, rows, serving
from bench.client import Answer
from bench.errors import BenchError
from bench.process import Server

SETTLED = 0.1
"""Share of the requests after which memory is taken to have settled."""
GROWTH = 0.02
"""What it may grow by from there to the end."""
SAMPLES = 20
"""How often memory is looked at on the way."""

Shape = Callable[[random.Random, Sequence[str]], tuple[str, dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class Sample:
    """The service after so many requests."""

    requests: int
    rss: int
    threads: int
    descriptors: int


@dataclass(frozen=True, slots=True)
class Soak:
    """What came of it.

    Attributes:
        samples: on the way; the first is the one that growth is counted from.
        statuses: how many answers of each status.
    """

    samples: tuple[Sample, ...]
    statuses: dict[int, int]

    @property
    def growth(self) -> float:
        """Get the share by which resident memory grew from the first sample to the highest of the last three."""
        return max(sample.rss for sample in self.samples[-3:]) / self.samples[0].rss - 1

    @property
    def bad(self) -> int:
        """Count answers other than 200, and requests without one (status 0)."""
        return sum(count for status, count in self.statuses.items() if status != 200)

    @property
    def leaked_descriptors(self) -> int:
        """Count the descriptors at the end beyond those at the first sample."""
        return self.samples[-1].descriptors - self.samples[0].descriptors

    @property
    def leaked_threads(self) -> int:
        """Likewise, threads."""
        return self.samples[-1].threads - self.samples[0].threads


def main(arguments: Sequence[str] | None = None) -> int:
    """Soak and print. Return the exit status."""
    parser = command.parser("bench.soak", __doc__)
    parser.add_argument("--requests", type=int, default=100_000, help="%(default)s")
    parser.add_argument("--connections", type=int, default=16, help="%(default)s")
    parser.add_argument("--models", type=Path, default=Path("models"), help="folder of the bundles")
    parser.add_argument("--seed", type=int, default=0)
    return command.run(parser, program, arguments)


def program(options: argparse.Namespace) -> int:
    """Soak and print. Return 1 when memory grew by more than it may, or when an answer was bad."""
    with serving.bertie(options.models) as (server, url):
        soak = run(server, url, requests=options.requests, connections=options.connections, seed=options.seed)
    first, last = soak.samples[0], soak.samples[-1]
    print(
        f"{last.requests:,} requests ({', '.join(f'{s}: {n:,}' for s, n in sorted(soak.statuses.items()))}); resident "
        f"{first.rss / 1e6:.1f} MB after {first.requests:,}, {last.rss / 1e6:.1f} MB at the end: {soak.growth:+.2%} "
        f"(wanted ≤ {GROWTH:.0%}); threads {soak.leaked_threads:+d}, descriptors {soak.leaked_descriptors:+d}"
        + (f"; {soak.bad:,} bad answers (wanted 0)" if soak.bad else "")
    )
    told = {"growth": soak.growth, "statuses": soak.statuses, "samples": [asdict(s) for s in soak.samples]}
    print(json.dumps(told))
    return 0 if soak.growth <= GROWTH and not soak.bad else 1


def run(server: Server, url: str, *, requests: int, connections: int, seed: int = 0) -> Soak:
    """Send the requests in as many portions as there are samples; new connections for each portion.

    Raises:
        BenchError: the service has none of the models that this knows shapes for.
    """
    feed = shapes(url, seed)
    statuses: Counter[int] = Counter()

    def note(answer: Answer) -> None:
        statuses[answer.status] += 1

    samples = []
    marks = [round(requests * (SETTLED + (1 - SETTLED) * i / SAMPLES)) for i in range(SAMPLES + 1)]
    for already, mark in zip([0, *marks], marks, strict=False):
        portion = (client.request(url + path, json.dumps(body).encode()) for path, body in _take(feed, mark - already))
        uvloop.run(client.closed(url, portion, connections=connections, each=note))
        usage = server.usage()
        samples.append(Sample(mark, usage.rss, usage.threads, usage.descriptors))
        print(f"{mark:>8,} requests: {usage.rss / 1e6:.1f} MB resident", file=sys.stderr)
    return Soak(tuple(samples), dict(statuses))


def shapes(url: str, seed: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Make routes and bodies without end, for the models that the service has; the same for the same seed."""
    served = client.get(f"{url}/models").json()["models"]
    labels = {frozenset(model.get("labels") or ()) for model in served}
    kinds: list[Shape] = []
    if any({"positive", "negative"} <= known for known in labels):
        kinds += [_sentiment, _many]
    if any({"entailment", "contradiction"} <= known for known in labels):
        kinds += [_nli, _zero_shot]
    if any(model["task"] == "span" for model in served):
        kinds += [_question]
    if not kinds:
        raise BenchError("the service has no sentiment, NLI or QA model")
    return _shapes(kinds, random.Random(seed), rows.sentences())


def _shapes(
    kinds: Sequence[Shape], chance: random.Random, sentences: Sequence[str]
) -> Iterator[tuple[str, dict[str, Any]]]:
    while True:
        yield chance.choice(kinds)(chance, sentences)


def _sentiment(chance: random.Random, sentences: Sequence[str]) -> tuple[str, dict[str, Any]]:
    return "/classify", {"text": _text(chance, sentences, 5)}


def _many(chance: random.Random, sentences: Sequence[str]) -> tuple[str, dict[str, Any]]:
    return "/classify", {"inputs": [{"text": _text(chance, sentences, 1)} for _ in range(chance.randint(1, 8))]}


def _nli(chance: random.Random, sentences: Sequence[str]) -> tuple[str, dict[str, Any]]:
    return "/classify", {"premise": _text(chance, sentences, 4), "hypothesis": _text(chance, sentences, 1)}


def _zero_shot(chance: random.Random, sentences: Sequence[str]) -> tuple[str, dict[str, Any]]:
    known = ("film", "food", "sport", "politics", "weather", "money")
    return "/classify", {
        "text": _text(chance, sentences, 2),
        "candidate_labels": chance.sample(known, chance.randint(2, 4)),
    }


def _question(chance: random.Random, sentences: Sequence[str]) -> tuple[str, dict[str, Any]]:
    # Mostly a paragraph; one in ten is a document of several windows.
    length = chance.randint(40, 80) if chance.random() < 0.1 else 8
    return "/qa", {"question": "What is the film about?", "context": _text(chance, sentences, length)}


def _text(chance: random.Random, sentences: Sequence[str], most: int) -> str:
    """One to `most` sentences; of the last one any number of its words."""
    *whole, last = chance.choices(sentences, k=chance.randint(1, most))
    words = last.split()
    return " ".join([*whole, *words[: chance.randint(1, len(words))]])


def _take(feed: Iterator[tuple[str, dict[str, Any]]], count: int) -> Iterator[tuple[str, dict[str, Any]]]:
    return (next(feed) for _ in range(count))


if __name__ == "__main__":
    sys.exit(main())
