"""SVG text of figures: alone or in a page, with axes that hold and mark their values."""

from xml.etree import ElementTree

import pytest

from bench.report import svg


@pytest.mark.parametrize("values", [[5.0], [3.0, 3.0], [0.001, 4000.0]])
def test_an_axis_holds_its_values(values: list[float]) -> None:
    axes = svg.figure(400, 300).subplots()
    svg.logarithmic(axes.xaxis, values)
    low, high = axes.get_xlim()
    assert axes.get_xscale() == "log"
    assert 0 < low < min(values) <= max(values) < high


@pytest.mark.parametrize("low", [1.0, 1.3, 47.0, 590.0, 8200.0])
def test_a_narrow_axis_is_marked_too(low: float) -> None:
    axes = svg.figure(400, 300).subplots()
    svg.logarithmic(axes.yaxis, [low, low * 1.05])
    bottom, top = axes.get_ylim()
    assert len([tick for tick in axes.get_yticks() if bottom <= tick <= top]) >= 2


def test_an_axis_spans_at_least_what_is_asked_for() -> None:
    axes = svg.figure(400, 300).subplots()
    svg.logarithmic(axes.yaxis, [590.0, 640.0], least=10)
    low, high = axes.get_ylim()
    assert high / low == pytest.approx(10)
    svg.logarithmic(axes.yaxis, [1.0, 900.0], least=10)
    assert axes.get_ylim() == (0.8, 1125.0)


def test_alone_and_in_a_page() -> None:
    figure = svg.figure(400, 300)
    figure.subplots().plot([1, 2], [3, 4], color=svg.INK, label="line")
    alone, part = svg.text(figure, "A <b>", "words"), svg.text(figure, "A <b>", "words", colours={svg.INK: "var(--x)"})
    assert alone.startswith('<svg role="img" viewBox="0 0 400 300" xmlns="http://www.w3.org/2000/svg"')
    assert ElementTree.fromstring(part).findtext("title") == "A <b>"
    assert "http" not in part
    assert svg.INK not in part
    assert "var(--x)" in part
    assert alone.count("<path") == part.count("<path")
