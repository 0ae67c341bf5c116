"""Too many requests, and very long ones: does Bertie go on at its peak, refuse rightly, and let short ones pass?

    python -m bench.overload                     # every part, the bundles in models/
    python -m bench.overload --part starvation

*Overload*: the peak is measured with as many callers as keep it busy; then ten times as many rows a second are sent,
whoever waits (an open loop). Told are goodput against that peak, the waiting of those admitted, the share of 429, how
soon a 429 comes, and Retry-After against two things: how long after that 429 the next request was really admitted, and
whether a caller who waited as long as he was told was admitted, while it lasted.

*Starvation*: one caller posts documents of 100 windows to /qa without pause while others call sentiment: their p95
against the same without him, in turns.

*Padding*: 32 callers with texts of one to eight sentences: the share of the computed tokens that is padding, by the
service's own count of tokens against the texts' tokens.

The load generator shares the cores, so that what it could send is told too; with `--apart` it has the last one to
itself and the service the others. Ends with one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import bisect
import contextlib
import itertools
import json
import math
import os
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench import client, rows, serving
from bench.client import Answer
from bench.errors import BenchError
from bench.load import percentile
from bench.report import plain
from service.engine.tokenizer import Tokenizer
from service.predictor import make_task
from service.repository import bundle as bundles
from service.tasks import ClassificationExample

PARTS = ("overload", "starvation", "padding")
CALLERS = 32
"""Of the part about padding."""
WINDOWS = 100
"""Of the long document."""
PROBE_SECONDS = 0.5
"""How often, in a flood, somebody begins to obey a Retry-After."""


@dataclass(frozen=True, slots=True)
class Overload:
    """A flood.

    Attributes:
        rows: of a request.
        peak: rows a second at the peak, before it.
        offered: rows a second that were really sent, as a multiple of the peak.
        goodput: rows a second answered in the flood and after it until all were, as a share of the peak.
        admitted_p50, admitted_p99: seconds of the requests that were answered.
        refused: share of the requests that got 429.
        refused_p99: seconds until a 429 was there.
        other: answers that were neither.
        told: median Retry-After, seconds; None where nothing was refused.
        reopened: median seconds from a 429 to the sending of the next request that was admitted.
        right: share of those refusals that were told between half and twice that.
        rounded: share that were, or were told less than a second too much: the header has no less than whole seconds.
        obeyed: how many callers waited as they were told; `readmitted`: how many of those were then admitted.
    """

    rows: int
    peak: float
    offered: float
    goodput: float
    admitted_p50: float
    admitted_p99: float
    refused: float
    refused_p99: float
    other: int
    told: float | None
    reopened: float
    right: float
    rounded: float
    obeyed: int
    readmitted: int


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints. Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=(*PARTS, "all"), default="all")
    parser.add_argument("--models", type=Path, default=Path("models"), help="folder of the bundles")
    parser.add_argument("--seconds", type=float, default=15.0, help="of a flood, and of a turn (%(default)s)")
    parser.add_argument("--times", type=float, default=10.0, help="the peak that is sent (%(default)s)")
    parser.add_argument("--rows", type=_counts, default=(1, 32), metavar="N,N", help="of a request in a flood; 1,32")
    parser.add_argument("--connections", type=_counts, default=(1, 8), help="that call sentiment; 1,8")
    parser.add_argument("--apart", action="store_true", help="keep the last core for the load generator")
    parser.add_argument("--rounds", type=int, default=3, help="turns with and without documents (%(default)s)")
    options = parser.parse_args(arguments)
    found: dict[str, Any] = {}
    parts = PARTS if options.part == "all" else (options.part,)
    try:
        if "overload" in parts:
            found["overload"] = []
            for size in options.rows:
                with _placed(options.apart) as settle, serving.bertie(options.models, ("sentiment",)) as (_, url):
                    settle()
                    flood = overload(f"{url}/classify", size=size, seconds=options.seconds, times=options.times)
                found["overload"].append(asdict(flood))
                print(tell(flood))
        if "starvation" in parts:
            with serving.bertie(options.models, ("sentiment", "qa")) as (_, url):
                found["starvation"] = [
                    starvation(url, connections=n, seconds=options.seconds, rounds=options.rounds)
                    for n in options.connections
                ]
            for each in found["starvation"]:
                print(
                    f"starvation, {each['connections']} callers: sentiment's p95 {each['p95_without'] * 1e3:.1f} ms "
                    f"without, {each['p95_with'] * 1e3:.1f} ms with documents of {each['windows']} windows: "
                    f"{each['ratio']:.2f} × (wanted ≤ 2 ×); {each['documents']} documents answered"
                )
        if "padding" in parts:
            with serving.bertie(options.models, ("sentiment",)) as (_, url):
                found["padding"] = padding(url, options.models / "sentiment", seconds=options.seconds)
            told = found["padding"]
            print(
                f"padding, {told['connections']} callers of mixed lengths: {told['share']:.1%} of the computed tokens "
                f"(wanted ≤ 8 %), in {told['batches']:,} batches of {told['rows']:.1f} rows"
            )
    except BenchError as error:
        print(f"overload: {error}", file=sys.stderr)
        return 1
    print(json.dumps(plain(found), allow_nan=False))
    return 0


@contextlib.contextmanager
def _placed(apart: bool) -> Iterator[Callable[[], None]]:
    """While it lasts, what is started has all cores but the last, and this process the last from the call on, if they
    are to be apart."""
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


def tell(flood: Overload) -> str:
    """A flood in words."""
    retry = "no 429, so no Retry-After"
    if flood.told is not None:
        retry = (
            f"Retry-After said {flood.told:.1f} s, the next was admitted after {flood.reopened:.2f} s (medians), "
            f"within 2 × for {flood.right:.0%}, or as near as whole seconds can tell for {flood.rounded:.0%}; "
            f"{flood.readmitted} of {flood.obeyed} who obeyed it were admitted"
        )
    return (
        f"overload, {flood.rows} rows a request: peak {flood.peak:.0f} rows/s, offered {flood.offered:.1f} ×; goodput "
        f"{flood.goodput:.0%} (wanted ≥ 95 %), admitted p99 {flood.admitted_p99:.2f} s, refused {flood.refused:.0%} "
        f"(p99 {flood.refused_p99 * 1e3:.0f} ms), other {flood.other}; {retry}"
    )


def overload(url: str, *, size: int, seconds: float, times: float) -> Overload:
    """Finds the peak, floods, and looks at what became of it.

    Raises:
        BenchError: nothing was answered at the peak.
    """
    requests = _requests(url, size)
    callers = max(2, 64 // size)
    asyncio.run(client.closed(url, requests, connections=callers, seconds=min(2.0, seconds)))
    began = time.perf_counter()
    calm = asyncio.run(client.closed(url, requests, connections=callers, seconds=seconds))
    peak = sum(size for answer in calm if answer.ok) / (time.perf_counter() - began)
    if not peak:
        raise BenchError("nothing was answered at the peak")
    began = time.perf_counter()
    answers, obedient = asyncio.run(_flood(url, requests, rate=times * peak / size, seconds=seconds))
    return summary(answers, obedient, size=size, peak=peak, began=began)


def summary(answers: Sequence[Answer], obedient: Sequence[Answer], *, size: int, peak: float, began: float) -> Overload:
    """What the answers of a flood tell.

    Args:
        obedient: answers to those who had waited as long as a 429 told them.
        began: of the flood.
    """
    admitted = [answer for answer in answers if answer.ok]
    refused = [answer for answer in answers if answer.status == 429]
    last_sent = max(answer.sent for answer in answers)
    last_received = max((answer.received for answer in admitted), default=last_sent)
    told = [answer.retry_after for answer in refused if answer.retry_after is not None]
    waits = [answer.seconds for answer in admitted]
    pairs = [pair for pair in _reopenings(admitted, refused) if pair[1] > 0]
    right = [0.5 <= said / actual <= 2 for said, actual in pairs]
    rounded = [ok or 0 <= said - actual < 1 for ok, (said, actual) in zip(right, pairs, strict=True)]
    return Overload(
        rows=size,
        peak=peak,
        offered=len(answers) * size / max(last_sent - began, 1e-9) / peak,
        goodput=len(admitted) * size / (last_received - began) / peak,
        admitted_p50=percentile(waits, 50),
        admitted_p99=percentile(waits, 99),
        refused=len(refused) / len(answers),
        refused_p99=percentile([answer.seconds for answer in refused], 99),
        other=len(answers) - len(admitted) - len(refused),
        told=statistics.median(told) if told else None,
        reopened=statistics.median(actual for _, actual in pairs) if pairs else math.nan,
        right=sum(right) / len(right) if right else math.nan,
        rounded=sum(rounded) / len(rounded) if rounded else math.nan,
        obeyed=len(obedient),
        readmitted=sum(answer.ok for answer in obedient),
    )


def _reopenings(admitted: Sequence[Answer], refused: Sequence[Answer]) -> Iterator[tuple[float, float]]:
    """(Retry-After, seconds until the next request that was admitted) of each refusal that one followed."""
    sent = sorted(answer.sent for answer in admitted)
    for answer in refused:
        following = bisect.bisect_right(sent, answer.received)
        if answer.retry_after is not None and following < len(sent):
            yield answer.retry_after, sent[following] - answer.received


async def _flood(
    url: str, requests: Iterator[bytes], *, rate: float, seconds: float
) -> tuple[list[Answer], list[Answer]]:
    """The answers of the flood, and of those who obeyed a Retry-After while it lasted."""
    obedient: list[Answer] = []
    until = time.perf_counter() + seconds

    async def obey() -> None:
        connection = client.Connection(url)
        answer = await connection.send(next(requests))
        wait = answer.retry_after
        if answer.status == 429 and wait is not None and time.perf_counter() + wait < until:
            await asyncio.sleep(wait)
            obedient.append(await connection.send(next(requests)))
        connection.close()

    async def probe() -> None:
        async with asyncio.TaskGroup() as tasks:
            while time.perf_counter() < until:
                tasks.create_task(obey())
                await asyncio.sleep(PROBE_SECONDS)

    answers, _ = await asyncio.gather(client.opened(url, requests, rate=rate, seconds=seconds), probe())
    return answers, obedient


def starvation(url: str, *, connections: int, seconds: float, rounds: int) -> dict[str, Any]:
    """Sentiment's p95 with and without somebody who posts long documents, in turns.

    Raises:
        BenchError: a document was not answered.
    """
    question = {"question": "What is the film about?", "context": document(url)}
    book = client.request(f"{url}/qa", json.dumps(question).encode())
    requests = _requests(f"{url}/classify", 1)

    async def turn(books: bool) -> tuple[list[Answer], list[Answer]]:
        short = client.closed(f"{url}/classify", requests, connections=connections, seconds=seconds)
        if not books:
            return await short, []
        # The last document goes on when the others have stopped; it is waited for, and counts as answered.
        long = client.closed(f"{url}/qa", itertools.repeat(book), connections=1, seconds=seconds)
        return tuple(await asyncio.gather(short, long))  # type: ignore[return-value]

    asyncio.run(turn(False))
    without, beside, documents = [], [], 0
    for _ in range(rounds):
        without.append(_p95(asyncio.run(turn(False))[0]))
        short, long = asyncio.run(turn(True))
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
    """The share of padding among the tokens that were computed for callers with texts of many lengths.

    Args:
        folder: the bundle that is served, to know the length of each text's row.

    Raises:
        BenchError: a request was not answered with 200.
    """
    chance = random.Random(0)
    sentences = rows.sentences()
    texts = [" ".join(chance.choices(sentences, k=chance.choice((1, 1, 1, 1, 2, 3, 5, 8)))) for _ in range(1000)]
    task: Any = make_task(bundles.load(folder), Tokenizer.from_file(folder / bundles.TOKENIZER))
    lengths = [len(row) for row, *_ in task.encode([ClassificationExample(text) for text in texts])]
    made = [client.request(f"{url}/classify", json.dumps({"text": text}).encode()) for text in texts]
    needed = 0

    def feed() -> Iterator[bytes]:
        nonlocal needed
        for data, length in itertools.cycle(zip(made, lengths, strict=True)):
            needed += length
            yield data

    before = _computed(url)
    answers = asyncio.run(client.closed(url, feed(), connections=CALLERS, seconds=seconds))
    if bad := [answer for answer in answers if not answer.ok]:
        raise BenchError(f"a request was answered with {bad[0].status}: {bad[0].body[:200]!r}")
    tokens, batches = (now - then for now, then in zip(_computed(url), before, strict=True))
    return {
        "connections": CALLERS,
        "share": 1 - needed / tokens,
        "batches": round(batches),
        "rows": len(answers) / batches,
    }


def _computed(url: str) -> tuple[float, float]:
    """Tokens that the service has computed, padding included, and in how many batches."""
    lines = client.get(f"{url}/metrics").body.decode().splitlines()
    tokens, batches = (
        sum(float(line.split()[-1]) for line in lines if line.startswith(f"bertie_batch_tokens_{what}{{"))
        for what in ("sum", "count")
    )
    return tokens, batches


def document(url: str) -> str:
    """A context that the QA model reads in 100 windows: as long as two samples say that it must be.

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
    """Requests of so many sentences, without end."""
    sentences = itertools.cycle(rows.sentences())
    made = []
    for _ in range(200):
        texts = [{"text": text} for text in itertools.islice(sentences, size)]
        made.append(client.request(url, json.dumps(texts[0] if size == 1 else {"inputs": texts}).encode()))
    return itertools.cycle(made)


def _p95(answers: Sequence[Answer]) -> float:
    return percentile([answer.seconds for answer in answers if answer.ok], 95)


def _counts(text: str) -> tuple[int, ...]:
    return tuple(int(word) for word in text.split(","))


if __name__ == "__main__":
    sys.exit(main())
