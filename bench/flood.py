"""A flood: the peak is measured with as many clients as keep a service busy; then ten times as many rows a second are
sent, whoever waits (an open loop).

Owns the flood and what its answers say: goodput against the peak, the waiting of those admitted, the share of refusals
(429 and 503), how soon they come, and Retry-After against two things: how long after that refusal the next request was
really admitted, and whether a client that waited as long as it was told was admitted, while the flood lasted. Knows
nothing of which service it is.
"""

from __future__ import annotations

import asyncio
import bisect
import itertools
import math
import resource
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import uvloop

from bench import client
from bench.client import Answer
from bench.errors import BenchError
from bench.load import percentile
from bench.report.table import Table, number

if TYPE_CHECKING:
    from bench.rounds import Rounds

PROBE_SECONDS = 0.5
"""Between two clients that obey a Retry-After in a flood."""
REFUSED = (429, 503)
TIMES = 10.0
"""The peak that is sent."""


@dataclass(frozen=True, slots=True)
class Flood:
    """What became of a flood.

    Attributes:
        rows: of a request.
        peak: rows a second at the peak, before it.
        offered: rows a second that were really sent, as a multiple of the peak.
        goodput: rows a second answered in the flood and after it until all were, as a share of the peak.
        admitted_p50, admitted_p99: seconds of the requests that were answered.
        refused: share of the requests that were refused.
        refused_p99: seconds until a refusal was there.
        other: answers that were neither.
        told: median Retry-After, seconds; None where nothing was refused with one.
        reopened: median seconds from a refusal to the sending of the next request that was admitted.
        right: share of those refusals that were told between half and twice that.
        rounded: share that were, or were told less than a second too much: the header has no less than whole seconds.
        obeyed: how many clients waited as they were told; `readmitted`: how many of those were then admitted.
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

    def words(self) -> str:
        """Describe it in a sentence."""
        retry = "no Retry-After"
        if self.told is not None:
            retry = (
                f"Retry-After said {self.told:.1f} s, the next was admitted after {self.reopened:.2f} s (medians), "
                f"within 2 × for {self.right:.0%}, or as near as whole seconds allow for {self.rounded:.0%}; "
                f"{self.readmitted} of {self.obeyed} who obeyed it were admitted"
            )
        return (
            f"{self.rows} rows a request: peak {self.peak:.0f} rows/s, offered {self.offered:.1f} ×; goodput "
            f"{self.goodput:.0%} (wanted ≥ 95 %), admitted p99 {self.admitted_p99:.2f} s, refused {self.refused:.0%} "
            f"(p99 {self.refused_p99 * 1e3:.0f} ms), other {self.other}; {retry}"
        )


def measure(
    url: str,
    requests: Iterator[bytes],
    *,
    rows: int,
    seconds: float,
    times: float = TIMES,
    rate: float = 0.0,
    connections: int = 0,
) -> Flood:
    """Find the peak, flood, and look at what became of it.

    Args:
        requests: without end, of so many `rows` each.
        times: the peak that is sent; `rate`: rows a second that are sent instead, if given.
        connections: most that the flood comes from; 0 for as many as it takes.

    Raises:
        BenchError: nothing was answered at the peak.
    """
    clients = max(2, 64 // rows)
    uvloop.run(client.closed(url, requests, connections=clients, seconds=min(2.0, seconds)))
    began = time.perf_counter()
    calm = uvloop.run(client.closed(url, requests, connections=clients, seconds=seconds))
    peak = sum(rows for answer in calm if answer.ok) / (time.perf_counter() - began)
    if not peak:
        raise BenchError("nothing was answered at the peak")
    began = time.perf_counter()
    rate = (rate or times * peak) / rows
    answers, obedient = uvloop.run(_flood(url, requests, rate=rate, seconds=seconds, connections=connections))
    return summary(answers, obedient, rows=rows, peak=peak, began=began)


class Floods:
    """The same flood for each of a run's services that take a sentence a request: ten times the first one's first peak.

    Attributes:
        found: by service, one a round.
    """

    def __init__(self, taken: Rounds, *, seconds: float, connections: int) -> None:
        self.found: dict[str, list[Flood]] = {}
        self._taken = taken
        self._seconds = seconds
        self._connections = connections
        self._rate = 0.0

    def round(self, i: int) -> None:
        """Flood one service after another; odd rounds go backwards."""
        allow(self._connections)
        peers = [peer for peer in self._taken.plan.peers if peer.work == "single"]
        for peer in peers if i % 2 == 0 else peers[::-1]:
            if peer.name not in self._taken.skipped:
                with self._taken.skipping(peer), self._taken.serving(peer) as (_, url):
                    requests = itertools.cycle([client.request(url, body) for body in self._taken.bodies(peer)])
                    found = measure(
                        url, requests, rows=1, seconds=self._seconds, rate=self._rate, connections=self._connections
                    )
                    self._rate = self._rate or TIMES * found.peak
                    self.found.setdefault(peer.name, []).append(found)


def allow(connections: int) -> None:
    """Let this process, and the servers that it starts from now on, have so many connections, as far as it may.

    Raises:
        BenchError: it may not have so many.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most != resource.RLIM_INFINITY and connections + 256 > most:
        raise BenchError(f"{connections} connections are more than the {most} descriptors that a process may have here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def table(floods: Mapping[str, Sequence[Flood]]) -> Table:
    """Show what became of each service: medians over the rounds."""
    columns = (
        "", "peak rows/s", "offered ×", "goodput", "p50 s of a 200", "p99 s of a 200", "refused", "p99 ms of a refusal",
        "other",
    )  # fmt: skip
    lines = []
    for name, each in floods.items():

        def middle(attribute: str, each: Sequence[Flood] = each) -> float:
            return statistics.median(float(getattr(flood, attribute)) for flood in each)

        lines.append((
            name, number(middle("peak")), f"{middle('offered'):.1f}", f"{middle('goodput'):.0%}",
            number(middle("admitted_p50")), number(middle("admitted_p99")), f"{middle('refused'):.0%}",
            number(middle("refused_p99") * 1e3), str(sum(flood.other for flood in each)),
        ))  # fmt: skip
    note = (
        f"{TIMES:g} × the first service's peak was to be sent to each, a sentence a request, as far as client and "
        "connections allow; offered and goodput are over the service's own peak. Medians of the rounds."
    )
    return Table("flood", "Under the same flood", columns, tuple(lines), note)


def summary(answers: Sequence[Answer], obedient: Sequence[Answer], *, rows: int, peak: float, began: float) -> Flood:
    """Say what the answers of a flood show.

    Args:
        obedient: answers to those who had waited as long as a refusal told them.
        began: of the flood.
    """
    admitted = [answer for answer in answers if answer.ok]
    refused = [answer for answer in answers if answer.status in REFUSED]
    last_sent = max(answer.sent for answer in answers)
    last_received = max((answer.received for answer in admitted), default=last_sent)
    told = [answer.retry_after for answer in refused if answer.retry_after is not None]
    waits = [answer.seconds for answer in admitted]
    pairs = [pair for pair in _reopenings(admitted, refused) if pair[1] > 0]
    right = [0.5 <= said / actual <= 2 for said, actual in pairs]
    rounded = [ok or 0 <= said - actual < 1 for ok, (said, actual) in zip(right, pairs, strict=True)]
    return Flood(
        rows=rows,
        peak=peak,
        offered=len(answers) * rows / max(last_sent - began, 1e-9) / peak,
        goodput=len(admitted) * rows / (last_received - began) / peak,
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
    url: str, requests: Iterator[bytes], *, rate: float, seconds: float, connections: int
) -> tuple[list[Answer], list[Answer]]:
    """The answers of the flood, and of those who obeyed a Retry-After while it lasted."""
    obedient: list[Answer] = []
    until = time.perf_counter() + seconds

    async def obey() -> None:
        connection = client.Connection(url)
        answer = await connection.send(next(requests))
        wait = answer.retry_after
        if answer.status in REFUSED and wait is not None and time.perf_counter() + wait < until:
            await asyncio.sleep(wait)
            obedient.append(await connection.send(next(requests)))
        connection.close()

    async def probe() -> None:
        async with asyncio.TaskGroup() as tasks:
            while time.perf_counter() < until:
                tasks.create_task(obey())
                await asyncio.sleep(PROBE_SECONDS)

    flood = client.opened(url, requests, rate=rate, seconds=seconds, connections=connections)
    answers, _ = await asyncio.gather(flood, probe())
    return answers, obedient
