"""`make bench`: Bertie against others on one machine, in one run.

python -m bench                                    # everything, about half an hour; wants a quiet machine
python -m bench --rounds 1 --seconds 3 --no-tune   # a first look
python -m bench --peers bertie,mosec --connections 32
python -m bench --squad dev-v1.1.json.xz           # question answering too
python -m bench --fill docs/performance.md         # and fill the tables there
python -m bench --against HEAD~3 --rounds 4        # this tree against a revision: speed, start and memory, as ratios
python -m bench --against HEAD~3 --peers bertie,mosec
python -m bench --flood --peers bertie,mosec       # both under the same flood; with --against the revision too
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import logging
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from bench import against, child, command, machine, process, rounds, rows, wrk
from bench.command import count, counts, words
from bench.flood import Floods
from bench.peers import roster
from bench.peers.roster import Peer
from bench.report import plot, tables
from bench.report.results import BareRun, Report
from bench.report.table import fill
from bench.rounds import Plan, Rounds

logger = logging.getLogger("bench")
PACKAGES = ("onnxruntime", "torch", "transformers", "litserve", "mosec", "bentoml", "fastapi", "uvicorn")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write. Return the exit status."""
    return command.run(_parser(), program, arguments)


def program(options: argparse.Namespace) -> int:
    """Measure, print the tables, and write them, the figures and the plot."""
    options.out.mkdir(parents=True, exist_ok=True)
    with process.only_cores(options.cores) as cores:
        report = run(options, cores)
    shown = tables.of(report)
    print("\n\n".join(table.text() for table in shown))
    markdown = "\n\n".join(f"## {table.title}\n\n{table.markdown()}" for table in shown)
    drawn = plot.render(report)
    for name, content in (("bench.json", report.to_json()), ("bench.md", markdown + "\n"), ("bench.svg", drawn)):
        (options.out / name).write_text(content, encoding="utf-8")
        print(options.out / name)
    if options.fill:
        print(f"{options.fill}: {', '.join(fill(options.fill, shown, marker='bench'))}")
        options.fill.with_name("performance.svg").write_text(drawn, encoding="utf-8")
    return 0


def run(options: argparse.Namespace, cores: int) -> Report:
    """Measure everything that is asked for.

    Raises:
        BenchError: an option asks for what there is not.
    """
    described = machine.describe(PACKAGES)
    sentences = rows.sentences(options.rows)
    with contextlib.ExitStack() as stack:
        revision = stack.enter_context(against.checked_out(options.against)) if options.against else None
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-checkpoint-")))
        questions = rows.questions(options.squad, options.questions) if options.squad else []
        if revision and not questions:
            questions = rows.paragraphs(len(sentences))
        peers = [peer for peer in _chosen(options) if peer.work != "qa" or questions]
        plan = Plan(
            groups=_groups(peers, revision),
            connections={
                "single": options.connections,
                "batched": options.batched,
                "qa": options.qa_connections or ((8,) if revision else (1, 8, 32)),
            },
            rounds=options.rounds,
            seconds=options.seconds,
            warm_up=options.warm_up,
            tune=options.tune,
            tune_connections=options.tune_connections,
            cores=cores,
            bundles={"single": options.bundle, "qa": options.qa_bundle},
            checkpoints=_checkpoints(options, peers, folder),
            texts={"single": [(text,) for text in sentences], "qa": list(questions)},
            out=options.out,
            models_dir=options.bundle.parent if revision else None,
        )
        in_flight = sorted({*options.connections, *(n * roster.ROWS for n in options.batched)})
        asked = {
            "bundle": str(options.bundle), "rows": str(options.rows), "cores": cores, "in_flight": in_flight,
            "seconds": options.seconds,
        }  # fmt: skip
        with_bare = not (options.no_bare or options.against or options.flood)
        bare = [child.call("bench.graphs.bare", asked | {"seconds": 0.2, "in_flight": [1]})] if with_bare else []
        taken = Rounds(plan, rounds.load_maker(options.client), bare[0]["labels"] if bare else ())
        taken.tune()
        found = []
        floods = Floods(taken, seconds=options.seconds, connections=options.flood)
        for i in range(options.rounds):
            logger.info("round %d of %d", i + 1, options.rounds)
            if with_bare:
                found.append(child.call("bench.graphs.bare", asked))
            if options.against or not options.flood:
                taken.round(i)
            if options.flood:
                floods.round(i)
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
            "bundle": options.bundle.name, "random_weights": options.checkpoint is None, "against": options.against,
            "flood": options.flood,
        },
        machine=described,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="minutes"),
        floods=floods.found,
    )  # fmt: skip


def _chosen(options: argparse.Namespace) -> tuple[Peer, ...]:
    """Choose the peers that are named; all, or those that the kind of run is about."""
    names = options.peers
    if not names and (options.against or options.flood):
        names = ("bertie", *(("bertie-qa",) if options.against else ()), *(("mosec",) if options.flood else ()))
    return roster.choose(names)


def _groups(peers: Sequence[Peer], revision: against.Revision | None) -> tuple[tuple[Peer, ...], ...]:
    """Group the peers: each alone; against a revision all that do the same work, each Bertie with its older twin."""
    if revision is None:
        return tuple((peer,) for peer in peers)
    by_work: dict[str, list[Peer]] = defaultdict(list)
    for peer in peers:
        twin = [replace(peer, name=f"{peer.name}@{revision.name}", tree=revision.tree)] if peer.is_bertie else []
        by_work[peer.work] += [peer, *twin]
    return tuple(map(tuple, by_work.values()))


def _checkpoints(options: argparse.Namespace, peers: Sequence[roster.Peer], folder: Path) -> dict[str, Path]:
    """Get the checkpoints of the installed peers that run torch: given ones, or random ones made in `folder`."""
    found = {}
    wanted = {"qa" if peer.work == "qa" else "single" for peer in peers if peer.model == "torch" and not peer.missing}
    given = {"single": options.checkpoint, "qa": options.qa_checkpoint}
    for kind, bundle in (("single", options.bundle), ("qa", options.qa_bundle)):
        if kind in wanted:
            if given[kind] is None:
                from bench.graphs import checkpoint

                given[kind] = checkpoint.make(bundle, folder / kind)
            found[kind] = given[kind]
    return found


def _parser() -> argparse.ArgumentParser:
    parser = command.parser("bench", __doc__)
    names = ", ".join(peer.name for peer in roster.PEERS)
    parser.add_argument("--peers", type=words, default=(), metavar="NAMES", help=f"of {names}; all")
    parser.add_argument(
        "--against", metavar="REV", help="measure Bertie of this git revision beside Bertie of this tree"
    )
    parser.add_argument(
        "--flood",
        type=count,
        nargs="?",
        const=4096,
        default=0,
        metavar="N",
        help="ten times the peak in requests of a row, from N connections (%(const)s)",
    )
    parser.add_argument("--connections", type=counts, default=(1, 8, 32, 128), metavar="N,N", help="1,8,32,128")
    parser.add_argument("--batched", type=counts, default=(1, 4), metavar="N,N", help="of requests of 32 rows; 1,4")
    parser.add_argument("--qa-connections", type=counts, metavar="N,N", help="1,8,32; against a revision 8")
    parser.add_argument("--rounds", type=int, default=3, help="times that each is measured (%(default)s)")
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


if __name__ == "__main__":
    sys.exit(main())
