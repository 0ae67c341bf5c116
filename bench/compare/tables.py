"""A comparison as tables: one description each, for the terminal, Markdown files and the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bench.compare.budget import BYTES
from bench.compare.parameters import GridCell
from bench.compare.results import Comparison, Row
from bench.report.figure import Figure
from bench.report.table import Table, number


def of(comparison: Comparison) -> list[Table]:
    """Make every table that there are figures for."""
    tables = [counted(comparison.rows), grid(comparison.grid), operations(comparison)]
    rows = comparison.rows
    measured = (
        (files, any(row.sizes for row in rows)),
        (weights, any(row.sizes for row in rows)),
        (memory, any(row.memory or row.training_memory for row in rows)),
        (speed, any(row.latency for row in rows)),
        (gains, any(row.gain(row.latency, t) for row in rows for t in row.flops)),
        (training, any(row.training for row in rows)),
    )
    return [*tables, *(make(comparison) for make, has in measured if has)]


def counted(rows: Sequence[Row]) -> Table:
    """Show where the parameters are."""
    lines = []
    for row in rows:
        p = row.parameters
        shape = f"{row.shape['layers']} × {row.shape['hidden']}, E {row.shape['embedding']}"
        lines.append((
            row.name, shape, _millions(p.embeddings), _millions(p.layer), str(p.stored), _millions(p.layers),
            _millions(p.pooler), _millions(p.total), f"{row.published / 1e6:.0f}" if row.published else "",
        ))  # fmt: skip
    columns = (
        "M parameters",
        "layers × hidden",
        "embeddings",
        "a layer",
        "stored",
        "all layers",
        "pooler",
        "total",
        "paper",
    )
    return Table("parameters", "Parameters, in millions", columns, tuple(lines))


def grid(cells: Sequence[GridCell]) -> Table:
    """Show factorisation and sharing, each alone."""
    lines = []
    for cell in cells:
        p = cell.parameters
        lines.append((
            cell.name, _millions(p.embeddings), _millions(p.layers), _millions(p.total), f"{cell.published / 1e6:.0f}",
        ))  # fmt: skip
    columns = ("ALBERT-base, M parameters", "embeddings", "all layers", "total", "paper, table 3")
    return Table("grid", "Factorisation and sharing, each alone, in millions", columns, tuple(lines))


def operations(comparison: Comparison) -> Table:
    """Show the operations of a row."""
    lengths = tuple(comparison.rows[0].flops)
    columns = ("GFLOPs a row", *(f"{tokens} tokens" for tokens in lengths), "×")
    lines = []
    for row in comparison.rows:
        base = comparison.row(row.reference)
        lines.append((
            row.name, *(f"{row.flops[t] / 1e9:.1f}" for t in lengths),
            _against(f"{row.flops[lengths[-1]] / base.flops[lengths[-1]]:.2f}", row),
        ))  # fmt: skip
    return Table("flops", "Operations of a row, in GFLOPs", columns, tuple(lines))


def files(comparison: Comparison) -> Table:
    """Show the bytes on disk."""
    kinds = tuple(comparison.rows[0].sizes)
    columns = ("MB", *("checkpoint, fp32" if k == "checkpoint" else f"graph, {k}" for k in kinds), "× (checkpoint)")
    lines = []
    for row in comparison.rows:
        base = comparison.row(row.reference)
        ratio = f"{row.sizes['checkpoint'].over(base.sizes['checkpoint']):.3f}"
        lines.append((row.name, *(_shown(row.sizes[k], 1e-6) for k in kinds), _against(ratio, row)))
    return Table("files", "Files, in MB", columns, tuple(lines), _estimates(lines))


def weights(comparison: Comparison) -> Table:
    """Show bytes on disk and in memory over those of the unique weights: above 1 is what sharing lost, or never had."""
    rows = comparison.rows
    files = [p for p in BYTES if any(p in row.sizes for row in rows)]
    grown = [p for p in BYTES if any(p in row.growth for row in rows)]
    columns = ("× unique weights", *(f"graph, {p}" for p in files), *(f"RSS growth, {p}" for p in grown))
    lines = [
        (
            row.name,
            *(_over_weights(row, row.sizes, p) for p in files),
            *(_over_weights(row, row.growth, p) for p in grown),
        )
        for row in rows
    ]
    note = "Growth: by opening the graph and calls with rows of up to the shortest length that is timed."
    return Table("weights", "Over the bytes of the unique weights", columns, tuple(lines), note if grown else "")


def gains(comparison: Comparison) -> Table:
    """Show what int8 gains over fp32."""
    lines = []
    for row in comparison.rows:
        for tokens in comparison.rows[0].flops:
            time, rate = (row.gain(figures, tokens) for figures in (row.latency, row.throughput))
            if time and rate:
                lines.append((row.name, str(tokens), f"{time:.2f}", f"{rate:.2f}"))
    columns = ("int8 over fp32", "tokens", "ms for a row alone", "rows/s")
    return Table("int8", "int8 over fp32", columns, tuple(lines), _stamp(comparison))


def memory(comparison: Comparison) -> Table:
    """Show the bytes in memory, served and in training."""
    precisions = tuple(dict.fromkeys(p for row in comparison.rows for p in row.memory))
    trained = any(row.training_memory for row in comparison.rows)
    columns = ["MB resident"]
    for precision in precisions:
        columns += [f"served, {precision}", "×"]
    if trained:
        columns += ["training, at most", "×"]
    lines = []
    for row in comparison.rows:
        base = comparison.row(row.reference)
        line = [row.name]
        for precision in precisions:
            line += _with_ratio(row, row.memory.get(precision), base.memory.get(precision), 1e-6)
        if trained:
            line += _with_ratio(row, row.training_memory, base.training_memory, 1e-6)
        lines.append(tuple(line))
    note = _joined(_estimates(lines), _stamp(comparison))
    return Table("memory", "Memory, in MB", tuple(columns), tuple(lines), note)


def speed(comparison: Comparison) -> Table:
    """Show latency and throughput."""
    columns = ("served", "graph", "tokens", "ms for a row alone", "×", "rows/s", "×")
    lines = []
    for precision in dict.fromkeys(p for row in comparison.rows for p in row.latency):
        for tokens in comparison.rows[0].flops:
            for row in comparison.rows:
                base = comparison.row(row.reference)
                mine, theirs = (each.latency.get(precision, {}).get(tokens) for each in (row, base))
                rows, their_rows = (each.throughput.get(precision, {}).get(tokens) for each in (row, base))
                lines.append((
                    row.name, precision, str(tokens), *_with_ratio(row, mine, theirs, 1e3),
                    *_with_ratio(row, rows, their_rows, 1),
                ))  # fmt: skip
    return Table("speed", "Speed when served", columns, tuple(lines), _joined(_estimates(lines), _stamp(comparison)))


def training(comparison: Comparison) -> Table:
    """Show tokens a second of training."""
    lines = []
    for row in comparison.rows:
        base = comparison.row(row.reference)
        lines.append((row.name, *_with_ratio(row, row.training, base.training, 1)))
    settings = comparison.settings
    batch = f"{_plural(settings['training_rows'], 'row')} of {settings['training_tokens']} tokens"
    title = f"A training step in fp32, {batch}"
    note = _joined(_estimates(lines), _stamp(comparison))
    return Table("training", title, ("training", "tokens/s", "×"), tuple(lines), note)


def _over_weights(row: Row, figures: Mapping[str, Figure], precision: str) -> str:
    figure = figures.get(precision)
    return "" if figure is None else ("≈ " if figure.estimated else "") + f"{row.over_weights(figure, precision):.3f}"


def _with_ratio(row: Row, figure: Figure | None, base: Figure | None, scale: float) -> tuple[str, str]:
    if figure is None:
        return "", ""
    return _shown(figure, scale), _against(f"{figure.over(base):.2f}", row) if base else ""


def _against(ratio: str, row: Row) -> str:
    return "1" if row.name == row.reference else f"{ratio} {row.reference}"


def _shown(figure: Figure, scale: float) -> str:
    return ("≈ " if figure.estimated else "") + number(figure.median * scale)


def _millions(count: int) -> str:
    return f"{count / 1e6:.1f}"


def _estimates(lines: Sequence[tuple[str, ...]]) -> str:
    return "≈ is worked out, not run." if any("≈" in cell for line in lines for cell in line) else ""


def _stamp(comparison: Comparison) -> str:
    m, s = comparison.machine, comparison.settings
    return (
        f"{comparison.created[:10]}, {m['processor']}, {m['cores']} cores, load {m['load_before']:.1f} before; "
        f"onnxruntime {m['onnxruntime']}, torch {m['torch']}; medians of {_plural(s['rounds'], 'round')}; × is against "
        "the model named."
    )


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _joined(*notes: str) -> str:
    return " ".join(note for note in notes if note)
