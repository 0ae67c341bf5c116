"""`python -m service score MODEL IN OUT`: score the rows of files through a model, here or on a Ray cluster."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from service.errors import BertieError, ConfigurationError
from service.repository import plan, versions
from service.repository.manifest import MANIFEST
from service.settings import Settings


def main(arguments: Sequence[str]) -> int:
    """Score, and return the exit status."""
    options = _parser().parse_args(arguments)
    with contextlib.suppress(ValueError):  # signals belong to the main thread
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # blocks go side by side, not texts
    try:
        return _score(options)
    except BertieError as error:
        print(f"bertie score: {error.detail}", file=sys.stderr)
    except KeyboardInterrupt:
        print("bertie score: stopped; the same command goes on from here", file=sys.stderr)
    return 1


def _score(options: argparse.Namespace) -> int:
    try:
        from service.scoring import plan, run
        from service.scoring.part import Scorer
        from service.scoring.storage import Folder
    except ImportError as error:
        raise ConfigurationError(f"score wants pip install 'bertie[score]': {error}") from error
    from service.engine import allocator
    from service.engine.processor import cpu_quota
    from service.inprocess import load

    if options.ray is not None:
        from service.scoring import cluster

        cluster.connect(options.ray)  # before anything is read: who cannot be reached is told at once
    source = _bundle(options.model)
    allocator.share_arenas(cpu_quota())
    model = load(source, device=options.device, threads=options.threads).model
    allocator.return_freed()
    allocator.keep_blocks()
    settings = plan.Settings(
        input=options.input,
        model=model.bundle.name,
        model_digest=hashlib.sha256((source / MANIFEST).read_bytes()).hexdigest(),
        device=options.device,
        columns=dict(options.column),
        options=dict(options.option),
        keep=options.keep,
        prefix=options.prefix,
        format=options.format,
        delimiter=options.delimiter,
        part_rows=options.part_rows,
        max_characters=options.max_characters,
    )
    folder = Folder(options.output)
    begun = run.begin(settings, model, folder, overwrite=options.overwrite)
    if begun.finished:
        _tell(f"{folder.url} is finished, of {begun.plan.rows:,} rows: there is nothing to do")
        return 0
    missing, parts = len(begun.missing), len(begun.plan.parts)
    _tell(f"{begun.plan.rows:,} rows in {parts} parts, {parts - missing} of them done; model {model.bundle.name!r}")
    score: run.Score
    if options.ray is None:
        score = Scorer(begun.plan, model, folder).score
    else:
        score = cluster.scoring(begun.plan, model.bundle, folder, device=options.device, workers=options.workers)
    progress = begun.score(score, options.max_rejected, sys.stderr)
    said = f" and {progress.rejected:,} rejected (_rejected-*.jsonl says why)" if progress.rejected else ""
    _tell(f"{progress.rows:,} rows scored{said}, in {progress.seconds:.0f} s: {folder.url}")
    return 0


def _tell(line: str) -> None:
    print(f"bertie score: {line}", file=sys.stderr)


def _bundle(model: str) -> Path:
    """Find a bundle by its folder, or in the folder of models by NAME, which is its stable version, or NAME/VERSION.

    Raises:
        BundleError: there is none.
    """
    if (Path(model) / MANIFEST).is_file():
        return Path(model)
    models_dir = Settings().models_dir
    name, _, version = model.partition("/")
    (stored,) = versions.find(models_dir, (name,))
    return stored.version(version or plan.read(stored.folder).stable or "").folder


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bertie-serve score",
        description="Score the rows of Parquet, JSON lines or CSV files through a model. A run that was killed goes on "
        "where it was: give the same command again.",
        epilog="Input fields are the model's: text; premise and hypothesis; question and context; query and texts; ... "
        "Rows that cannot be scored are kept in OUT/_rejected-*.jsonl, with their reason.",
    )
    parser.add_argument("model", metavar="MODEL", help="a bundle's folder, or its name in BERTIE_MODELS_DIR")
    parser.add_argument("input", metavar="IN", help="a file, a folder or a glob; s3://... and others through fsspec")
    parser.add_argument("output", metavar="OUT", help="a folder: new, empty, or that of the run to go on with")
    parser.add_argument(
        "--column",
        metavar="FIELD=COLUMN",
        type=_pair,
        action="append",
        default=[],
        help="where a field is, if not in the column of its own name",
    )
    parser.add_argument(
        "--option",
        metavar="FIELD=VALUE",
        type=_option,
        action="append",
        default=[],
        help="a field that is the same in "
        'every row, as JSON or a plain text: top_k=3, candidate_labels=["sport","politics"]',
    )
    parser.add_argument("--keep", metavar="COLUMN,...", type=_names, help="columns of the input to keep [all]")
    parser.add_argument("--prefix", default="", help="what the names of the answer's columns begin with [nothing]")
    parser.add_argument("--format", choices=("parquet", "jsonl", "csv"), help="of the output [the input's]")
    parser.add_argument("--delimiter", type=_character, help="of CSV cells [, and a tab for .tsv]")
    parser.add_argument("--part-rows", type=_positive, default=20_000, help="rows of an output file [20000]")
    parser.add_argument(
        "--max-characters", type=_positive, default=200_000, help="of a row's texts; a longer row is rejected [200000]"
    )
    parser.add_argument(
        "--max-rejected",
        type=_share,
        default=0.1,
        help="share of rejected rows, 0 to 1, over which the run stops [0.1]",
    )
    parser.add_argument("--overwrite", action="store_true", help="throw the output of an earlier run away")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where to run [auto]")
    parser.add_argument("--threads", type=int, default=0, help="cores to use [0: all]")
    parser.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="score on this Ray cluster (install the extra `ray`): HOST:PORT, auto, or local "
        "for one on this machine. All its nodes must see IN and OUT",
    )
    parser.add_argument("--workers", type=_positive, help="with --ray: workers, of a core each [the cluster's cores]")
    return parser


def _pair(value: str) -> tuple[str, str]:
    field, equals, column = value.partition("=")
    if not (field and equals and column):
        raise argparse.ArgumentTypeError(f"{value!r} is not FIELD=VALUE")
    return field, column


def _option(value: str) -> tuple[str, Any]:
    field, text = _pair(value)
    try:
        return field, json.loads(text)
    except ValueError:
        return field, text


def _names(value: str) -> list[str]:
    return [name for name in value.split(",") if name]


def _character(value: str) -> str:
    if len(value) != 1:
        raise argparse.ArgumentTypeError(f"{value!r} is not one character")
    return value


def _positive(value: str) -> int:
    number = int(value)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{value} is not 1 or more")
    return number


def _share(value: str) -> float:
    share = float(value)
    if not 0 <= share <= 1:
        raise argparse.ArgumentTypeError(f"{value} is not from 0 to 1")
    return share
