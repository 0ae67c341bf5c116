"""Marks stand where their figures say, and words are escaped."""

import math
from xml.etree import ElementTree

import pytest

from bench.compare import charts
from bench.compare.charts import BarRow, DotRow, Log, Mark, Point


def test_a_logarithmic_axis() -> None:
    axis = Log(1.0, 100.0, 0.0, 200.0)
    assert [axis.at(value) for value in (1, 10, 100)] == [0.0, 100.0, 200.0]
    assert axis.ticks() == [1, 3, 10, 30, 100]  # 100 pixels a decade
    assert Log(1.0, 100.0, 400.0, 0.0).ticks() == [1, 2, 5, 10, 20, 50, 100]
    assert Log(1.0, 1000.0, 0.0, 200.0).ticks() == [1, 10, 100, 1000]
    upwards = Log(1.0, 100.0, 300.0, 100.0)
    assert upwards.at(10) == 200.0


@pytest.mark.parametrize("values", [[5.0], [3.0, 3.0], [0.001, 4000.0]])
def test_an_axis_holds_its_values(values: list[float]) -> None:
    axis = Log.over(values, 0.0, 100.0)
    assert all(0 < axis.at(value) < 100 and math.isfinite(axis.at(value)) for value in values)


@pytest.mark.parametrize("low", [1.0, 1.3, 47.0, 590.0, 8200.0])
def test_a_narrow_axis_is_marked_too(low: float) -> None:
    assert len(Log.over([low, low * 1.05], 0.0, 700.0).ticks()) >= 2


def test_a_small_difference_looks_small_where_it_is_asked_for() -> None:
    axis = Log.over([590.0, 640.0], 300.0, 0.0, least=10)
    assert axis.high / axis.low == pytest.approx(10)
    assert axis.at(590) - axis.at(640) < 12
    wide = Log.over([1.0, 900.0], 0.0, 300.0, least=10)
    assert (wide.low, wide.high) == (0.8, 1125.0)


def test_bars_are_as_long_as_their_figures() -> None:
    rows = [
        BarRow("a & b", ((30.0, "embeddings", "a <tip>"), (70.0, "layers", "t")), "100", published=50.0),
        BarRow("c", ((25.0, "layers", "t"),), "25"),
    ]
    svg = ElementTree.fromstring(charts.stacks("T", "D", rows, "x"))
    first, second, third = svg.findall("rect")
    widths = [float(bar.attrib["width"]) for bar in (first, second, third)]
    assert widths[1] / widths[0] == pytest.approx(7 / 3, rel=0.01)
    assert widths[1] / widths[2] == pytest.approx(70 / 25, rel=0.01)
    assert float(second.attrib["x"]) == pytest.approx(float(first.attrib["x"]) + widths[0], abs=0.2)
    tick = next(line for line in svg.findall("line") if line.attrib["class"] == "published")
    assert float(tick.attrib["x1"]) == pytest.approx(float(first.attrib["x"]) + (widths[0] + widths[1]) / 2, abs=0.3)
    assert first.findtext("title") == "a <tip>"


def test_dots_stand_on_a_shared_axis() -> None:
    def chart(value: float) -> float:
        rows = [DotRow("a", (Mark(value, "tip", "bert", low=value / 2, high=value * 2),), "1")]
        svg = ElementTree.fromstring(charts.dots("T", "D", rows, "ms", domain=(1.0, 1000.0)))
        assert svg.find("line[@class='whisker bert']") is not None
        return float(svg.find("circle").attrib["cx"])  # type: ignore[union-attr]

    places = [chart(value) for value in (4.0, 40.0, 400.0)]
    assert places[1] - places[0] == pytest.approx(places[2] - places[1], abs=0.2)


def test_every_chart_has_a_name_and_a_description() -> None:
    points = [Point(1, 1, "a", "tip a", "bert"), Point(9, 4, "b", "tip b", "albert", estimated=True)]
    svg = ElementTree.fromstring(charts.scatter("T <1>", "D & d", points, "x", "y"))
    assert (svg.findtext("title"), svg.findtext("desc"), svg.attrib["role"]) == ("T <1>", "D & d", "img")
    assert "estimated" in svg.find("polygon").attrib["class"]  # type: ignore[union-attr]
