"""A report as tables, for the terminal and for Markdown."""

from __future__ import annotations

import statistics

from bench import against, flood
from bench.report.claims import of as claims_of
from bench.report.results import Report, Service
from bench.report.table import Table, number

COLUMNS = (
    "", "connections", "rows/s", "p50 ms", "p95 ms", "p99 ms", "CPU ms a row", "peak RSS MB", "PSS MB", "errors",
)  # fmt: skip


def of(report: Report) -> list[Table]:
    """Make every table that there are figures for."""
    works = {work: [s for s in report.services if s.work == work and s.points] for work in ("single", "batched", "qa")}
    found = []
    if services := works["single"] + works["batched"]:
        title = "One sentence a request; bertie-32: 32 sentences a request, latencies of requests"
        found.append(Table("services", title, COLUMNS, _lines(services), _stamp(report)))
    if works["qa"]:
        title = "A question and its paragraph a request; rows are questions"
        found.append(Table("qa", title, COLUMNS, _lines(works["qa"]), _stamp(report)))
    if report.bare:
        found.append(bare(report))
    if report.settings.get("against"):
        found += against.tables(report)
    elif aims := claims_of(report):
        lines = tuple((c.text, c.wanted, c.reached, "yes" if c.met else "no") for c in aims)
        note = "Medians of the rounds' ratios: a round against the same round."
        found.append(Table("claims", "Wanted and reached", ("Bertie's", "wanted", "reached", "met"), lines, note))
    if report.floods:
        found.append(flood.table(report.floods))
    found.append(configurations(report))
    return found


def bare(report: Report) -> Table:
    """Show the bare session under its schedules."""
    lines = []
    for in_flight in dict.fromkeys(r.in_flight for r in report.bare):
        best = report.best_schedule(in_flight)
        for schedule in dict.fromkeys(r.schedule for r in report.bare if r.in_flight == in_flight):
            figures = {
                name: report.bare_figure(in_flight, schedule, name).median
                for name in ("rows_per_second", "cpu_seconds", "p50", "p99")
            }
            lines.append((
                schedule + (" (best)" if schedule == best else ""), str(in_flight), number(figures["rows_per_second"]),
                *(_ms(figures[name]) for name in ("p50", "p99", "cpu_seconds")),
            ))  # fmt: skip
    columns = ("", "rows in flight", "rows/s", "p50 ms a call", "p99 ms a call", "CPU ms a row")
    tokenise = statistics.median(report.tokenise_seconds) if report.tokenise_seconds else 0.0
    note = f"Rows tokenised beforehand; tokenising one takes {_ms(tokenise)} ms (median)."
    return Table("bare", "The bare session, by schedule", columns, tuple(lines), note)


def configurations(report: Report) -> Table:
    """Show who is who, and how each was set up."""
    lines = []
    for service in report.services:
        tried = "; ".join(f"{words}: {number(rate)}" for words, rate in service.tried.items())
        told = service.skipped and f"skipped: {service.skipped[:160]}"
        lines.append((
            service.name, service.title, service.configuration or told, tried, service.agreement,
            told if service.configuration else "",
        ))  # fmt: skip
    columns = ("", "is", "configuration (processes × threads)", "tried, rows/s", "labels as the graph's", "note")
    cells = tuple(tuple(cell.replace("|", "/") for cell in line) for line in lines)
    note = (
        "Every service has the same cores, as many threads in all as there are cores, and the load generator beside it."
        f" Peers run in the best of the configurations tried at {report.settings.get('tune_connections')} connections."
    )
    if report.settings.get("random_weights"):
        note += " torch's weights are random, of the same shape: speed does not depend on them, labels do."
    return Table("configurations", "Services and their configurations", columns, cells, note)


def _lines(services: list[Service]) -> tuple[tuple[str, ...], ...]:
    lines = []
    for service in services:
        for connections, points in service.points.items():
            lines.append((
                service.name, str(connections), _of(service, connections, "rows_per_second"),
                *(_of(service, connections, name, 1e3) for name in ("p50", "p95", "p99", "cpu_seconds")),
                *(_of(service, connections, name, 1e-6) for name in ("peak_rss", "pss")),
                str(sum(point.errors for point in points)),
            ))  # fmt: skip
    return tuple(lines)


def _of(service: Service, connections: int, name: str, scale: float = 1.0) -> str:
    figure = service.figure(connections, name)
    return "" if figure is None else number(figure.median * scale)


def _ms(seconds: float) -> str:
    return number(seconds * 1e3)


def _stamp(report: Report) -> str:
    m, s = report.machine, report.settings
    return (
        f"{report.created[:10]}, {m['processor']}, {s['cores']} cores, load {m['load_before']:.1f} before; "
        f"{s['client']}, {s['seconds']:g} s a point after {s['warm_up']:g} s; medians of {s['rounds']} rounds, errors "
        f"of all; {s['rows']} sentences, {s['words']:.0f} words on average; onnxruntime {m['onnxruntime']}"
        + "".join(f", {name} {m[name]}" for name in ("torch", "litserve", "mosec", "bentoml") if m.get(name))
        + ". RSS is summed over processes; PSS counts shared pages once."
    )
