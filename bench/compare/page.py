"""A comparison as one HTML page that needs nothing else: no script, no font, no network.

Owns the page's words and which chart shows what. Charts are drawn by `charts`, tables come from `tables`, what is held
against what from `ratios`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files

from bench.compare import charts, ratios, tables
from bench.compare.charts import BarRow, DotRow, Mark, Panel, Point
from bench.compare.parameters import Parameters
from bench.compare.ratios import Pair, Quantity, middle
from bench.compare.results import Comparison, Row
from bench.report.figure import Figure
from bench.report.table import Table, number

SHAPES = {"fp32": "circle", "int8": "diamond"}
FAMILIES = [("circle", "bert", "BERT"), ("circle", "albert", "ALBERT")]
PAIR_SHAPES = ("circle", "diamond")


def render(comparison: Comparison) -> str:
    """Write the page's HTML."""
    by_key = {table.key: table for table in tables.of(comparison)}
    pairs = ratios.pairs(comparison)
    quantities = ratios.quantities(pairs) if pairs else []
    sections = [
        _ratios(pairs, quantities),
        _sizes_against_speed(comparison),
        _parameters(comparison, by_key),
        _grid(comparison, by_key),
        _memory(comparison, by_key),
        _speed(comparison, by_key),
        _training(comparison, by_key),
        _operations(by_key),
        _left_out(comparison),
    ]
    style = files("bench.compare").joinpath("page.css").read_text(encoding="utf-8")
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>ALBERT against BERT, measured</title>
<style>
{style}</style>
</head>
<body>
<header>
<h1>Sharing saves memory, not time</h1>
<p class="lead">ALBERT runs one layer’s weights over and over where BERT has a set for every layer. What is stored
shrinks; what is computed does not. Here both are built to the papers’ shapes and put side by side.</p>
</header>
<main>
{_facts(pairs, quantities)}
{"".join(section for section in sections if section)}
</main>
{_footer(comparison)}
</body>
</html>
"""


def _facts(pairs: Sequence[Pair], quantities: Sequence[Quantity]) -> str:
    """The first pair in a few numbers."""
    if not pairs:
        return ""
    albert, bert = pairs[0]
    fewer = bert.parameters.total / albert.parameters.total
    facts = [(f"{fewer:.1f}×", f"fewer parameters in {albert.name} than in {bert.name}")]
    for quantity in quantities:
        if quantity.fact and (ratio := quantity.ratios[0]):
            facts.append((f"{'≈ ' if ratio.estimated else ''}{ratio.value:.2f}×", quantity.fact))
    cells = "".join(f"<div><dt>{escape(words)}</dt><dd>{escape(value)}</dd></div>" for value, words in facts)
    return f'<dl class="facts">{cells}</dl>'


def _ratios(pairs: Sequence[Pair], quantities: Sequence[Quantity]) -> str:
    """What sharing changes and what it does not: ALBERT over BERT of the same shape, a row a quantity."""
    if not pairs:
        return ""
    rows = []
    for quantity in quantities:
        marks = tuple(
            Mark(ratio.value, "albert", shape, estimated=ratio.estimated)
            for shape, ratio in zip(PAIR_SHAPES, quantity.ratios, strict=False)
            if ratio
        )
        rows.append(DotRow(quantity.name, marks, " · ".join(f"{mark.value:.2f}" for mark in marks)))
    panel = Panel("", tuple(rows), "times BERT of the same shape (1 is the same)")
    names = [(shape, "albert", f"{a.name} ÷ {b.name}") for (a, b), shape in zip(pairs, PAIR_SHAPES, strict=False)]
    return _section(
        "What sharing changes, and what it does not",
        "Left of the dashed line ALBERT is cheaper. What is stored moves far to the left; what is computed stays.",
        _figure(charts.dots("ALBERT over BERT of the same shape", [[panel]], key=names, reference=1.0)),
    )


def _sizes_against_speed(comparison: Comparison) -> str:
    """Size on disk against the time of a row; against its operations where no time was measured."""
    tokens = middle(comparison.rows[0].flops)
    precision = next((p for row in comparison.rows for p in row.latency), "")
    points = []
    for row in comparison.rows:
        size = row.sizes["checkpoint"].median / 1e6 if row.sizes else 4 * row.parameters.total / 1e6
        timed = row.latency.get(precision, {}).get(tokens)
        if precision and timed is None:
            continue
        y = timed.median * 1e3 if timed else row.flops[tokens] / 1e9
        points.append(Point(size, y, row.name, _tone(row), bool(timed and timed.estimated)))
    y_axis = f"ms for a row of {tokens} tokens, {precision}" if precision else f"GFLOPs for a row of {tokens} tokens"
    chart = charts.scatter("Size against speed", points, "MB of weights in fp32", y_axis)
    return _section(
        "Small on disk is not quick",
        "To the left is small, down is quick. Models of a family are joined in the order of their sizes."
        + (" Hollow points are estimates." if any(point.estimated for point in points) else ""),
        _figure(chart),
    )  # fmt: skip


def _parameters(comparison: Comparison, by_key: Mapping[str, Table]) -> str:
    rows = [_bar(row.name, row.parameters, row.published) for row in comparison.rows]
    chart = charts.stacks("Where the parameters are", rows, "million parameters", key=_parts_key("the paper’s figure"))
    return _section(
        "Where the parameters are",
        "Counted from the real modules, head excluded. Shared layers count once.",
        _figure(chart), _table(by_key["parameters"]),
    )  # fmt: skip


def _grid(comparison: Comparison, by_key: Mapping[str, Table]) -> str:
    rows = [_bar(cell.name, cell.parameters, cell.published) for cell in comparison.grid]
    title = "Factorisation and sharing, each alone"
    chart = charts.stacks(title, rows, "million parameters", key=_parts_key("the paper’s table 3"))
    return _section(
        title,
        "ALBERT-base with one thing changed at a time. A smaller embedding E shortens the first part; sharing layers "
        "takes away most of the second. Neither changes how many layers a row passes through.",
        _figure(chart), _table(by_key["grid"]),
    )  # fmt: skip


def _bar(name: str, p: Parameters, published: int | None) -> BarRow:
    parts = ((p.embeddings / 1e6, "embeddings"), (p.layers / 1e6, "layers"), (p.pooler / 1e6, "pooler"))
    return BarRow(name, parts, f"{p.total / 1e6:.1f}", published / 1e6 if published else None)


def _parts_key(published: str) -> list[tuple[str, str, str]]:
    return [*(("bar", part, part) for part in ("embeddings", "layers", "pooler")), ("tick", "", published)]


def _memory(comparison: Comparison, by_key: Mapping[str, Table]) -> str:
    if "files" not in by_key:
        return ""
    panels = []
    for precision in (kind for kind in comparison.rows[0].sizes if kind != "checkpoint"):
        rows = []
        for row in comparison.rows:
            figures = (("ring", row.sizes.get(precision)), ("circle", row.memory.get(precision)))
            marks = tuple(Mark(f.median / 1e6, _tone(row), shape, estimated=f.estimated) for shape, f in figures if f)
            rows.append(DotRow(row.name, marks, _figures(marks)))
        panels.append(Panel(precision, tuple(rows), "MB"))
    key = [("ring", "other", "the graph’s file")]
    if any(row.memory for row in comparison.rows):
        key.append(("circle", "other", "resident in the process that serves it, ready for requests"))
    return _section(
        "Files and memory",
        "Each model alone in a process of its own, through the service’s engine. A file holds shared weights once.",
        _figure(charts.dots("Files and memory", [panels], key=key)),
        *(_table(by_key[key]) for key in ("files", "memory") if key in by_key),
    )


def _speed(comparison: Comparison, by_key: Mapping[str, Table]) -> str:
    if "speed" not in by_key:
        return ""
    quantities = (("latency", "ms for a row alone", 1e3), ("throughput", "rows a second, all cores busy", 1.0))
    panels = []
    for tokens in comparison.rows[0].flops:
        line = []
        for name, axis, scale in quantities:
            rows = []
            for row in comparison.rows:
                marks = tuple(
                    _timed(row, by_length[tokens], scale, SHAPES.get(precision, "ring"))
                    for precision, by_length in getattr(row, name).items()
                    if tokens in by_length
                )
                rows.append(DotRow(row.name, marks, _figures(marks)))
            line.append(Panel(f"{tokens} tokens", tuple(rows), axis))
        if any(row.marks for panel in line for row in panel.rows):
            panels.append(line)
    precisions = dict.fromkeys(p for row in comparison.rows for p in row.latency)
    key = [(SHAPES.get(p, "ring"), "other", p) for p in precisions]
    if any(f.estimated for row in comparison.rows for by_t in row.latency.values() for f in by_t.values()):
        key.append(("ring", "other", "estimated (hollow)"))
    return _section(
        "Speed when served",
        "Left: a row alone, on one worker. Right: every core busy with full batches. Lines span the rounds, marks are "
        "medians; all panels of a column share their axis.",
        _figure(charts.dots("Speed when served", panels, key=[*key, *FAMILIES])), _table(by_key["speed"]),
    )  # fmt: skip


def _training(comparison: Comparison, by_key: Mapping[str, Table]) -> str:
    if "training" not in by_key:
        return ""
    rows = []
    for row in comparison.rows:
        marks = (_timed(row, row.training, 1.0, "circle"),) if row.training else ()
        rows.append(DotRow(row.name, marks, _figures(marks) or "not run"))
    title = by_key["training"].title
    chart = charts.dots(title, [[Panel("", tuple(rows), "tokens a second")]])
    return _section("Training", f"{title}: forward, backward, AdamW.", _figure(chart), _table(by_key["training"]))


def _operations(by_key: Mapping[str, Table]) -> str:
    return _section(
        "Operations of a row",
        "From the shapes: matrix products alone, a multiply-add being two. Sharing does not appear in the formula.",
        f'<div class="scroll">{by_key["flops"].html()}</div>',
    )


def _left_out(comparison: Comparison) -> str:
    if not comparison.left_out:
        return ""
    items = "".join(f"<li>{escape(sentence)}</li>" for sentence in comparison.left_out)
    return _section("What did not fit", "Said with its estimate, and not run.", f'<ul class="small">{items}</ul>')


def _footer(comparison: Comparison) -> str:
    m = comparison.machine
    weights = [f"{row.name} has the weights of {row.checkpoint}" for row in comparison.rows if row.checkpoint]
    busy = m["load_before"] > 0.3
    lines = [
        f"{m['processor']}, {m['cores']} cores, {m['memory_available'] / 1e9:.0f} GB of memory free. onnxruntime "
        f"{m['onnxruntime']}, torch {m['torch']}, transformers {m['transformers']}, Python {m['python']}.",
        f"Load of the machine before the start: {m['load_before']:.2f}"
        + (". It was not quiet: trust ratios more than times." if busy else "."),
        f"Weights are random, which changes no size and no time{'; ' + '; '.join(weights) if weights else ''}.",
        f"Made {comparison.created.replace('T', ' ').replace('+00:00', ' UTC')} by python -m bench.compare.",
    ]
    return f"<footer>{''.join(f'<p>{escape(line)}</p>' for line in lines)}</footer>"


def _section(title: str, words: str, *parts: str) -> str:
    return f"<section><h2>{escape(title)}</h2><p>{escape(words)}</p>{''.join(parts)}</section>\n"


def _figure(chart: str) -> str:
    return f"<figure>{chart}</figure>"


def _table(table: Table) -> str:
    words = f"{escape(table.title)}: the table"
    return f'<details><summary>{words}</summary><div class="scroll">{table.html()}</div></details>'


def _timed(row: Row, figure: Figure, scale: float, shape: str) -> Mark:
    low, high = min(figure.values) * scale, max(figure.values) * scale
    return Mark(figure.median * scale, _tone(row), shape, low, high, figure.estimated)


def _figures(marks: Sequence[Mark]) -> str:
    return " · ".join(("≈ " if mark.estimated else "") + number(mark.value) for mark in marks)


def _tone(row: Row) -> str:
    return row.family if row.family in ("bert", "albert") else "other"
