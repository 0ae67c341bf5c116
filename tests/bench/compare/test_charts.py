"""What charts show: every label, figure and mark, and colours that follow the page's scheme."""

import re
from xml.etree import ElementTree

from bench.compare import charts
from bench.compare.charts import BarRow, DotRow, Mark, Panel, Point
from bench.report import svg


def read(text: str) -> tuple[ElementTree.Element, list[str]]:
    """The SVG, and the words that it shows."""
    root = ElementTree.fromstring(text)
    return root, [element.text or "" for element in root.iter("text")]


def filled(text: str, tone: str) -> int:
    """How many marks or bars are filled with a tone."""
    return len(re.findall(rf"<(?:use|path)[^>]*fill: var\(--{tone}\)", text))


def test_bars_show_their_parts_totals_and_the_published_figure() -> None:
    rows = [
        BarRow("a & b", ((30.0, "embeddings"), (70.0, "layers")), "100", published=50.0),
        BarRow("c", ((25.0, "layers"),), "25"),
    ]
    text = charts.stacks("T", rows, "million", key=[("bar", "layers", "the layers")])
    _, words = read(text)
    assert {"a & b", "c", "100", "25", "million", "the layers"} <= set(words)
    assert filled(text, "embeddings") == 1
    bars = [
        float(x[1]) - float(x[0])
        for x in re.findall(r'd="M ([\d.]+) [\d.]+ \s*L ([\d.]+)[^"]*"\s+style="fill: var\(--layers\)', text)
    ]
    assert len(bars) == 2
    assert round(bars[0] / bars[1], 1) == round(70 / 25, 1)


def test_panels_of_the_same_quantity_share_their_axis() -> None:
    def panel(value: float) -> Panel:
        return Panel(
            f"at {value:g}", (DotRow("a", (Mark(value, "bert", low=value / 2, high=value * 2),), f"{value:g}"),), "ms"
        )

    text = charts.dots("T", [[panel(value) for value in (4.0, 40.0, 400.0)]])
    root, words = read(text)
    assert words.count("a") == 1, "rows are named once"
    assert words.count("ms") == 3
    assert {"at 4", "at 40", "at 400"} <= set(words)
    for tick in ("10", "100", "1,000"):
        assert words.count(tick) == 3, tick
    assert root.findtext("desc") == "at 4 a: 4; at 40 a: 40; at 400 a: 400"


def test_estimates_and_rings_are_hollow() -> None:
    marks = (Mark(1, "bert"), Mark(2, "bert", estimated=True), Mark(3, "albert", "ring"))
    text = charts.dots("T", [[Panel("", (DotRow("a", marks, "1"),), "ms")]])
    assert filled(text, "bert") == filled(charts.dots("T", [[Panel("", (DotRow("a", marks[:1]),), "ms")]]), "bert")
    assert len(re.findall(r"<use[^>]*fill: var\(--card\); stroke: var\(--(?:bert|albert)\)", text)) == 2


def test_every_chart_has_a_name_and_a_description() -> None:
    points = [Point(1, 1, "a", "bert"), Point(9, 4, "b", "albert", estimated=True)]
    root, words = read(charts.scatter("T <1>", points, "x & x", "y"))
    assert (root.findtext("title"), root.attrib["role"]) == ("T <1>", "img")
    assert root.findtext("desc") == "a: 1 x & x, 1 y; b: 9 x & x, 4 y, estimated"
    assert {"a", "b", "x & x", "y"} <= set(words)


def test_a_small_difference_looks_small_in_a_scatter() -> None:
    """590 and 640 stand on an axis that spans a decade."""
    points = [Point(1, 590, "a", "bert"), Point(9, 640, "b", "albert")]
    _, words = read(charts.scatter("T", points, "x", "y"))
    ticks = {float(word.replace(",", "")) for word in words if re.fullmatch(r"[\d.,]+", word)}
    assert {200, 500, 1000} <= ticks


def test_colours_are_the_pages() -> None:
    text = charts.scatter("T", [Point(1, 1, "a", "bert")], "x", "y")
    assert not set(re.findall(r"#[0-9a-f]{6}\b", text)) & set(charts.VARIABLES)
    assert svg.INK in charts.VARIABLES
