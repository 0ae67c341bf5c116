"""Three kinds of charts as SVG text: stacked bars, dots on a logarithmic axis, and a scatter with two of those.

Owns geometry. Colours and type are the page's (`page.css`), through classes; every mark has a `<title>` with its figure
and every chart a description, and marks differ in shape as well as in colour.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from bench.table import number

LINE = 34
"""Height of a row."""
ABOVE, BELOW = 14, 44
"""Room over the first row, and under the last for the axis."""


STEPS: tuple[tuple[int, tuple[float, ...]], ...] = (
    (500, (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8)), (160, (1, 2, 5)), (80, (1, 3)), (0, (1,)),
)  # fmt: skip
"""What is marked of each decade that takes more than so many pixels."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A point.

    Attributes:
        value: where it stands.
        tip: its figure in words.
        tone: a class of the page's: `bert`, `albert`, `other`.
        shape: `circle`, `ring` or `diamond`.
        low, high: ends of a whisker, where there is one.
        estimated: drawn hollow and dashed.
    """

    value: float
    tip: str
    tone: str
    shape: str = "circle"
    low: float | None = None
    high: float | None = None
    estimated: bool = False


@dataclass(frozen=True, slots=True)
class DotRow:
    """Marks on one line, and their figures as text at its end."""

    label: str
    marks: tuple[Mark, ...]
    text: str = ""


@dataclass(frozen=True, slots=True)
class BarRow:
    """Parts of one bar, `(size, class, tip)`, the total as text, and where a published figure stands."""

    label: str
    parts: tuple[tuple[float, str, str], ...]
    text: str
    published: float | None = None


@dataclass(frozen=True, slots=True)
class Point:
    """A labelled mark of a scatter; points of one `tone` are joined in their order."""

    x: float
    y: float
    label: str
    tip: str
    tone: str
    estimated: bool = False


@dataclass(frozen=True, slots=True)
class Log:
    """A logarithmic axis from `low` to `high` between two pixels."""

    low: float
    high: float
    start: float
    end: float

    @classmethod
    def over(cls, values: Sequence[float], start: float, end: float, *, least: float = 1.0) -> Log:
        """An axis that holds `values` (above 0) with a little room on both sides, and spans a factor of `least`."""
        room = 1.25 if max(values) > min(values) else 2.0
        low, high = min(values) / room, max(values) * room
        more = math.sqrt(max(1.0, least * low / high))
        return cls(low / more, high * more, start, end)

    def at(self, value: float) -> float:
        """The pixel of a value."""
        share = math.log(value / self.low) / math.log(self.high / self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Round values on it, as many as there is room for: down to 1, 2, 5, to 1 and 3, or to powers of ten alone."""
        decade = abs(self.end - self.start) / math.log10(self.high / self.low)
        steps = next(steps for pixels, steps in STEPS if decade > pixels)
        first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        candidates = (step * 10.0**power for power in range(first, last + 1) for step in steps)
        return [value for value in candidates if self.low <= value <= self.high]


def dots(
    title: str, description: str, rows: Sequence[DotRow], axis: str, *, width: int = 920, label: int = 130,
    text: int = 150, reference: float | None = None, domain: Sequence[float] = (),
) -> str:  # fmt: skip
    """Marks on a logarithmic axis, a row each.

    Args:
        axis: what the axis says.
        label, text: pixels for the rows' names and for their figures.
        reference: a value to draw a line at.
        domain: values that the axis holds too, so that several charts share it.
    """
    values = [v for row in rows for m in row.marks for v in (m.value, m.low or m.value, m.high or m.value)]
    scale = Log.over([*values, *domain, *([reference] if reference else [])], label, width - text)
    bottom = ABOVE + LINE * len(rows)
    parts = [*_axis(scale, axis, bottom)]
    if reference:
        x = f"{scale.at(reference):.1f}"
        parts.append(f'<line class="reference" x1="{x}" x2="{x}" y1="{ABOVE}" y2="{bottom}"/>')
    for i, row in enumerate(rows):
        y = ABOVE + LINE * (i + 0.5)
        parts.append(_label(row.label, label - 14, y, "end"))
        if len(row.marks) > 1:
            ends = [scale.at(mark.value) for mark in row.marks]
            parts.append(f'<line class="join" x1="{min(ends):.1f}" x2="{max(ends):.1f}" y1="{y}" y2="{y}"/>')
        parts += [_mark(mark, scale, y) for mark in row.marks]
        parts.append(_label(row.text, width, y, "end", "figure"))
    return _svg(title, description, width, bottom + BELOW, parts)


def stacks(
    title: str, description: str, rows: Sequence[BarRow], axis: str, *, width: int = 920, label: int = 130
) -> str:
    """Bars of several parts on an axis from zero; a tick marks the published total."""
    text = 60
    longest = max(max(sum(part[0] for part in row.parts), row.published or 0) for row in rows)
    step = 10 ** math.floor(math.log10(longest)) / 2
    while longest / step > 7:
        step *= 2
    right, bottom = width - text, ABOVE + LINE * len(rows)
    unit = (right - label) / longest
    parts = []
    for i in range(int(longest / step) + 1):
        x = label + i * step * unit
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{ABOVE}" y2="{bottom}"/>')
        parts.append(_label(number(i * step), x, bottom + 14, "middle", "tick"))
    parts.append(_label(axis, label, bottom + 34, "start", "tick"))
    for i, row in enumerate(rows):
        y, x = ABOVE + LINE * (i + 0.5), float(label)
        parts.append(_label(row.label, label - 14, y, "end"))
        for size, tone, tip in row.parts:
            parts.append(
                f'<rect class="{tone}" x="{x:.1f}" y="{y - 10}" width="{max(size * unit, 0.5):.1f}" height="20">'
                f"<title>{escape(tip)}</title></rect>"
            )
            x += size * unit
        if row.published:
            at = label + row.published * unit
            parts.append(
                f'<line class="published" x1="{at:.1f}" x2="{at:.1f}" y1="{y - 14}" y2="{y + 14}">'
                f"<title>{escape(f'{row.label}: the paper says {number(row.published)} M')}</title></line>"
            )
            x = max(x, at)
        parts.append(_label(row.text, x + 8, y, "start", "figure"))
    return _svg(title, description, width, bottom + BELOW, parts)


def scatter(
    title: str,
    description: str,
    points: Sequence[Point],
    x_axis: str,
    y_axis: str,
    *,
    width: int = 920,
    height: int = 420,
) -> str:
    """Labelled points on two logarithmic axes."""
    left, bottom = 64, height - BELOW
    across = Log.over([point.x for point in points], left, width - 110)
    up = Log.over([point.y for point in points], bottom, 34, least=10)  # a small difference must not look like a large
    parts = [*_axis(across, x_axis, bottom, top=34)]
    for tick in up.ticks():
        y = up.at(tick)
        parts.append(f'<line class="grid" x1="{left}" x2="{width - 110}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(_label(number(tick), left - 8, y, "end", "tick"))
    parts.append(_label(y_axis, left, 14, "start", "tick"))
    for tone in dict.fromkeys(point.tone for point in points):
        path = " ".join(f"{across.at(p.x):.1f},{up.at(p.y):.1f}" for p in points if p.tone == tone)
        parts.append(f'<polyline class="path {tone}" points="{path}"/>')
    for point in points:
        x, y = across.at(point.x), up.at(point.y)
        shape = "diamond" if point.tone == "albert" else "circle"
        parts.append(_shape(shape, x, y, 7, point.tone, point.tip, point.estimated))
        parts.append(_label(point.label, x + 13, y, "start", point.tone))
    return _svg(title, description, width, height, parts)


def key(entries: Sequence[tuple[str, str, str]]) -> str:
    """A legend of `(shape, class, words)`; the shape `bar` is a square, `tick` a published figure's line."""
    items = []
    for shape, tone, words in entries:
        if shape == "bar":
            mark = f'<rect class="{tone}" x="1" y="3" width="12" height="12"/>'
        elif shape == "tick":
            mark = '<line class="published" x1="7" x2="7" y1="1" y2="17"/>'
        else:
            mark = _shape(shape, 7, 9, 5, tone)
        items.append(f'<li><svg width="14" height="18" aria-hidden="true">{mark}</svg>{escape(words)}</li>')
    return f'<ul class="key">{"".join(items)}</ul>'


def _axis(scale: Log, words: str, bottom: float, top: float = ABOVE) -> list[str]:
    parts = []
    for tick in scale.ticks():
        x = scale.at(tick)
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{bottom}"/>')
        parts.append(_label(number(tick), x, bottom + 14, "middle", "tick"))
    return [*parts, _label(words, scale.start, bottom + 34, "start", "tick")]


def _mark(mark: Mark, scale: Log, y: float) -> str:
    whisker = ""
    if mark.low is not None and mark.high is not None and mark.high > mark.low:
        whisker = (
            f'<line class="whisker {mark.tone}" x1="{scale.at(mark.low):.1f}" x2="{scale.at(mark.high):.1f}" '
            f'y1="{y}" y2="{y}"/>'
        )
    return whisker + _shape(mark.shape, scale.at(mark.value), y, 6, mark.tone, mark.tip, mark.estimated)


def _shape(shape: str, x: float, y: float, size: float, tone: str, tip: str = "", estimated: bool = False) -> str:
    classes = " ".join(["mark", tone, *(["hollow"] if shape == "ring" else []), *(["estimated"] if estimated else [])])
    title = f"<title>{escape(tip)}</title>" if tip else ""
    if shape == "diamond":
        r = size * 1.2
        corners = f"{x:.1f},{y - r:.1f} {x + r:.1f},{y:.1f} {x:.1f},{y + r:.1f} {x - r:.1f},{y:.1f}"
        return f'<polygon class="{classes}" points="{corners}">{title}</polygon>'
    return f'<circle class="{classes}" cx="{x:.1f}" cy="{y:.1f}" r="{size}">{title}</circle>'


def _label(words: str, x: float, y: float, anchor: str, tone: str = "") -> str:
    kind = f' class="{tone}"' if tone else ""
    return (
        f'<text{kind} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" dominant-baseline="central">{escape(words)}</text>'
    )


def _svg(title: str, description: str, width: int, height: float, parts: Sequence[str]) -> str:
    return (
        f'<svg role="img" viewBox="0 0 {width} {height:g}" style="max-width:{width}px">'
        f"<title>{escape(title)}</title><desc>{escape(description)}</desc>{''.join(parts)}</svg>"
    )
