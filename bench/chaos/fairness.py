"""Polite clients beside greedy ones. (4, 5)

The share is by client: by key where there is one, else by address. So each polite client has an address of its own,
127.0.0.2 and up: all of 127.0.0.0/8 is loopback on Linux.
"""

from __future__ import annotations

import itertools
import json
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from bench import client, rows
from bench.chaos import crowd, raw
from bench.chaos.apart import Apart
from bench.chaos.probes import texts
from bench.chaos.raw import Address
from bench.chaos.result import Result
from bench.chaos.target import Service
from bench.errors import BenchError
from bench.load import percentile

SHORT = "Where was the woman born who wrote the notes on the engine?"
NOTE = "Ada Lovelace was born in London in 1815."


@dataclass(frozen=True, slots=True)
class Obedient:
    """What a client that obeys got.

    Attributes:
        tries: that it made.
        statuses: of each; 0 where none came.
        seconds: until the last answer.
    """

    tries: int
    statuses: tuple[int, ...]
    seconds: float

    @property
    def admitted(self) -> bool:
        """Whether it was answered in the end."""
        return self.statuses[-1] == 200


def polite(models: Path, *, clients: int = 20, connections: int = 128, size: int = 32, seconds: float = 30.0) -> Result:
    """Clients that obey Retry-After beside a flood of another address that does not.

    Args:
        seconds: how long they try; the flood goes on until all are answered.
    """
    result = Result(
        4,
        f"{clients} polite clients, an address each, beside a flood of {connections} connections of {size}-row bodies "
        "from one address",
        "each polite client answered by its third try",
    )
    requests = texts(clients, size)
    with (
        Service(models, "sentiment") as service,
        Apart(crowd.flood, service.address, texts(50, size), connections, seconds + 10),
        ThreadPoolExecutor(clients) as pool,
    ):
        time.sleep(2.0)
        found = list(
            pool.map(
                lambda i: obey(service.address, requests[i], source=f"127.0.0.{2 + i}", seconds=seconds), range(clients)
            )
        )
        admitted = [each for each in found if each.admitted]
        result.put("answered", len(admitted))
        result.put("at the first try", sum(each.tries == 1 for each in admitted))
        result.put("by the third", sum(each.tries <= 3 for each in admitted))
        result.put("tries at most", max(each.tries for each in found))
        result.put("after at most", max(each.seconds for each in found), "s")
        result.put(
            "the others got", sorted({status for each in found if not each.admitted for status in each.statuses})
        )
        good, refused = (int(service.metric("bertie_requests_total", status=status) or 0) for status in ("200", "429"))
        result.put("the flood got", [f"{good - len(admitted)} x 200", f"{refused} x 429"])
        result.met = result["by the third"] == clients
    return result


def obey(address: Address, data: bytes, *, source: str, seconds: float) -> Obedient:
    """Asks until it is answered, waiting as long as each 429 says."""
    began, statuses = time.perf_counter(), []
    while True:
        left = seconds - (time.perf_counter() - began)
        reply = raw.ask(address, data, source=source, timeout=max(0.1, left))
        statuses.append(reply.status)
        wait = float(reply.headers.get("retry-after", "1"))
        took = time.perf_counter() - began
        if reply.status == 200 or took + wait > seconds:
            return Obedient(len(statuses), tuple(statuses), took)
        time.sleep(wait)


def short_beside_long(
    models: Path, *, clients: int = 8, windows: int = 32, seconds: float = 5.0, rounds: int = 2
) -> Result:
    """Short questions beside documents that come without pause, all from one address.

    32 windows of 320 tokens are as much as the 26 of 384 with which the fault was found.
    """
    result = Result(
        5,
        f"{clients} clients post documents of {windows} windows without pause, one asks questions of some 20 tokens",
        "no 429 for the short ones; their p95 ≤ 2 x that alone",
    )
    question = raw.request("/qa", raw.dump({"question": SHORT, "context": NOTE}))
    alone: list[float] = []
    beside: list[float] = []
    statuses: Counter[int] = Counter()
    documents: Counter[int] = Counter()
    with Service(models, "qa") as service:
        url = f"http://{service.address[0]}:{service.address[1]}/qa"
        context = document(url, windows)
        book = client.request(url, json.dumps({"question": "Who?", "context": context}).encode())
        raw.asking(service.address, question, seconds=1.0)
        for _ in range(rounds):
            calm = raw.asking(service.address, question, seconds=seconds / 2)
            with Apart(crowd.flood, service.address, [book], clients, seconds + 1.5, 20.0) as flood:
                time.sleep(1.5)
                beset = raw.asking(service.address, question, seconds=seconds)
                documents += flood.result(60).statuses
            statuses += Counter(beset.statuses)
            alone += calm.seconds
            beside += (s for s, status in zip(beset.seconds, beset.statuses, strict=True) if status == 200)
    result.put("windows", windows)
    result.put("p95 alone", percentile(alone, 95) * 1e3, "ms")
    result.put("p95 beside", percentile(beside, 95) * 1e3, "ms")
    ratio = result.put("ratio", result["p95 beside"] / result["p95 alone"], "x")
    result.put("short answered", statuses[200])
    result.put("short refused", statuses[429])
    result.put("short with neither", statuses.total() - statuses[200] - statuses[429])
    result.put("documents answered", documents[200])
    result.put("documents got", [f"{count} x {status}" for status, count in sorted(documents.items())])
    result.met = statuses[200] == statuses.total() > 0 and documents[200] > 0 and ratio <= 2
    return result


def document(url: str, windows: int) -> str:
    """A context that the QA model reads in about so many windows: as long as two samples say that it must be.

    Raises:
        BenchError: the model does not answer.
    """
    words = " ".join(itertools.islice(itertools.cycle(rows.sentences()), 1000)).split()
    sizes = (1000, 2000)
    answers = client.post(
        url, [json.dumps({"question": "Who?", "context": " ".join(words[:size])}).encode() for size in sizes]
    )
    if not all(answer.ok for answer in answers):
        raise BenchError(f"the QA model answered {answers[0].status}: {answers[0].body[:200]!r}")
    few, more = (answer.json()["windows"] for answer in answers)
    each = (sizes[1] - sizes[0]) / (more - few)
    return " ".join(words[: round(sizes[1] + (windows - more) * each)])
