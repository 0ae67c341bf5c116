"""The command line: `python -m training COMMAND`."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from service.errors import BertieError
from training.errors import DataError, TrainingError

PRECISIONS = ("fp32", "fp16", "int8")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; errors that a person can mend are printed without a traceback, with exit status 1."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    try:
        command: Callable[[argparse.Namespace], None] = options.run
        command(options)
    except (TrainingError, BertieError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bertie-train", description="Train, export and evaluate Bertie's models.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    finetune = commands.add_parser("finetune", help="fine-tune an encoder by a recipe")
    finetune.add_argument("recipe", type=Path, help="a TOML file; see training/recipes/")
    finetune.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="replace a recipe's value")
    finetune.add_argument("--resume", action="store_true", help="continue from the last checkpoint in the output")
    finetune.add_argument("--allow-bad-data", action="store_true", help="go on without the bad records")
    finetune.set_defaults(run=_finetune)

    export = commands.add_parser("export", help="export a Hugging Face folder to a bundle, through the gate")
    export.add_argument("checkpoint", type=Path, help="a fine-tuned Hugging Face folder with safetensors")
    export.add_argument("bundle", type=Path, help="the folder to write; its name is the model's name")
    export.add_argument(
        "--precision", action="append", choices=PRECISIONS, default=[],
        help="a graph to keep; may be given again (fp32 and int8)",
    )  # fmt: skip
    export.add_argument("--labels", default="", help="names of the labels in the order of their ids, comma-separated")
    export.add_argument("--max-length", type=_count, default=0, help="longest row in tokens")
    export.add_argument("--doc-stride", type=_count, default=0, help="tokens that neighbouring windows share")
    export.add_argument(
        "--dev", action="append", default=[], help="a dev file to gate on (the recipe's); again for more"
    )
    export.add_argument("--dev-limit", type=_count, default=0, help="examples of each dev file, 0 for all")
    export.add_argument("--without-dev", action="store_true", help="export without a dev file to gate on")
    export.add_argument("--licence", default="", help="licence of the weights, for the card")
    export.add_argument("--base-model", default="", help="what was fine-tuned, for the card")
    export.set_defaults(run=_export)

    evaluate = commands.add_parser("evaluate", help="score a bundle as it is served")
    evaluate.add_argument("bundle", type=Path)
    evaluate.add_argument("file", help="labelled data: SQuAD JSON, GLUE TSV, NLI JSONL or TSV; plain, .gz or .xz")
    evaluate.add_argument("--limit", type=_count, default=0, help="the first so many examples only")
    evaluate.add_argument("--predictions", type=Path, help="write them here; SQuAD's in the official layout")
    evaluate.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    evaluate.set_defaults(run=_evaluate)
    return parser


def _count(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{number} is below 0")
    return number


# torch takes seconds to import: a wrong option or recipe should not wait for it, so commands import what they need.


def _finetune(options: argparse.Namespace) -> None:
    from training import recipe

    loaded = recipe.load(options.recipe, options.set)

    from training import finetune

    metrics = finetune.run(loaded, resume=options.resume, allow_bad_data=options.allow_bad_data)
    _print_scores("dev", metrics["dev"])


def _export(options: argparse.Namespace) -> None:
    from training import export

    manifest = export.run(
        export.Request(
            checkpoint=options.checkpoint,
            output=options.bundle,
            precisions=tuple(dict.fromkeys(options.precision)) or ("fp32", "int8"),
            labels=tuple(label.strip() for label in options.labels.split(",") if label.strip()),
            max_length=options.max_length,
            doc_stride=options.doc_stride,
            dev=tuple(options.dev),
            without_dev=options.without_dev,
            dev_limit=options.dev_limit,
            licence=options.licence,
            base_model=options.base_model,
        )
    )
    print(f"{options.bundle}: {', '.join(graph.file for graph in manifest.graphs)}")
    print(json.dumps({graph.precision: graph.scores for graph in manifest.graphs}))


def _evaluate(options: argparse.Namespace) -> None:
    from service import bundle as bundles
    from training import evaluate

    bundle = bundles.load(options.bundle)
    if options.predictions and not options.predictions.parent.is_dir():
        raise DataError(f"{options.predictions.parent} is no folder")  # said now, not after the hour's work
    scores, predictions = evaluate.bundle(bundle, options.file, limit=options.limit, device=options.device)
    if options.predictions:
        options.predictions.write_text(json.dumps(predictions, ensure_ascii=False) + "\n", encoding="utf-8")
    _print_scores(f"{bundle.name} on {Path(options.file).name}", scores)


def _print_scores(title: str, scores: Mapping[str, Any]) -> None:
    """A table, then the same as one JSON object on the last line."""
    width = max(map(len, scores))
    print(title)
    for name, value in scores.items():
        print(f"  {name:<{width}}  {value:>12.4f}" if isinstance(value, float) else f"  {name:<{width}}  {value:>7}")
    print(json.dumps(scores))


if __name__ == "__main__":
    sys.exit(main())
