"""Three kinds of charts as SVG: stacked bars, dots on a logarithmic axis, and a scatter with two of those.

Owns how figures are drawn. Marks differ in shape as well as in colour, every chart has a description, and colours are
written as variables of the page's (`page.css`), so that they follow its light or dark scheme.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bench.report import svg

TONES = {
    "bert": "#2f6299", "albert": "#b04a12", "other": "#6d747a", "embeddings": "#d9a441", "layers": "#16766d",
    "pooler": "#8b8578",
}  # fmt: skip
VARIABLES = {colour: f"var(--{name})" for name, colour in TONES.items()} | {
    svg.INK: "var(--ink)", svg.QUIET: "var(--quiet)", svg.LINE: "var(--line)", svg.PAPER: "var(--card)",
}  # fmt: skip
MARKERS = {"circle": "o", "ring": "o", "diamond": "D", "bar": "s", "tick": "|"}
WIDTH = 920
LINE = 34
"""Height of a row, in pixels."""
AROUND = 76
"""Height of what is above and below the rows of a panel."""

Key = Sequence[tuple[str, str, str]]
"""A legend: (shape, tone, words). The shape `bar` is a square, `tick` a published figure's line."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A point.

    Attributes:
        value: where it stands.
        tone: its colour's name: `bert`, `albert`, `other`.
        shape: `circle`, `ring` or `diamond`.
        low, high: ends of a whisker, where there is one.
        estimated: drawn hollow.
    """

    value: float
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
class Panel:
    """Rows on a logarithmic axis; panels whose axes say the same share its range."""

    title: str
    rows: tuple[DotRow, ...]
    axis: str


@dataclass(frozen=True, slots=True)
class BarRow:
    """Parts of one bar, `(size, tone)`, the total as text, and where a published figure stands."""

    label: str
    parts: tuple[tuple[float, str], ...]
    text: str
    published: float | None = None


@dataclass(frozen=True, slots=True)
class Point:
    """A labelled mark of a scatter; points of one `tone` are joined in their order."""

    x: float
    y: float
    label: str
    tone: str
    estimated: bool = False


def dots(title: str, panels: Sequence[Sequence[Panel]], *, key: Key = (), reference: float | None = None) -> str:
    """Draw marks on logarithmic axes.

    Args:
        panels: rows of panels side by side.
        reference: a value to draw a line at.
    """
    height = sum(max(len(panel.rows) for panel in line) * LINE + AROUND for line in panels)
    figure = svg.figure(WIDTH, height)
    axes = figure.subplots(len(panels), len(panels[0]), squeeze=False, sharey=True)
    shown = [panel for line in panels for panel in line]
    for panel, place in zip(shown, axes.flat, strict=True):
        _dots(place, panel, reference)
        marks = [mark for other in shown if other.axis == panel.axis for row in other.rows for mark in row.marks]
        values = [v for m in marks for v in (m.value, m.low or m.value, m.high or m.value)]
        svg.logarithmic(place.xaxis, [*values, *([reference] if reference else [])])
    description = "; ".join(f"{panel.title} {row.label}: {row.text}".strip() for panel in shown for row in panel.rows)
    return _text(figure, title, description, key)


def stacks(title: str, rows: Sequence[BarRow], axis: str, *, key: Key = ()) -> str:
    """Draw bars of several parts on an axis from zero; a tick marks the published total."""
    figure = svg.figure(WIDTH, len(rows) * LINE + AROUND)
    axes = figure.subplots()
    for i, row in enumerate(rows):
        end = 0.0
        for size, tone in row.parts:
            axes.barh(i, size, left=end, height=0.6, color=TONES[tone])
            end += size
        if row.published:
            _mark(axes, row.published, i, "tick", svg.INK, size=26)
        axes.annotate(row.text, (max(end, row.published or 0), i), (8, 0), textcoords="offset points", va="center")
    _rows(axes, [row.label for row in rows], axis)
    axes.margins(x=0.08)
    axes.set_xlim(left=0)
    return _text(figure, title, "; ".join(f"{row.label}: {row.text} million" for row in rows), key)


def scatter(title: str, points: Sequence[Point], x_axis: str, y_axis: str) -> str:
    """Draw labelled points on two logarithmic axes."""
    figure = svg.figure(WIDTH, 420)
    axes = figure.subplots()
    for tone in dict.fromkeys(point.tone for point in points):
        joined = [(p.x, p.y) for p in points if p.tone == tone]
        axes.plot(*zip(*joined, strict=True), linestyle=":", color=TONES[tone], alpha=0.6)
    for point in points:
        shape = "diamond" if point.tone == "albert" else "circle"
        _mark(axes, point.x, point.y, shape, TONES[point.tone], hollow=point.estimated)
        axes.annotate(
            point.label, (point.x, point.y), (13, 0), textcoords="offset points", va="center", color=TONES[point.tone]
        )
    axes.set(xlabel=x_axis, ylabel=y_axis)
    svg.logarithmic(axes.xaxis, [point.x for point in points])
    svg.logarithmic(
        axes.yaxis, [point.y for point in points], least=10
    )  # a small difference must not look like a large
    description = "; ".join(
        f"{p.label}: {p.x:.3g} {x_axis}, {p.y:.3g} {y_axis}{', estimated' if p.estimated else ''}" for p in points
    )
    return _text(figure, title, description)


def _dots(axes: Axes, panel: Panel, reference: float | None) -> None:
    if reference:
        axes.axvline(reference, color=svg.QUIET, linestyle="--", linewidth=1)
    for i, row in enumerate(panel.rows):
        if len(row.marks) > 1:
            ends = [mark.value for mark in row.marks]
            axes.plot([min(ends), max(ends)], [i, i], color=svg.LINE, linewidth=5, solid_capstyle="round")
        for mark in row.marks:
            if mark.low is not None and mark.high is not None:
                axes.plot([mark.low, mark.high], [i, i], color=TONES[mark.tone], linewidth=2, alpha=0.55)
            _mark(axes, mark.value, i, mark.shape, TONES[mark.tone], hollow=mark.estimated or mark.shape == "ring")
        axes.annotate(row.text, (1.02, i), xycoords=axes.get_yaxis_transform(), va="center", annotation_clip=False)
    axes.set_title(panel.title)
    _rows(axes, [row.label for row in panel.rows], panel.axis)


def _rows(axes: Axes, labels: Sequence[str], axis: str) -> None:
    """A line for each row, the first on top."""
    axes.set_yticks(range(len(labels)), labels, color=svg.INK)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel(axis, loc="left")
    axes.spines["left"].set_visible(False)


def _mark(axes: Axes, x: float, y: float, shape: str, colour: str, *, hollow: bool = False, size: float = 11) -> None:
    face = svg.PAPER if hollow else colour
    axes.plot(
        x, y, MARKERS[shape], color=colour, markersize=size * (0.85 if shape == "diamond" else 1), markeredgewidth=2,
        markerfacecolor=face,
    )  # fmt: skip


def _text(figure: Figure, title: str, description: str, key: Key = ()) -> str:
    handles = [
        Line2D(
            [], [], linestyle="", marker=MARKERS[shape], color=TONES.get(tone, svg.INK), label=words, markersize=9,
            markerfacecolor=svg.PAPER if shape == "ring" else None, markeredgewidth=2,
        )
        for shape, tone, words in key
    ]  # fmt: skip
    if handles:
        figure.legend(handles=handles, loc="outside upper left", ncols=len(handles))
    return svg.text(figure, title, description, colours=VARIABLES)
