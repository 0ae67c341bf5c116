"""This tree against another git revision: its sources checked out for a while, and the ratios of one run as tables.

Owns the temporary worktree and what is compared. Measures nothing: `bench.rounds` does, both sides in alternation.
"""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.errors import BenchError
from bench.report.figure import Figure
from bench.report.results import Report, Service
from bench.report.table import Table, number
from bench.serving import ROOT


@dataclass(frozen=True, slots=True)
class Revision:
    """A revision's short name and its sources."""

    name: str
    tree: Path


@contextlib.contextmanager
def checked_out(revision: str) -> Iterator[Revision]:
    """Check a revision out into a temporary git worktree, which is removed at the end.

    Raises:
        BenchError: git knows no such revision.
    """
    name = _git("rev-parse", "--short", "--verify", f"{revision}^{{commit}}")
    with tempfile.TemporaryDirectory(prefix="bench-against-") as folder:
        tree = Path(folder) / name
        _git("worktree", "add", "--detach", str(tree), name)
        try:
            yield Revision(name, tree)
        finally:
            _git("worktree", "remove", "--force", str(tree))


def tables(report: Report) -> list[Table]:
    """Set Bertie of this tree beside every service that was measured on the same work."""
    sides = [(mine, other) for mine in report.services for other in report.services if _comparable(mine, other)]
    speed = tuple(line for mine, other in sides for line in _lines(mine, other))
    starts = tuple(_start(mine, other) for mine, other in sides if mine.ready and other.ready)
    found = []
    if speed:
        columns = (
            "Bertie of this tree over", "connections", "rows/s", "its", "×", "from–to", "p50 ×", "p95 ×", "p99 ×",
            "rows a CPU-second", "its", "×", "errors", "its",
        )  # fmt: skip
        note = "× is the median of the rounds' ratios, a round against the same round; from–to their extremes."
        found.append(Table("against", "Side by side, in alternation", columns, speed, note))
    if starts:
        heads = ("Bertie of this tree over", "ready s", "its", "×", "from–to", "idle RSS MB", "its", "×")
        note = "Started with all bundles of the models folder; resident memory two seconds after being ready."
        found.append(Table("starts", "Start and idle memory", heads, starts, note))
    return found


def _comparable(mine: Service, other: Service) -> bool:
    """Whether `mine` is Bertie of this tree, and `other` another service on the same work."""
    return mine.name.startswith("bertie") and "@" not in mine.name and mine.work == other.work and mine is not other


def _lines(mine: Service, other: Service) -> Iterator[tuple[str, ...]]:
    for connections in mine.points:
        if not (points := other.points.get(connections)):
            continue
        pairs = {
            name: (Figure(tuple(getattr(p, name) for p in mine.points[connections])), Figure(tuple(
                getattr(p, name) for p in points)))
            for name in ("rows_per_second", "p50", "p95", "p99", "cpu_seconds")
        }  # fmt: skip
        rate, its_rate = pairs["rows_per_second"]
        cpu, its_cpu = (Figure(tuple(1 / value for value in figure.values)) for figure in pairs["cpu_seconds"])
        yield (
            other.name, str(connections), number(rate.median), number(its_rate.median), *_ratio(rate, its_rate),
            *(f"{ours.over(theirs):.2f}" for ours, theirs in (pairs[name] for name in ("p50", "p95", "p99"))),
            number(cpu.median), number(its_cpu.median), f"{cpu.over(its_cpu):.2f}",
            *(str(sum(point.errors for point in side)) for side in (mine.points[connections], points)),
        )  # fmt: skip


def _start(mine: Service, other: Service) -> tuple[str, ...]:
    ready, its_ready = Figure(tuple(mine.ready)), Figure(tuple(other.ready))
    rss, its_rss = (Figure(tuple(value / 1e6 for value in side.idle_rss)) for side in (mine, other))
    return (
        other.name, f"{ready.median:.2f}", f"{its_ready.median:.2f}", *_ratio(ready, its_ready),
        number(rss.median), number(its_rss.median), f"{rss.over(its_rss):.2f}",
    )  # fmt: skip


def _ratio(mine: Figure, other: Figure) -> tuple[str, str]:
    ratios = mine.ratios(other)
    return f"{mine.over(other):.2f}", f"{min(ratios):.2f}–{max(ratios):.2f}"


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True)
    if done.returncode:
        raise BenchError(f"git {arguments[0]}: {(done.stderr.strip() or 'failed').splitlines()[-1]}")
    return done.stdout.strip()
