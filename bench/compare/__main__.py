"""ALBERT against BERT, measured: what sharing layers saves, and what it does not. See docs/albert-vs-bert.md.

python -m bench.compare --parameters-only     # seconds; the last line is JSON
python -m bench.compare                       # files, memory, speed, training; an hour on a quiet machine

Builds the models of both papers (random weights, unless checkpoints are given) and measures them side by side. Writes
compare.json and compare.html. Wants a quiet machine.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench import command
from bench.command import amount, count, counts, some_words
from bench.compare.options import MEASURES, PRECISIONS, Options
from bench.errors import BenchError
from training.errors import nearest


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare, print the tables and write the files. Return the exit status."""
    parser = command.parser("bench.compare", __doc__)
    parser.add_argument(
        "--sizes", type=some_words, default=(), metavar="NAMES", help="e.g. bert-base,albert-base; all six"
    )
    parser.add_argument(
        "--checkpoint", action="append", type=_named_folder, default=[], metavar="NAME=FOLDER",
        help="a Hugging Face folder in the place of that model, or one more; may be given again",
    )  # fmt: skip
    parser.add_argument("--parameters-only", action="store_true", help="count, run nothing; the last line is JSON")
    parser.add_argument("--out", type=Path, default=Path("runs/compare"), help="folder to write (%(default)s)")
    parser.add_argument("--fill", type=Path, metavar="FILE.md", help="put the tables between the markers of this file")
    parser.add_argument(
        "--measure", type=some_words, default=MEASURES, metavar="WHAT", help=f"of {','.join(MEASURES)}; all"
    )
    parser.add_argument("--lengths", type=counts, default=(32, 128, 384), help="tokens of the rows that are timed")
    parser.add_argument("--precisions", type=some_words, default=PRECISIONS, help="of the served graphs; fp32,int8")
    parser.add_argument("--rounds", type=count, default=5, help="times that every model is measured (%(default)s)")
    parser.add_argument("--seconds", type=amount, default=1.0, help="for each figure in each round (%(default)s)")
    parser.add_argument(
        "--minutes", type=amount, default=60.0, help="for all timed calls; the rest is estimated (%(default)s)"
    )
    parser.add_argument(
        "--memory", type=amount, default=0.0, metavar="GB", help="that a process may take; what is free"
    )
    parser.add_argument("--workers", type=count, default=0, help="engine workers and training threads; the cores")
    parser.add_argument(
        "--training-batch", type=_batch, default=(8, 128), metavar="ROWSxTOKENS", help="of a step; 8x128"
    )
    return command.run(parser, run, arguments)


def run(options: argparse.Namespace) -> int:
    """Compare, print the tables and write the files.

    Raises:
        BenchError: an option asks for what there is not.
    """
    for name, given, known in (
        ("--measure", options.measure, MEASURES),
        ("--precisions", options.precisions, PRECISIONS),
    ):
        for word in given:
            if word not in known:
                raise BenchError(f"{name} {word!r} is not one of {', '.join(known)}{nearest(word, known)}")
    if options.fill and not options.fill.is_file():
        raise BenchError(f"--fill {options.fill} is no file")  # said now, not after the hour's work
    if len(dict(options.checkpoint)) < len(options.checkpoint):
        raise BenchError("--checkpoint names a model twice")

    from bench.compare import page, rounds, subjects, tables  # torch: a wrong option need not wait for it
    from bench.report.table import fill

    chosen = subjects.choose(options.sizes, dict(options.checkpoint))
    asked = Options(
        measures=() if options.parameters_only else options.measure,
        lengths=tuple(sorted(set(options.lengths))),
        precisions=options.precisions,
        rounds=options.rounds,
        seconds=options.seconds,
        minutes=options.minutes,
        memory=round(options.memory * 1e9),
        workers=options.workers,
        training_rows=options.training_batch[0],
        training_tokens=options.training_batch[1],
    )
    if options.parameters_only:
        with tempfile.TemporaryDirectory() as nowhere:
            comparison = rounds.run(chosen, asked, Path(nowhere))
    else:
        options.out.mkdir(parents=True, exist_ok=True)
        comparison = rounds.run(chosen, asked, options.out)
        for name, content in (("compare.json", comparison.to_json()), ("compare.html", page.render(comparison))):
            (options.out / name).write_text(content, encoding="utf-8")

    shown = tables.of(comparison)
    print("\n\n".join(table.text() for table in shown))
    if comparison.left_out:
        print("\nNot run\n" + "\n".join(f"  {sentence}" for sentence in comparison.left_out))
    if options.fill:
        print(f"\n{options.fill}: {', '.join(fill(options.fill, shown))}")
    if options.parameters_only:
        print(json.dumps({row.name: row.parameters.total for row in comparison.rows}))
    else:
        print(f"{options.out / 'compare.json'}\n{options.out / 'compare.html'}")
    return 0


def _batch(text: str) -> tuple[int, int]:
    rows, separator, tokens = text.partition("x")
    if not separator:
        raise argparse.ArgumentTypeError(f"{text!r} is not ROWSxTOKENS")
    return count(rows), count(tokens)


def _named_folder(text: str) -> tuple[str, Path]:
    name, separator, folder = text.partition("=")
    if not (name and separator and folder):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=FOLDER")
    return name, Path(folder)


if __name__ == "__main__":
    sys.exit(main())
