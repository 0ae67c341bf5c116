"""The page: whole, alone, and true to the figures."""

import dataclasses
import re
from html.parser import HTMLParser

import pytest

from bench.compare import page
from bench.compare.results import Comparison
from bench.report.figure import Figure

VOID = {"meta", "br", "link", "img"}


class Outline(HTMLParser):
    """Checks that elements nest, and keeps what is read aloud."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def outline(html: str) -> Outline:
    parser = Outline()
    parser.feed(html)
    assert parser.open == []
    return parser


def test_needs_nothing_from_elsewhere(tiny_comparison: Comparison) -> None:
    html = page.render(tiny_comparison)
    assert not re.search(r"https?:|@import|url\(|<script|<link|src=", html)
    assert "prefers-color-scheme: dark" in html


def test_every_chart_has_a_name_and_every_table_heads(tiny_comparison: Comparison) -> None:
    parser = outline(page.render(tiny_comparison))
    images = [attributes for tag, attributes in parser.tags if tag == "svg"]
    # ratios, scatter, parameters, grid, files, speed, training
    assert len(images) == 7
    assert all(attributes.get("role") == "img" for attributes in images)
    # panels: 2 of files; 3 lengths of speed, each with latency and throughput
    assert parser.words.count("MB") == 3  # of each panel, and the head of a table
    assert parser.words.count("rows a second, all cores busy") == 3
    assert all(parser.words.count(f"{tokens} tokens") >= 2 for tokens in (8, 16, 32))
    assert sum(tag == "table" for tag, _ in parser.tags) == 7
    assert all(attributes.get("scope") for tag, attributes in parser.tags if tag == "th")
    headings = [tag for tag, _ in parser.tags if re.fullmatch("h[1-6]", tag)]
    assert headings[0] == "h1"
    assert headings.count("h1") == 1


def test_figures_are_the_comparison_s(tiny_comparison: Comparison) -> None:
    bert, albert, _ = tiny_comparison.rows
    words = " ".join(outline(page.render(tiny_comparison)).words)
    fewer = bert.parameters.total / albert.parameters.total
    assert f"fewer parameters in albert-base than in bert-base {fewer:.1f}×" in words
    assert f"{albert.latency['fp32'][16].over(bert.latency['fp32'][16]):.2f}×" in words
    assert tiny_comparison.machine["processor"] in words


def test_estimates_and_what_was_left_out_are_shown(tiny_comparison: Comparison) -> None:
    slow = Figure((99.0,), estimated=True)
    row = dataclasses.replace(tiny_comparison.rows[1], latency={"int8": {8: slow, 16: slow}})
    changed = dataclasses.replace(
        tiny_comparison, rows=(tiny_comparison.rows[0], row), left_out=("albert-base <int8>: about 99 s",)
    )
    html = page.render(changed)
    assert "albert-base &lt;int8&gt;: about 99 s" in html
    assert "What did not fit" in html
    assert "estimated (hollow)" in html
    assert re.search(r"<use[^>]*fill: var\(--card\); stroke: var\(--albert\)", html)
    outline(html)


@pytest.mark.parametrize("kept", [(0, 1), (1,)])
def test_without_measurements_or_pairs_it_is_still_a_page(tiny_comparison: Comparison, kept: tuple[int, ...]) -> None:
    rows = tuple(
        dataclasses.replace(
            tiny_comparison.rows[i], reference=tiny_comparison.rows[kept[0]].name, sizes={}, memory={}, latency={},
            throughput={}, training=None, training_memory=None,
        )
        for i in kept
    )  # fmt: skip
    html = page.render(dataclasses.replace(tiny_comparison, rows=rows))
    outline(html)
    assert "Where the parameters are" in html
    assert ("What sharing changes" in html) == (len(kept) == 2)
    assert "Speed when served" not in html
