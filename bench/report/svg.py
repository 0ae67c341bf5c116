"""A matplotlib figure as SVG text that needs nothing else: a file of its own, or a part of an HTML page.

Owns the looks that all plots share. A unit of the drawing is a pixel. Knows nothing of what is shown.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import matplotlib
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from bench.report.table import number

INK, QUIET, LINE, PAPER = "#20262b", "#5d6469", "#e2ddd2", "#fffefb"
NAMESPACES = 'xmlns="http://www.w3.org/2000/svg" font-family="system-ui, sans-serif"'
STEPS: tuple[tuple[float, tuple[float, ...]], ...] = (
    (2, (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8)), (10, (1, 1.5, 2, 3, 5, 7)), (100, (1, 2, 5)), (1000, (1, 3)),
)  # fmt: skip
"""What is marked of each decade of an axis that spans no more than such a factor; of longer ones the powers of ten."""

matplotlib.rcParams.update({
    "svg.fonttype": "none", "svg.hashsalt": "bertie", "font.size": 13, "text.color": INK, "axes.labelcolor": QUIET,
    "axes.edgecolor": LINE, "axes.grid": True, "axes.axisbelow": True, "axes.spines.top": False,
    "axes.spines.right": False, "grid.color": LINE, "xtick.color": QUIET, "ytick.color": QUIET,
    "xtick.labelcolor": QUIET, "ytick.labelcolor": QUIET, "xtick.major.size": 0, "ytick.major.size": 0,
    "axes.titlesize": 14, "axes.titlelocation": "left", "legend.frameon": False, "figure.facecolor": "none",
    "axes.facecolor": "none",
})  # fmt: skip


def figure(width: float, height: float) -> Figure:
    """Make an empty figure of so many pixels."""
    return Figure(figsize=(width / 72, height / 72), layout="constrained")


def text(drawn: Figure, title: str, description: str, *, colours: Mapping[str, str] | None = None) -> str:
    """Get a figure's SVG, with words for those who do not see it.

    Args:
        colours: what to write in the place of a colour, such as a variable of the page's; then it is a part of a page.
            A file of its own if left out, on white.
    """
    buffer = io.StringIO()
    drawn.savefig(buffer, format="svg", metadata={"Date": None})
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->|<clipPath.*?</clipPath>", "", buffer.getvalue(), flags=re.DOTALL)
    svg = re.sub(r' clip-path="[^"]*"', "", svg).replace("xlink:href", "href").replace("'DejaVu Sans'", "system-ui")
    svg = re.sub(r'<g id="[^"]*">', "<g>", svg)
    box = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)
    assert box
    inside = svg[svg.index(">", box.end()) + 1 :]
    for colour, name in (colours or {}).items():
        inside = inside.replace(colour, name)
    alone = f" {NAMESPACES}" if colours is None else f' style="max-width:{float(box[1]):.0f}px"'
    ground = '<rect width="100%" height="100%" fill="#fff"/>' if colours is None else ""
    return (
        f'<svg role="img" {box[0]}{alone}><title>{escape(title)}</title><desc>{escape(description)}</desc>{ground}'
        f"{inside.strip()}\n"
    )


def logarithmic(axis: Axis, values: Sequence[float], *, least: float = 1.0, ticks: Sequence[float] = ()) -> None:
    """Give an axis a logarithmic scale that holds `values` (above 0) with a little room, and spans a factor of `least`.

    Args:
        ticks: what to mark; round numbers if left out.
    """
    room = 1.25 if max(values) > min(values) else 2.0
    low, high = min(values) / room, max(values) * room
    more = max(1.0, least * low / high) ** 0.5
    low, high = low / more, high * more
    name = getattr(axis, "axis_name")  # noqa: B009 - matplotlib's stubs do not know it
    limits: dict[str, Any] = {f"{name}scale": "log", f"{name}lim": (low, high)}
    axis.axes.set(**limits)
    steps = next((steps for factor, steps in STEPS if high / low <= factor), (1.0,))
    if ticks:
        axis.set_ticks(list(ticks))
    else:
        axis.set_major_locator(LogLocator(subs=steps, numticks=99))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
