"""The command line: `python -m training COMMAND`."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from training.errors import TrainingError


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; errors that a person can mend are printed without a traceback, with exit status 1."""
    parser = argparse.ArgumentParser(prog="bertie-train", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    finetune = commands.add_parser("finetune", help="fine-tune an encoder by a recipe")
    finetune.add_argument("recipe", type=Path, help="a TOML file; see training/recipes/")
    finetune.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="replace a recipe's value")
    finetune.add_argument("--resume", action="store_true", help="continue from the last checkpoint in the output")
    finetune.add_argument("--allow-bad-data", action="store_true", help="go on without the bad records")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    try:
        return _COMMANDS[options.command](options)
    except TrainingError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _finetune(options: argparse.Namespace) -> int:
    from training import finetune, recipe  # torch takes seconds to import: a wrong recipe should not wait for it

    metrics = finetune.run(
        recipe.load(options.recipe, options.set), resume=options.resume, allow_bad_data=options.allow_bad_data
    )
    print(json.dumps(metrics["dev"]))
    return 0


_COMMANDS = {"finetune": _finetune}

if __name__ == "__main__":
    sys.exit(main())
