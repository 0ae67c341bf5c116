"""Rows a second and p95 against the number of connections, as one SVG file that needs nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle

from matplotlib.axes import Axes

from bench.report import svg
from bench.report.results import Report

STYLES = (
    ("#0b6e4f", "o"), ("#b33951", "s"), ("#d98324", "^"), ("#3a6ea5", "D"), ("#7d5ba6", "v"), ("#5c6b73", "P"),
    ("#a08b00", "X"), ("#222222", "*"),
)  # fmt: skip
"""Colour and mark, Bertie's first: nobody depends on the colours alone."""
CEILING = "bare session"

Lines = Mapping[str, Sequence[tuple[float, float]]]


def render(report: Report) -> str:
    """Draw the plot and get its SVG text; empty where nothing was measured."""
    services = [s for s in report.services if s.work == "single" and s.points]
    if not services:
        return ""

    def lines(name: str, scale: float) -> dict[str, list[tuple[float, float]]]:
        found = {}
        for service in services:
            figures = ((n, service.figure(n, name)) for n in service.points)
            found[service.name] = [(float(n), f.median * scale) for n, f in figures if f and f.median > 0]
        return {name: points for name, points in found.items() if points}

    rates = lines("rows_per_second", 1)
    ceiling = [
        (float(n), report.bare_figure(n, schedule).median)
        for n in dict.fromkeys(r.in_flight for r in report.bare)
        if (schedule := report.best_schedule(n)) is not None and any(n in s.points for s in services)
    ]
    if ceiling:
        rates[CEILING] = ceiling
    figure = svg.figure(940, 380)
    left, right = figure.subplots(1, 2)
    _draw(left, rates, "rows a second")
    _draw(right, lines("p95", 1e3), "p95, ms")
    figure.legend(handles=left.get_lines(), loc="outside right upper")
    description = f"Rows a second and 95th percentile of latency of {len(services)} services, logarithmic axes."
    return svg.text(figure, "Services against connections", description)


def _draw(axes: Axes, lines: Lines, title: str) -> None:
    points = [point for each in lines.values() for point in each]
    for (name, each), (colour, mark) in zip(lines.items(), cycle(STYLES), strict=False):
        style = "--" if name == CEILING else "-"
        axes.plot(*zip(*each, strict=True), marker=mark, color=colour, linestyle=style, label=name)
    axes.set(title=title, xlabel="connections")
    svg.logarithmic(axes.xaxis, [x for x, _ in points], ticks=sorted({x for x, _ in points}))
    svg.logarithmic(axes.yaxis, [y for _, y in points])
