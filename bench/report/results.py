"""What a run found. Owns the layout of bench.json; knows nothing of how the figures were come by."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.flood import Flood
from bench.report.figure import Figure


@dataclass(frozen=True, slots=True)
class Point:
    """A service under one load, in one round.

    Attributes:
        rows_per_second: rows answered.
        p50, p95, p99: seconds of a request.
        cpu_seconds: of the server's whole process tree, a row answered; not a number where none was.
        peak_rss: most bytes resident that were seen, summed over its processes.
        pss: bytes resident after it, shared pages counted once.
        processes: how many it has.
        errors: requests without a good answer.
    """

    rows_per_second: float
    p50: float
    p95: float
    p99: float
    cpu_seconds: float
    peak_rss: int
    pss: int
    processes: int
    errors: int


@dataclass(frozen=True, slots=True)
class Service:
    """A service's points.

    Attributes:
        name, work, model, title: see `bench.peers.roster.Peer`.
        configuration: in words.
        tried: rows a second of the configurations that were tried.
        agreement: how many labels were the bare session's; empty where that means nothing.
        skipped: why it was not measured, or not to the end.
        points: by connections, one a round.
        ready: seconds from the start with all bundles until it was ready, one a round; where that was asked for.
        idle_rss: bytes resident when idle after that, one a round.
    """

    name: str
    work: str
    model: str
    title: str
    configuration: str
    tried: Mapping[str, float] = field(default_factory=dict)
    agreement: str = ""
    skipped: str = ""
    points: Mapping[int, Sequence[Point]] = field(default_factory=dict)
    ready: Sequence[float] = ()
    idle_rss: Sequence[int] = ()

    def figure(self, connections: int, name: str) -> Figure | None:
        """Get an attribute of its points at so many connections, over the rounds; None where there is none."""
        points = self.points.get(connections, ())
        return Figure(tuple(float(getattr(point, name)) for point in points)) if points else None


@dataclass(frozen=True, slots=True)
class BareRun:
    """The bare session under one schedule, in one round; `p50` to `p99` are seconds of a call."""

    schedule: str
    in_flight: int
    rows_per_second: float
    cpu_seconds: float
    p50: float
    p95: float
    p99: float


@dataclass(frozen=True, slots=True)
class Report:
    """A run.

    Attributes:
        services: in the order in which they are measured.
        bare: every schedule of the bare session in every round.
        tokenise_seconds: median seconds of encoding one sentence, a round each.
        settings: what was asked for.
        machine: where it ran.
        created: when, ISO 8601.
        floods: what became of each service in a flood, one a round.
    """

    services: tuple[Service, ...]
    bare: tuple[BareRun, ...]
    tokenise_seconds: tuple[float, ...]
    settings: Mapping[str, Any]
    machine: Mapping[str, Any]
    created: str
    floods: Mapping[str, Sequence[Flood]] = field(default_factory=dict)

    def service(self, name: str) -> Service | None:
        """Find the service of that name, if it was measured."""
        return next((s for s in self.services if s.name == name and s.points), None)

    def bare_figure(self, in_flight: int, schedule: str, name: str = "rows_per_second") -> Figure:
        """Get an attribute of the bare session's runs, over the rounds."""
        return Figure(tuple(getattr(r, name) for r in self.bare if (r.in_flight, r.schedule) == (in_flight, schedule)))

    def best_schedule(self, in_flight: int) -> str | None:
        """Find the schedule with the most rows a second; None where the bare session was not run so."""
        names = dict.fromkeys(r.schedule for r in self.bare if r.in_flight == in_flight)
        return max(names, key=lambda name: self.bare_figure(in_flight, name).median, default=None)

    def to_json(self) -> str:
        """Get the text of bench.json; what is not a number is null there."""
        return json.dumps(plain(dataclasses.asdict(self)), indent=1, allow_nan=False) + "\n"


def plain(value: Any) -> Any:
    """Put null for what is not a number, which JSON has no word for."""
    if isinstance(value, dict):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return None if isinstance(value, float) and math.isnan(value) else value
