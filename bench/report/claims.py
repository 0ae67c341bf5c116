"""What is wanted of Bertie beside what was reached: ratios of figures of one run, a round against the same round."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass

from bench.peers.roster import ROWS
from bench.report.results import Report, Service

AT = 32
"""Connections at which services are compared."""
ALONE_MS = 1.5
"""Milliseconds that a request from one connection may take beside tokenising and the session."""


@dataclass(frozen=True, slots=True)
class Claim:
    """One aim.

    Attributes:
        text: what of, against what.
        wanted, reached: in words.
        met: whether it was reached.
    """

    text: str
    wanted: str
    reached: str
    met: bool


def of(report: Report) -> list[Claim]:
    """List every aim that there are figures for."""
    bertie = report.service("bertie")
    found: list[Claim] = []
    if bertie is not None and AT in bertie.points:
        found += _against_peers(report, bertie) + _against_bare(report, bertie)
    if bertie is not None and 1 in bertie.points and report.tokenise_seconds:
        found += _alone(report, bertie)
    if (batched := report.service("bertie-32")) is not None:
        found += _batched(report, batched)
    if (qa := report.service("bertie-qa")) is not None and (other := report.service("pipeline-qa")) is not None:
        shared = [n for n in qa.points if n in other.points]
        at = AT if AT in shared else max(shared, default=0)
        if at:
            ratio = _over(qa, other, at, "rows_per_second")
            text = f"questions/s over the pipeline's algorithm, {at} connections"
            found.append(Claim(text, "> 1 ×", f"{ratio:.2f} ×", ratio > 1))
    return found


def _against_peers(report: Report, bertie: Service) -> list[Claim]:
    peers = [s for s in report.services if s.work == "single" and s is not bertie and AT in s.points]
    same = [s for s in peers if s.model == "graph"]
    found = []
    if same:
        best = max(same, key=lambda s: _median(s, AT, "rows_per_second"))
        ratio = _over(bertie, best, AT, "rows_per_second")
        text = f"rows/s over the best peer with the same graph ({best.name}), {AT} connections"
        found.append(Claim(text, "≥ 1.6 ×", f"{ratio:.2f} ×", ratio >= 1.6))
    if naive := next((s for s in peers if s.name == "naive"), None):
        ratio = _over(bertie, naive, AT, "rows_per_second")
        found.append(Claim(f"rows/s over naive, {AT} connections", "≥ 10 ×", f"{ratio:.1f} ×", ratio >= 10))
    if not peers:
        return found
    for name in ("p95", "p99"):
        ratio, against = _worst(peers, lambda s, name=name: _over(bertie, s, AT, name), max)  # type: ignore[misc]
        text = f"{name} against the lowest of the peers ({against}), {AT} connections"
        found.append(Claim(text, "< 1 ×", f"{ratio:.2f} ×", ratio < 1))
    ratio, against = _worst(peers, lambda s: 1 / _over(bertie, s, AT, "cpu_seconds"), min)
    text = f"rows a CPU-second over the best of the peers ({against}), {AT} connections"
    found.append(Claim(text, "> 1 ×", f"{ratio:.2f} ×", ratio > 1))
    return found


def _against_bare(report: Report, bertie: Service) -> list[Claim]:
    schedule = report.best_schedule(AT)
    if schedule is None:
        return []
    mine = bertie.figure(AT, "rows_per_second")
    assert mine is not None
    share = mine.over(report.bare_figure(AT, schedule))
    text = f"rows/s of the bare session's ({schedule}), {AT} connections"
    return [Claim(text, "≥ 80 %", f"{share:.0%}", share >= 0.8)]


def _alone(report: Report, bertie: Service) -> list[Claim]:
    schedule = report.best_schedule(1)
    p50 = bertie.figure(1, "p50")
    if schedule is None or p50 is None:
        return []
    calls = report.bare_figure(1, schedule, "p50").values
    beside = [
        1e3 * (mine - tokenise - call)
        for mine, tokenise, call in zip(p50.values, report.tokenise_seconds, calls, strict=False)
    ]
    middle = statistics.median(beside)
    text = "p50 from one connection, beyond tokenising and the session"
    return [Claim(text, f"≤ {ALONE_MS} ms", f"{middle:.2f} ms", middle <= ALONE_MS)]


def _batched(report: Report, batched: Service) -> list[Claim]:
    found = []
    for connections in batched.points:
        in_flight = connections * ROWS
        schedule = report.best_schedule(in_flight)
        mine = batched.figure(connections, "rows_per_second")
        if schedule is None or mine is None:
            continue
        share = mine.over(report.bare_figure(in_flight, schedule))
        text = f"rows/s of the bare session's in requests of {ROWS} rows, {connections} connections"
        found.append(Claim(text, "≥ 95 %", f"{share:.0%}", share >= 0.95))
    return found


def _worst(
    peers: list[Service], ratio: Callable[[Service], float], pick: Callable[..., tuple[float, str]]
) -> tuple[float, str]:
    return pick((ratio(peer), peer.name) for peer in peers)


def _median(service: Service, at: int, name: str) -> float:
    figure = service.figure(at, name)
    assert figure is not None
    return figure.median


def _over(service: Service, other: Service, at: int, name: str) -> float:
    mine, theirs = service.figure(at, name), other.figure(at, name)
    assert mine is not None
    assert theirs is not None
    return mine.over(theirs)
