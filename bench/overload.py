"""Too many requests, and very long ones: does Bertie go on at its peak, refuse rightly, and let short ones pass?

    python -m bench.overload                     # every part, the bundles in models/
    python -m bench.overload --part starvation

*Overload*: see `bench.flood`.

*Starvation*: one client posts documents of 100 windows to /qa without pause while others ask for sentiment: their p95
against the same without it, in alternation.

*Padding*: 32 clients with texts of one to eight sentences: the share of the computed tokens that is padding, by the
service's own count of tokens against the texts' tokens.

The load generator shares the cores, so what it could send is shown too; with `--apart` it has the last one to itself
and the service the others. Ends with one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import random
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import uvloop

from bench import client, command, flood, rows, serving
from bench.client import Answer
from bench.command import counts
from bench.errors import BenchError
from bench.graphs.inprocess import Opened
from bench.load import percentile
from bench.report.results import plain

PARTS = ("overload", "starvation", "padding")
CLIENTS = 32
"""Of the part about padding."""
WINDOWS = 100
"""Of the long document."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print. Return the exit status."""
    parser = command.parser("bench.overload", __doc__)
    parser.add_argument("--part", choices=(*PARTS, "all"), default="all")
    parser.add_argument("--models", type=Path, default=Path("models"), help="folder of the bundles")
    parser.add_argument("--seconds", type=float, default=15.0, help="of a flood, and of each side (%(default)s)")
    parser.add_argument("--times", type=float, default=flood.TIMES, help="the peak that is sent (%(default)s)")
    parser.add_argument("--rows", type=counts, default=(1, 32), metavar="N,N", help="of a request in a flood; 1,32")
    parser.add_argument("--connections", type=counts, default=(1, 8), help="that ask for sentiment; 1,8")
    parser.add_argument("--apart", action="store_true", help="keep the last core for the load generator")
    parser.add_argument("--rounds", type=int, default=3, help="with and without documents (%(default)s)")
    return command.run(parser, program, arguments)


def program(options: argparse.Namespace) -> int:
    """Measure the parts that are asked for and print them."""
    found: dict[str, Any] = {}
    parts = PARTS if options.part == "all" else (options.part,)
    if "overload" in parts:
        found["overload"] = []
        for size in options.rows:
            with _placed(options.apart) as settle, serving.bertie(options.models, ("sentiment",)) as (_, url):
                settle()
                requests = _requests(f"{url}/classify", size)
                flooded = flood.measure(
                    f"{url}/classify", requests, rows=size, seconds=options.seconds, times=options.times
                )
            found["overload"].append(asdict(flooded))
            print(f"overload, {flooded.words()}")
    if "starvation" in parts:
        with serving.bertie(options.models, ("sentiment", "qa")) as (_, url):
            found["starvation"] = [
                starvation(url, connections=n, seconds=options.seconds, rounds=options.rounds)
                for n in options.connections
            ]
        for each in found["starvation"]:
            print(
                f"starvation, {each['connections']} clients: sentiment's p95 {each['p95_without'] * 1e3:.1f} ms "
                f"without, {each['p95_with'] * 1e3:.1f} ms with documents of {each['windows']} windows: "
                f"{each['ratio']:.2f} × (wanted ≤ 2 ×); {each['documents']} documents answered"
            )
    if "padding" in parts:
        with serving.bertie(options.models, ("sentiment",)) as (_, url):
            each = found["padding"] = padding(url, options.models / "sentiment", seconds=options.seconds)
        print(
            f"padding, {each['connections']} clients of mixed lengths: {each['share']:.1%} of the computed tokens "
            f"(wanted ≤ 8 %), in {each['batches']:,} batches of {each['rows']:.1f} rows"
        )
    print(json.dumps(plain(found), allow_nan=False))
    return 0


@contextlib.contextmanager
def _placed(apart: bool) -> Iterator[Callable[[], None]]:
    """Give what is started all cores but the last, and this process the last from the call on, if they are apart."""
    cores = sorted(os.sched_getaffinity(0))
    if not apart:
        yield lambda: None
        return
    if len(cores) < 2:
        raise BenchError("there is one core: the service and its load cannot be apart")
    os.sched_setaffinity(0, cores[:-1])
    try:
        yield lambda: os.sched_setaffinity(0, cores[-1:])
    finally:
        os.sched_setaffinity(0, cores)


def starvation(url: str, *, connections: int, seconds: float, rounds: int) -> dict[str, Any]:
    """Measure sentiment's p95 with and without a client that posts long documents, in alternation.

    Raises:
        BenchError: a document was not answered.
    """
    question = {"question": "What is the film about?", "context": document(url)}
    book = client.request(f"{url}/qa", json.dumps(question).encode())
    requests = _requests(f"{url}/classify", 1)

    async def side(books: bool) -> tuple[list[Answer], list[Answer]]:
        short = client.closed(f"{url}/classify", requests, connections=connections, seconds=seconds)
        if not books:
            return await short, []
        # The last document goes on when the others have stopped; it is waited for, and counts as answered.
        long = client.closed(f"{url}/qa", itertools.repeat(book), connections=1, seconds=seconds)
        return tuple(await asyncio.gather(short, long))  # type: ignore[return-value]

    uvloop.run(side(False))
    without, beside, documents = [], [], 0
    for _ in range(rounds):
        without.append(_p95(uvloop.run(side(False))[0]))
        short, long = uvloop.run(side(True))
        beside.append(_p95(short))
        if bad := [answer for answer in long if not answer.ok]:
            raise BenchError(f"a document was answered with {bad[0].status}: {bad[0].body[:200]!r}")
        documents += len(long)
    return {
        "connections": connections,
        "windows": WINDOWS,
        "p95_without": statistics.median(without),
        "p95_with": statistics.median(beside),
        "ratio": statistics.median(b / a for a, b in zip(without, beside, strict=True)),
        "documents": documents,
    }


def padding(url: str, folder: Path, *, seconds: float) -> dict[str, Any]:
    """Measure the share of padding among the tokens that were computed for clients with texts of many lengths.

    Args:
        folder: the bundle that is served, to know the length of each text's row.

    Raises:
        BenchError: a request was not answered with 200.
    """
    chance = random.Random(0)
    sentences = rows.sentences()
    texts = [" ".join(chance.choices(sentences, k=chance.choice((1, 1, 1, 1, 2, 3, 5, 8)))) for _ in range(1000)]
    lengths = [len(row) for row in Opened(folder).sentence_rows(texts)]
    made = [client.request(f"{url}/classify", json.dumps({"text": text}).encode()) for text in texts]
    needed = 0

    def feed() -> Iterator[bytes]:
        nonlocal needed
        for data, length in itertools.cycle(zip(made, lengths, strict=True)):
            needed += length
            yield data

    before = _computed(url)
    answers = uvloop.run(client.closed(url, feed(), connections=CLIENTS, seconds=seconds))
    if bad := [answer for answer in answers if not answer.ok]:
        raise BenchError(f"a request was answered with {bad[0].status}: {bad[0].body[:200]!r}")
    tokens, batches = (now - then for now, then in zip(_computed(url), before, strict=True))
    return {
        "connections": CLIENTS,
        "share": 1 - needed / tokens,
        "batches": round(batches),
        "rows": len(answers) / batches,
    }


def _computed(url: str) -> tuple[float, float]:
    """Get the tokens that the service has computed, padding included, and in how many batches."""
    lines = client.get(f"{url}/metrics").body.decode().splitlines()
    tokens, batches = (
        sum(float(line.split()[-1]) for line in lines if line.startswith(f"bertie_batch_tokens_{what}{{"))
        for what in ("sum", "count")
    )
    return tokens, batches


def document(url: str) -> str:
    """Make a context that the QA model reads in 100 windows: as long as two samples say that it must be.

    Raises:
        BenchError: the model does not answer.
    """
    text = " ".join(itertools.islice(itertools.cycle(rows.sentences()), 4000))
    words = text.split()
    sizes = (2000, 4000)
    answers = client.post(
        f"{url}/qa",
        [json.dumps({"question": "What?", "context": " ".join(words[:size])}).encode() for size in sizes],
    )
    if not all(answer.ok for answer in answers):
        raise BenchError(f"the QA model answered {answers[0].status}: {answers[0].body[:200]!r}")
    few, more = (answer.json()["windows"] for answer in answers)
    each = (sizes[1] - sizes[0]) / (more - few)
    return " ".join(words[: round(sizes[1] + (WINDOWS - more) * each)])


def _requests(url: str, size: int) -> Iterator[bytes]:
    """Make requests of so many sentences, without end."""
    sentences = itertools.cycle(rows.sentences())
    made = []
    for _ in range(200):
        texts = [{"text": text} for text in itertools.islice(sentences, size)]
        made.append(client.request(url, json.dumps(texts[0] if size == 1 else {"inputs": texts}).encode()))
    return itertools.cycle(made)


def _p95(answers: Sequence[Answer]) -> float:
    return percentile([answer.seconds for answer in answers if answer.ok], 95)


if __name__ == "__main__":
    sys.exit(main())
