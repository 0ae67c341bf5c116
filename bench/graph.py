"""The graphs alone, without a service: is int8 quick and batch invariant, and does ALBERT keep its sharing?

    python -m bench.graph                                  # all three parts
    python -m bench.graph --part speed --checkpoint FOLDER    # a classifier's own weights
    python -m bench.graph --part rows --bundle models/qa
    python -m bench.graph --part shapes --shapes albert-base,albert-xxlarge --stock albert-base

*Speed*: a checkpoint (without one, random weights in the shape of the first bundle) is exported to fp32 and int8, and
each is called bare on `bench/sentences.txt`, 32 rows in flight, under several schedules. The best schedule of each
counts; rounds alternate.

*Rows*: the largest difference of a logit between a row alone and the same row in 8 random batches of mixed lengths, on
the file that a bundle serves on a CPU.

*Shapes*: published shapes with random weights: files and memory over the unique weights' bytes, fused attention, and
int8 against fp32 on 8 rows of 128 tokens in one call on all cores; ONNX Runtime's own tools beside it.

Everything is measured in processes of its own. Wants a quiet machine. Ends with one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
from transformers import PreTrainedConfig

from bench import child, command, rows
from bench.command import words
from bench.compare import budget, parameters, subjects, weights
from bench.compare.subjects import Subject
from bench.graphs import checkpoint, invariance
from bench.report.figure import Figure
from bench.report.results import plain
from bench.report.table import Table, number
from service.engine.processor import cpu_quota
from training.export import graph
from training.export import runner as export

PARTS = ("speed", "rows", "shapes")
IN_FLIGHT = 32
SHAPE = (8, 128)
"""Rows and tokens of the call that shapes are timed with."""
PRECISIONS = ("fp32", "fp16", "int8")
TIMED = ("fp32", "int8")
"""fp16 is for GPUs: a CPU has no kernels for it."""
WANTED = {"speed": 2.2, "difference": 1e-4, "file": 1.05, "growth": 1.5, "gain": 2.5}
MOST = 120
"""Characters of an error that a table shows."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print. Return the exit status."""
    parser = command.parser("bench.graph", __doc__)
    parser.add_argument("--part", choices=(*PARTS, "all"), default="all")
    parser.add_argument(
        "--bundle", type=Path, nargs="+", default=[Path("models") / name for name in ("sentiment", "nli", "qa")],
        metavar="FOLDER", help="for rows; speed takes the first one's shape; models/{sentiment,nli,qa}",
    )  # fmt: skip
    parser.add_argument("--checkpoint", type=Path, metavar="FOLDER", help="for speed; random weights")
    parser.add_argument("--shapes", type=words, default=("albert-base", "albert-xxlarge"), metavar="NAME,NAME")
    parser.add_argument("--stock", type=words, default=("albert-base",), metavar="NAME,NAME", help="of those; or ''")
    parser.add_argument("--rounds", type=int, default=5, help="times that each graph is measured (%(default)s)")
    parser.add_argument("--seconds", type=float, default=3.0, help="of a schedule, of a timed call (%(default)s)")
    parser.add_argument("--quick", action="store_true", help="tiny shapes, one short round: what the tests run")
    return command.run(parser, program, arguments)


def program(options: argparse.Namespace) -> int:
    """Measure the parts that are asked for and print them."""
    if options.quick:
        options.rounds, options.seconds = 1, 0.05
    parts = PARTS if options.part == "all" else (options.part,)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="bench-graph-") as work:
        if "speed" in parts:
            found["speed"] = speed(options.checkpoint, options.bundle[0], Path(work), options)
            print(f"{speed_table(found['speed']).text()}\n", flush=True)
        if "rows" in parts:
            found["rows"] = [invariance.measure(folder) for folder in options.bundle]
            print(f"{rows_table(found['rows']).text()}\n", flush=True)
        if "shapes" in parts:
            found["shapes"] = [shape(each, Path(work), options) for each in subjects.choose(options.shapes)]
            for table in (shapes_table(found["shapes"]), path_table(found["shapes"])):
                print(f"{table.text()}\n", flush=True)
    print(json.dumps(plain(found), allow_nan=False))
    return 0


# Speed


def speed(given: Path | None, like: Path, work: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Measure rows a second of a checkpoint's fp32 and int8 graphs, in alternation, by schedule.

    Args:
        given: the checkpoint; None for random weights in the shape of the bundle `like`.
    """
    source = given or checkpoint.make(like, work / "checkpoint")
    bundle = work / "bundle"
    labels = () if given else tuple(json.loads((like / "manifest.json").read_text(encoding="utf-8"))["labels"])
    export.run(export.Request(source, bundle, precisions=TIMED, labels=labels, without_dev=True))
    rates: dict[str, dict[str, list[float]]] = {precision: {} for precision in TIMED}
    for i in range(options.rounds):
        for precision in TIMED if i % 2 == 0 else TIMED[::-1]:
            answer = child.call("bench.graphs.bare", {
                "bundle": str(bundle), "rows": str(rows.SENTENCES), "in_flight": [IN_FLIGHT], "cores": cpu_quota(),
                "seconds": options.seconds, "precision": precision,
            })  # fmt: skip
            for run in answer["points"][str(IN_FLIGHT)]:
                rates[precision].setdefault(run["schedule"]["name"], []).append(run["rows_per_second"])
    best = {p: max(by_name, key=lambda name: statistics.median(by_name[name])) for p, by_name in rates.items()}
    fp32, int8 = (Figure(tuple(rates[precision][best[precision]])) for precision in TIMED)
    return {"weights": source.name if given else "random", "rates": rates, "best": best, "ratio": int8.over(fp32)}


def speed_table(found: dict[str, Any]) -> Table:
    """Show every schedule of each graph, and the ratio of the best ones."""
    lines = []
    for precision, by_name in found["rates"].items():
        for name, rates in by_name.items():
            best = " (best)" if name == found["best"][precision] else ""
            lines.append((f"{precision}, {name}{best}", number(statistics.median(rates)), "", ""))
    met = _met(found["ratio"] >= WANTED["speed"])
    lines.append(("int8 over fp32, each at its best", f"{found['ratio']:.2f} ×", f"≥ {WANTED['speed']} ×", met))
    note = f"{IN_FLIGHT} rows in flight, {found['weights']} weights; medians of the rounds, or of the rounds' ratios."
    return Table("speed", "The bare graph", ("", "rows/s", "wanted", "met"), tuple(lines), note)


# Rows


def rows_table(found: Sequence[dict[str, Any]]) -> Table:
    """Show batch invariance."""
    lines = [
        (
            f"{each['bundle']}, {each['graph']}", str(each["rows"]), f"{each['shortest']}–{each['longest']}",
            f"{each['difference']:.1e}", f"≤ {WANTED['difference']:.0e}", 
            _met(each["difference"] <= WANTED["difference"]),
        )
        for each in found
    ]  # fmt: skip
    columns = ("", "rows", "tokens", "largest |Δ logit|", "wanted", "met")
    note = f"Each row alone, and in {invariance.BATCHES} random batches of mixed lengths."
    return Table("rows", "Batch invariance", columns, tuple(lines), note)


# Shapes


def shape(subject: Subject, work: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Measure files, memory, fused attention and speed of a shape's graphs, and of the stock tools' if asked for."""
    config = shrunk(subject.config) if options.quick else subject.config
    folder = work / subject.name
    folder.mkdir()
    config.save_pretrained(folder)
    count = parameters.count(config)
    sizes = child.call("bench.compare.weights", {
        "folder": str(folder), "checkpoint": None, "precisions": PRECISIONS
    })  # fmt: skip
    paths = {precision: weights.graph_path(folder, precision) for precision in TIMED}
    stock: dict[str, Any] = {}
    if subject.name in options.stock:
        try:
            stock = child.call("bench.graphs.stock", {"folder": str(folder)})
            paths |= {f"stock {precision}": folder / f"stock.{precision}.onnx" for precision in TIMED}
        except child.ChildError as error:  # the code of others may fail; ours is shown all the same
            stock = {"error": str(error)}
    measured = _rounds(paths, config, options)
    return {
        "name": subject.name,
        "parameters": count.total,
        "layers": count.run,
        "fused": {p: graph.fused_attention_count(_skeleton(paths[p])) for p in TIMED},
        "bytes": {precision: sizes[precision] for precision in PRECISIONS},
        "file": {p: sizes[p] / (budget.BYTES[p] * count.total) for p in PRECISIONS},
        "growth": {p: statistics.median(measured[p]["growth"]) / (budget.BYTES[p] * count.total) for p in TIMED},
        "milliseconds": {name: 1e3 * statistics.median(each["seconds"]) for name, each in measured.items()},
        "gain": _gain(measured, "fp32", "int8"),
        "stock": stock | ({"gain": _gain(measured, "stock fp32", "stock int8")} if "bytes" in stock else {}),
    }


def _rounds(paths: dict[str, Path], config: PreTrainedConfig, options: argparse.Namespace) -> dict[str, Any]:
    """Measure the bytes by which memory grew and seconds of a call, by graph and round; rounds go forth and back."""
    count, tokens = SHAPE
    measured: dict[str, dict[str, list[float]]] = {name: {"growth": [], "seconds": []} for name in paths}
    for i in range(options.rounds):
        for name in list(paths) if i % 2 == 0 else [*paths][::-1]:
            answer = child.call("bench.compare.serving", {
                "graph": str(paths[name]), "precision": name, "workers": 1, "threads": cpu_quota(),
                "vocabulary": config.vocab_size, "longest": tokens, "tokens": [tokens], "seconds": options.seconds,
                "batch_tokens": count * tokens,
            })  # fmt: skip
            measured[name]["growth"].append(answer["growth"])
            measured[name]["seconds"].append(count / answer["cells"][str(tokens)]["throughput"])
    return measured


def _gain(measured: dict[str, Any], slow: str, quick: str) -> float:
    return Figure(tuple(measured[slow]["seconds"])).over(Figure(tuple(measured[quick]["seconds"])))


def shapes_table(found: Sequence[dict[str, Any]]) -> Table:
    """Show what is wanted of each shape beside what was reached."""
    lines = []
    for each in found:
        for key, what, sign in (("file", "file over unique weights", "≤"), ("growth", "RSS growth over them", "≤")):
            for precision, reached in each[key].items():
                met = _met(reached <= WANTED[key])
                lines.append(
                    (f"{each['name']}, {precision}: {what}", f"{reached:.3f} ×", f"{sign} {WANTED[key]} ×", met)
                )
        for precision, fused in each["fused"].items():
            text = f"{each['name']}, {precision}: fused attention nodes"
            lines.append((text, str(fused), f"= {each['layers']}", _met(fused == each["layers"])))
        met = _met(each["gain"] >= WANTED["gain"])
        lines.append((f"{each['name']}: int8 over fp32", f"{each['gain']:.2f} ×", f"≥ {WANTED['gain']} ×", met))
    note = (
        "Random weights. Unique weights: the encoder's parameters, shared ones once, in the bytes of the precision. "
        "Growth: from before the graph is opened to after calls with rows of up to 128 tokens."
    )
    return Table("shapes", "Shared weights stay shared", ("", "reached", "wanted", "met"), tuple(lines), note)


def path_table(found: Sequence[dict[str, Any]]) -> Table:
    """Show ours beside the stock tools'."""
    lines: list[tuple[str, ...]] = []
    notes = ["Stock: torch.onnx.export of the eager model, onnxruntime.transformers' optimiser, quantize_dynamic."]
    for each in found:
        ways = [("ours", "", each["bytes"], each["fused"]["int8"], each["gain"])]
        if "bytes" in each["stock"]:
            ways.append(("stock", "stock ", each["stock"]["bytes"], each["stock"]["fused"], each["stock"]["gain"]))
        for way, prefix, sizes, fused, gain in ways:
            lines.append((
                f"{each['name']}, {way}", *(number(sizes[p] / 1e6) for p in TIMED), f"{fused} of {each['layers']}",
                *(number(each["milliseconds"][prefix + p]) for p in TIMED), f"{gain:.2f} ×",
            ))  # fmt: skip
        if "error" in each["stock"]:
            notes.append(f"It failed for {each['name']}: {each['stock']['error'][:MOST]}")
    columns = ("", "fp32 MB", "int8 MB", "fused", "fp32 ms", "int8 ms", "int8 over fp32")
    title = f"{SHAPE[0]} rows of {SHAPE[1]} tokens in one call on all cores"
    return Table("paths", title, columns, tuple(lines), " ".join(notes))


def shrunk(config: PreTrainedConfig) -> PreTrainedConfig:
    """Make a shape of the same family, small enough for a test."""
    tiny = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4}
    return type(config)(**config.to_dict() | tiny | {"vocab_size": 500})


def _skeleton(path: Path) -> onnx.ModelProto:
    """Read a graph without its weights."""
    return onnx.load(path, load_external_data=False)


def _met(reached: bool) -> str:
    return "yes" if reached else "no"


if __name__ == "__main__":
    sys.exit(main())
