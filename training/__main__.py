"""The command line: `python -m training COMMAND`."""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from safetensors import SafetensorError

from service.errors import BertieError
from training.errors import CheckpointError, DataError, TrainingError

PRECISIONS = ("fp32", "fp16", "int8", "w8a16")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; errors that a person can mend are printed without a traceback, with exit status 1. So is what
    the system says of a full disk or of a file that may not be read, wherever it says it."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    command: Callable[[argparse.Namespace], None] = options.run
    try:
        with _unwound_by_sigterm():
            command(options)
    except (TrainingError, BertieError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except (OSError, SafetensorError) as error:
        print(f"error: {' '.join(str(error).split()) or type(error).__name__}", file=sys.stderr)
        return 1
    return 0


@contextmanager
def _unwound_by_sigterm() -> Iterator[None]:
    """SIGTERM ends a command as an exception does, so that it clears away its temporary folders and child processes."""

    def stop(number: int, frame: object) -> NoReturn:
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bertie-train", description="Train, export and evaluate Bertie's models.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    finetune = commands.add_parser("finetune", help="fine-tune an encoder by a recipe")
    finetune.add_argument("recipe", type=Path, help="a TOML file; see training/recipes/")
    finetune.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="replace a recipe's value")
    finetune.add_argument(
        "--teacher", action="append", default=[], metavar="CHECKPOINT",
        help="learn from a fine-tuned checkpoint too; again for more",
    )  # fmt: skip
    finetune.add_argument("--resume", action="store_true", help="continue from the last checkpoint in the output")
    finetune.add_argument("--allow-bad-data", action="store_true", help="go on without the bad records")
    finetune.set_defaults(run=_finetune)

    average = commands.add_parser("average", help="the mean of fine-tuned checkpoints' weights, as a checkpoint")
    average.add_argument("output", type=Path, help="the Hugging Face folder to write")
    average.add_argument("checkpoint", type=Path, nargs="+", help="two or more, of one shape, task and tokenizer")
    average.add_argument(
        "--weights", type=float, nargs="+", default=[], metavar="SHARE",
        help="how much of each checkpoint, in their order, of any sum; as much of each when left out",
    )  # fmt: skip
    average.set_defaults(run=_average)

    vocabulary = commands.add_parser("vocabulary", help="learn a tokenizer's vocabulary from text")
    vocabulary.add_argument("output", type=Path, help="the tokenizer's folder, to be made")
    vocabulary.add_argument("corpus", nargs="+", help="text files: plain, .gz or .xz")
    vocabulary.add_argument("--kind", choices=("sentencepiece", "wordpiece", "bytebpe"), default="sentencepiece")
    vocabulary.add_argument("--size", type=_count, default=30_000, help="pieces, special ones included")
    vocabulary.add_argument("--cased", action="store_true", help="keep capitals and accents (bytebpe always does)")
    vocabulary.add_argument("--sentences", type=_count, default=500_000, help="how many to learn from, 0 for all")
    vocabulary.add_argument("--seed", type=_count, default=42, help="of the sample of sentences")
    vocabulary.set_defaults(run=_vocabulary)

    pretrain = commands.add_parser(
        "pretrain", help="pre-train an encoder by a recipe; under torchrun on many processes"
    )
    pretrain.add_argument("recipe", type=Path, help="a TOML file; see training/recipes/pretrain-*.toml")
    pretrain.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="replace a recipe's value")
    pretrain.add_argument("--resume", action="store_true", help="continue from the last good checkpoint in the output")
    pretrain.add_argument("--minutes", type=float, default=0.0, help="stop with a checkpoint after so long")
    pretrain.set_defaults(run=_pretrain)

    shrink = commands.add_parser("shrink", help="begin an ALBERT from a BERT's weights, for pretrain")
    shrink.add_argument("teacher", help="a BERT's Hugging Face folder")
    shrink.add_argument("output", type=Path, help="the ALBERT's folder, to be made")
    shrink.add_argument("corpus", nargs="+", help="text files to fit and measure on: plain, .gz or .xz")
    shrink.add_argument("--embedding-size", type=_count, default=128, help="of the word embeddings")
    shrink.add_argument("--layers", type=_count, default=0, help="times the one layer is applied; 0: the teacher's")
    shrink.set_defaults(run=_shrink)

    export = commands.add_parser("export", help="export a fine-tuned checkpoint to a bundle, through the gate")
    _add_checkpoint(export)
    export.add_argument("output", type=Path, metavar="bundle", help="the folder to write; its name is the model's name")
    export.add_argument(
        "--precision", action="append", choices=PRECISIONS, dest="precisions", default=[],
        help="a graph to keep; may be given again (fp32 and int8)",
    )  # fmt: skip
    export.add_argument(
        "--packed", action="store_true", help="beside each graph for GPUs (fp16, w8a16, fp32) one without padding"
    )
    export.add_argument(
        "--labels",
        type=_names,
        default=(),
        help="names of the labels in the order of their ids, comma-separated, or a file of one a line",
    )
    _add_multi_label(export)
    export.add_argument(
        "--activation", choices=("identity", "sigmoid"), default="",
        help="what the score of a model with one label goes through (as the checkpoint says, else a sigmoid)",
    )  # fmt: skip
    export.add_argument(
        "--markers", type=_names, default=None,
        help="the checkpoint's own special tokens that are no plain text where they stand in a text, comma-separated; "
        "'' for none (all)",
    )  # fmt: skip
    export.add_argument("--max-length", type=_count, default=0, help="longest row in tokens")
    export.add_argument("--doc-stride", type=_count, default=0, help="tokens that neighbouring windows share")
    export.add_argument(
        "--dev",
        action="append",
        default=[],
        help="a dev file to gate on (the recipe's), of which golden.json holds some texts; again for more",
    )
    _add_layout(export)
    export.add_argument("--dev-limit", type=_count, default=0, help="examples of each dev file, 0 for all")
    export.add_argument(
        "--gate-limit", type=_count, default=0, help="of those, examples to compare int8 with fp32 on, 0 for all"
    )
    export.add_argument(
        "--without-dev", action="store_true", help="leave out the recipe's dev files; the gate goes by own examples"
    )
    export.add_argument("--licence", default="", help="licence of the weights, for the card")
    export.add_argument("--base-model", default="", help="what was fine-tuned, for the card")
    export.set_defaults(run=_export)

    check = commands.add_parser(
        "check", help="say what a checkpoint is and whether it can be served; fetches no weights"
    )
    _add_checkpoint(check)
    check.add_argument(
        "--labels",
        type=_names,
        default=(),
        help="names of the labels in the order of their ids, comma-separated, or a file of one a line",
    )
    _add_multi_label(check)
    check.set_defaults(run=_check)

    doctor = commands.add_parser("doctor", help="say what this machine can do and what is wrong with what is installed")
    doctor.set_defaults(run=_doctor)

    restore = commands.add_parser("restore", help="a bundle back to a checkpoint, to fine-tune on or to teach with")
    restore.add_argument("bundle", type=Path)
    restore.add_argument("encoder", type=Path, help="what was fine-tuned: its config and tokenizer are taken")
    restore.add_argument("output", type=Path, help="the Hugging Face folder to write")
    restore.set_defaults(run=_restore)

    evaluate = commands.add_parser("evaluate", help="score a bundle as it is served")
    evaluate.add_argument("bundle", type=Path)
    evaluate.add_argument(
        "file",
        help="labelled data: SQuAD JSON, GLUE TSV, NLI JSONL or TSV, RACE, or a CSV, TSV or JSONL table; also .gz, .xz",
    )
    _add_layout(evaluate)
    evaluate.add_argument("--limit", type=_count, default=0, help="the first so many examples only")
    evaluate.add_argument("--predictions", type=Path, help="write them here; SQuAD's in the official layout")
    evaluate.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    evaluate.set_defaults(run=_evaluate)

    profile = commands.add_parser("profile", help="give a bundle the profile of a dev set, to tell drift by")
    profile.add_argument("bundle", type=Path)
    profile.add_argument("file", nargs="+", help="labelled data, as for evaluate; of export's dev files it has one")
    _add_layout(profile)
    profile.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    profile.set_defaults(run=_profile)

    golden = commands.add_parser("golden", help="give a bundle golden rows, which are tried before it serves")
    golden.add_argument("bundle", type=Path)
    golden.add_argument(
        "file", nargs="*",
        help="labelled data, as for evaluate, to take inputs from, which the bundle then holds; without, Bertie's own",
    )  # fmt: skip
    _add_layout(golden)
    golden.set_defaults(run=_golden)

    return parser


def _add_multi_label(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--multi-label", action="store_true", help="labels do not exclude one another (where the config does not say)"
    )


def _add_checkpoint(command: argparse.ArgumentParser) -> None:
    command.add_argument("checkpoint", help="a Hugging Face folder, or a repository's name on a hub (HF_ENDPOINT)")
    command.add_argument("--revision", default="", help="of the repository: a branch, a tag or a commit")


def _add_layout(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE",
        help="how data are laid out, where neither labels nor recipe say so: data, table.text and so on, as in recipes",
    )  # fmt: skip


def _layout(options: argparse.Namespace) -> dict[str, str]:
    from training.finetune import recipe

    return recipe.layout(options.set)


def _names(text: str) -> tuple[str, ...]:
    """Names with commas between them, or a file with one a line."""
    names = Path(text).read_text(encoding="utf-8").splitlines() if _is_file(text) else text.split(",")
    return tuple(name.strip() for name in names if name.strip())


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except OSError:  # longer than a file's name may be
        return False


def _count(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{number} is below 0")
    return number


def _given(options: argparse.Namespace) -> dict[str, Any]:
    """Return the options that a command's function takes by their names."""
    return {name: value for name, value in vars(options).items() if name not in ("run", "set")}


# torch takes seconds to import: a wrong option or recipe should not wait for it, so commands import what they need.


def _finetune(options: argparse.Namespace) -> None:
    from training.finetune import recipe

    teachers = [f"teacher={json.dumps(options.teacher)}"] if options.teacher else []
    loaded = recipe.load(options.recipe, [*options.set, *teachers])

    from training.finetune import runner as finetune

    metrics = finetune.run(loaded, resume=options.resume, allow_bad_data=options.allow_bad_data)
    _print_scores("dev", metrics["dev"])


def _average(options: argparse.Namespace) -> None:
    from training.checkpoints import average

    metrics = average.run(options.output, options.checkpoint, options.weights)
    for part in metrics["average"]:
        print(f"{part['share']:.4f}  {part['sha256'][:12]}  {part['checkpoint']}")


def _vocabulary(options: argparse.Namespace) -> None:
    from training.tokenizers import pieces

    count = pieces.learn(**_given(options))
    print(f"{options.output}: {count} pieces")


def _pretrain(options: argparse.Namespace) -> None:
    from training import recipe
    from training.pretrain.recipe import PretrainRecipe

    loaded = recipe.load_as(PretrainRecipe, options.recipe, options.set)

    from training.pretrain import trainer

    metrics = trainer.run(loaded, resume=options.resume, minutes=options.minutes)
    if int(os.environ.get("RANK", "0")) == 0:
        _print_scores("held-out", metrics["dev"][-1])


def _shrink(options: argparse.Namespace) -> None:
    from training.pretrain import shrink

    made = shrink.run(**_given(options))
    print(f"{options.output}: {made.parameters:,} parameters of {made.teacher_parameters:,}; layer: {made.layer}")
    print(json.dumps(dataclasses.asdict(made)))


def _export(options: argparse.Namespace) -> None:
    from training.export import runner as export

    options.precisions = tuple(dict.fromkeys(options.precisions)) or ("fp32", "int8")
    options.dev = tuple(options.dev)
    manifest = export.run(export.Request(**_given(options), layout=_layout(options)))
    print(f"{options.output}: {', '.join(graph.file for graph in manifest.graphs)}")
    print(json.dumps({graph.precision: graph.scores for graph in manifest.graphs}))


def _check(options: argparse.Namespace) -> None:
    from training.export import check

    report = check.run(**_given(options))
    _print_facts({"checkpoint": report.checkpoint, **report.facts})
    for note in report.notes:
        print(f"note: {note}")
    print(json.dumps(dataclasses.asdict(report), default=str, ensure_ascii=False))
    if report.problems:
        raise CheckpointError("it cannot be served as it is: " + "; ".join(report.problems))


def _doctor(options: argparse.Namespace) -> None:
    from training import doctor

    report = doctor.run()
    _print_facts(report.facts)
    for fault in report.faults:
        print(f"wrong: {fault}")
    print(json.dumps(dataclasses.asdict(report), ensure_ascii=False))
    if report.faults:
        raise TrainingError("; ".join(report.faults))


def _print_facts(facts: Mapping[str, str]) -> None:
    width = max(map(len, facts))
    for name, fact in facts.items():
        print(f"{name:<{width}}  {fact}")


def _restore(options: argparse.Namespace) -> None:
    from training.export import restore

    precision = restore.run(options.bundle, options.encoder, options.output)
    print(f"{options.output}: its weights are those of the {precision} graph")


def _evaluate(options: argparse.Namespace) -> None:
    from service.repository import bundle as bundles
    from training.evaluate import runner as evaluate

    bundle = bundles.load(options.bundle)
    if options.predictions and not options.predictions.parent.is_dir():
        raise DataError(f"{options.predictions.parent} is no folder")  # said now, not after the hour's work
    scores, predictions = evaluate.bundle(
        bundle, options.file, limit=options.limit, device=options.device, layout=_layout(options)
    )
    if options.predictions:
        options.predictions.write_text(json.dumps(predictions, ensure_ascii=False) + "\n", encoding="utf-8")
    _print_scores(f"{bundle.name} on {Path(options.file).name}", scores)


def _profile(options: argparse.Namespace) -> None:
    from training.evaluate import profile

    made = profile.add(options.bundle, options.file, layout=_layout(options), device=options.device)
    print(json.dumps(dataclasses.asdict(made)))


def _golden(options: argparse.Namespace) -> None:
    from training.export import golden

    made = golden.add(options.bundle, options.file, layout=_layout(options))
    print(f"{options.bundle}: {len(made.inputs)} inputs, expected in {', '.join(made.expected)}")


def _print_scores(title: str, scores: Mapping[str, Any]) -> None:
    """A table, and one for each further dev file, then the same as one JSON object on the last line."""
    shown = {name: value for name, value in scores.items() if name != "also"}
    width = max(map(len, shown))
    for heading, values in {title: shown, **scores.get("also", {})}.items():
        print(heading)
        for name, value in values.items():
            number = f"{value:>12.4f}" if isinstance(value, float) else f"{value:>7}"
            print(f"  {name:<{width}}  {number}")
    print(json.dumps(scores))


if __name__ == "__main__":
    sys.exit(main())
