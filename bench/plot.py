"""Rows a second and p95 against the number of connections, as one SVG file that needs nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from bench.compare.charts import Log
from bench.report import Report
from bench.table import number

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 460, 380, 56, 112, 44, 50
COLOURS = ("#0b6e4f", "#b33951", "#d98324", "#3a6ea5", "#7d5ba6", "#5c6b73", "#a08b00", "#222222")
"""Bertie's first. Lines are named at their ends, so nobody depends on them."""
LINE = 13
"""Least distance of two names."""

Lines = Mapping[str, Sequence[tuple[float, float]]]


def render(report: Report) -> str:
    """The SVG text; empty where nothing was measured."""
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
        rates["bare session"] = ceiling
    charts = [
        _chart(rates, "rows a second", 0),
        _chart(lines("p95", 1e3), "p95, ms", WIDTH + 20),
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" viewBox="0 0 {2 * WIDTH + 20} {HEIGHT}" '
        'font-family="system-ui, sans-serif" font-size="11" fill="#333">'
        "<title>Services against connections</title>"
        f"<desc>Rows a second and 95th percentile of latency of {len(services)} services, logarithmic axes.</desc>"
        f'<rect width="100%" height="100%" fill="#fff"/>{"".join(charts)}</svg>\n'
    )


def _chart(lines: Lines, title: str, at: float) -> str:
    points = [point for each in lines.values() for point in each]
    across = Log.over([x for x, _ in points], LEFT, WIDTH - RIGHT)
    up = Log.over([y for _, y in points], HEIGHT - BOTTOM, TOP)
    parts = [f'<text x="{LEFT}" y="22" font-size="14" font-weight="600">{escape(title)}</text>']
    for tick in up.ticks():
        y = up.at(tick)
        parts.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{number(tick)}</text>')
    for x in sorted({x for x, _ in points}):
        parts.append(f'<text x="{across.at(x):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{number(x)}</text>')
    parts.append(f'<text x="{LEFT}" y="{HEIGHT - 12}">connections</text>')
    for (name, y), (colour, dash) in zip(_spread(lines, up).items(), _styles(lines), strict=True):
        path = " ".join(f"{across.at(x):.1f},{up.at(value):.1f}" for x, value in lines[name])
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>')
        for x, value in lines[name]:
            tip = f"{name}, {number(x)} connections: {number(value)}"
            parts.append(
                f'<circle cx="{across.at(x):.1f}" cy="{up.at(value):.1f}" r="3.5" fill="{colour}">'
                f"<title>{escape(tip)}</title></circle>"
            )
        parts.append(f'<text x="{WIDTH - RIGHT + 8}" y="{y + 4:.1f}" fill="{colour}">{escape(name)}</text>')
    return f'<g transform="translate({at:g})">{"".join(parts)}</g>'


def _styles(lines: Lines) -> list[tuple[str, str]]:
    return [
        (COLOURS[i % len(COLOURS)], ' stroke-dasharray="5 4"' if name == "bare session" else "")
        for i, name in enumerate(lines)
    ]


def _spread(lines: Lines, up: Log) -> dict[str, float]:
    """Where each line's name stands: at its last point, pushed down from the one above; in the lines' own order."""
    ends = {name: up.at(points[-1][1]) for name, points in lines.items()}
    placed: dict[str, float] = {}
    last = 0.0
    for name in sorted(ends, key=ends.__getitem__):
        placed[name] = last = max(ends[name], last + LINE)
    return {name: placed[name] for name in lines}
