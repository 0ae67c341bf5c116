"""`make bench`: Bertie against others on one machine, in one run.

python -m bench                                    # everything, about half an hour; wants a quiet machine
python -m bench --rounds 1 --seconds 3 --no-tune   # a first look
python -m bench --peers bertie,mosec --connections 32
python -m bench --squad dev-v1.1.json.xz           # question answering too
python -m bench --fill docs/performance.md         # and fill the tables there
"""

from __future__ import annotations

import argparse
import datetime
import logging
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from bench import child, plot, process, rounds, rows, tables, wrk
from bench.errors import BenchError
from bench.peers import roster
from bench.report import BareRun, Report
from bench.rounds import Plan, Turns
from bench.table import fill
from service.engine.session import CPUINFO
from training.errors import TrainingError

logger = logging.getLogger("bench")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, prints and writes. Returns the exit status."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    options.out.mkdir(parents=True, exist_ok=True)
    try:
        with process.only_cores(options.cores) as cores:
            report = run(options, cores)
        shown = tables.of(report)
        print("\n\n".join(table.text() for table in shown))
        markdown = "\n\n".join(f"## {table.title}\n\n{table.markdown()}" for table in shown)
        for name, content in (
            ("bench.json", report.to_json()),
            ("bench.md", markdown + "\n"),
            ("bench.svg", plot.render(report)),
        ):
            (options.out / name).write_text(content, encoding="utf-8")
            print(options.out / name)
        if options.fill:
            print(f"{options.fill}: {', '.join(fill(options.fill, shown, marker='bench'))}")
            options.fill.with_name("performance.svg").write_text(plot.render(report), encoding="utf-8")
    except (BenchError, TrainingError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    return 0


def run(options: argparse.Namespace, cores: int) -> Report:
    """Takes all turns.

    Raises:
        BenchError: an option asks for what there is not.
    """
    sentences = rows.sentences(options.rows)
    peers = roster.choose(options.peers)
    questions = rows.questions(options.squad, options.questions) if options.squad else []
    peers = tuple(peer for peer in peers if peer.work != "qa" or questions)
    machine = _machine()
    with tempfile.TemporaryDirectory(prefix="bench-checkpoint-") as folder:
        plan = Plan(
            peers=peers,
            connections={"single": options.connections, "batched": options.batched, "qa": options.qa_connections},
            rounds=options.rounds,
            seconds=options.seconds,
            warm_up=options.warm_up,
            tune=options.tune,
            tune_connections=options.tune_connections,
            cores=cores,
            bundles={"single": options.bundle, "qa": options.qa_bundle},
            checkpoints=_checkpoints(options, peers, Path(folder)),
            texts={"single": [(text,) for text in sentences], "qa": list(questions)},
            out=options.out,
        )
        in_flight = sorted({*options.connections, *(n * roster.ROWS for n in options.batched)})
        asked = {
            "bundle": str(options.bundle), "rows": str(options.rows), "cores": cores, "in_flight": in_flight,
            "seconds": options.seconds,
        }  # fmt: skip
        bare = [] if options.no_bare else [child.call("bench.bare", asked | {"seconds": 0.2, "in_flight": [1]})]
        taken = Turns(plan, rounds.load_maker(options.client), bare[0]["labels"] if bare else ())
        taken.tune()
        found = []
        for i in range(options.rounds):
            logger.info("round %d of %d", i + 1, options.rounds)
            if not options.no_bare:
                found.append(child.call("bench.bare", asked))
            taken.round()
    return Report(
        services=taken.services(),
        bare=tuple(
            BareRun(
                schedule=point["schedule"]["name"],
                in_flight=int(n),
                **{name: point[name] for name in ("rows_per_second", "cpu_seconds", "p50", "p95", "p99")},
            )
            for each in found
            for n, points in each["points"].items()
            for point in points
        ),
        tokenise_seconds=tuple(each["tokenise_seconds"] for each in found),
        settings={
            "cores": cores, "rounds": options.rounds, "seconds": options.seconds, "warm_up": options.warm_up,
            "client": options.client, "rows": len(sentences), "tune_connections": options.tune_connections,
            "words": statistics.mean(len(text.split()) for text in sentences), "questions": len(questions),
            "bundle": options.bundle.name, "random_weights": options.checkpoint is None,
        },
        machine=machine,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="minutes"),
    )  # fmt: skip


def _checkpoints(options: argparse.Namespace, peers: Sequence[roster.Peer], folder: Path) -> dict[str, Path]:
    """The checkpoints of those peers that run torch and are installed: given ones, or random ones made in `folder`."""
    found = {}
    wanted = {"qa" if peer.work == "qa" else "single" for peer in peers if peer.model == "torch" and not peer.missing}
    given = {"single": options.checkpoint, "qa": options.qa_checkpoint}
    for kind, bundle in (("single", options.bundle), ("qa", options.qa_bundle)):
        if kind in wanted:
            if given[kind] is None:
                from bench import checkpoint  # takes torch, which only those peers need

                given[kind] = checkpoint.make(bundle, folder / kind)
            found[kind] = given[kind]
    return found


def _machine() -> dict[str, Any]:
    try:
        lines = CPUINFO.read_text(encoding="utf-8").splitlines()
        processor = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        processor = "unknown processor"
    found: dict[str, Any] = {"processor": processor, "load_before": os.getloadavg()[0]}
    for name in ("onnxruntime", "torch", "transformers", "litserve", "mosec", "bentoml", "fastapi", "uvicorn"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = ""
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = ", ".join(peer.name for peer in roster.PEERS)
    parser.add_argument("--peers", type=_words, default=(), metavar="NAMES", help=f"of {names}; all")
    parser.add_argument("--connections", type=_counts, default=(1, 8, 32, 128), metavar="N,N", help="1,8,32,128")
    parser.add_argument("--batched", type=_counts, default=(1, 4), metavar="N,N", help="of requests of 32 rows; 1,4")
    parser.add_argument("--qa-connections", type=_counts, default=(1, 8, 32), metavar="N,N", help="1,8,32")
    parser.add_argument("--rounds", type=int, default=3, help="turns of every service (%(default)s)")
    parser.add_argument("--seconds", type=float, default=6.0, help="of a point (%(default)s)")
    parser.add_argument("--warm-up", type=float, default=2.0, help="seconds before each point (%(default)s)")
    parser.add_argument("--no-tune", dest="tune", action="store_false", help="take each peer's first configuration")
    parser.add_argument("--tune-connections", type=int, default=32, help="at which configurations are tried")
    parser.add_argument("--no-bare", action="store_true", help="leave out the bare session")
    parser.add_argument("--cores", type=int, default=0, help="that servers and load generator share; all")
    parser.add_argument(
        "--client", choices=("wrk", "python"), default="wrk" if wrk.available() else "python", help="%(default)s"
    )
    parser.add_argument("--rows", type=Path, default=rows.SENTENCES, metavar="FILE", help="sentences to post")
    parser.add_argument("--bundle", type=Path, default=Path("models/sentiment"), help="%(default)s")
    parser.add_argument("--checkpoint", type=Path, help="for torch, of the bundle's shape; random weights")
    parser.add_argument("--squad", type=Path, metavar="FILE", help="SQuAD's JSON: measures question answering too")
    parser.add_argument("--questions", type=int, default=400, help="of that file, spread over it (%(default)s)")
    parser.add_argument("--qa-bundle", type=Path, default=Path("models/qa"), help="%(default)s")
    parser.add_argument("--qa-checkpoint", type=Path, help="for torch; random weights")
    parser.add_argument("--out", type=Path, default=Path("runs/bench"), help="folder to write (%(default)s)")
    parser.add_argument("--fill", type=Path, metavar="FILE.md", help="put the tables between the markers of this file")
    return parser


def _words(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))


def _counts(text: str) -> tuple[int, ...]:
    counts = tuple(int(word) for word in _words(text))
    if min(counts, default=0) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} holds a number below 1")
    return counts


if __name__ == "__main__":
    sys.exit(main())
