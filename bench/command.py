"""What the programs of bench/ share on the command line: the kinds of their options, and errors as one line.

Knows nothing of what a program measures.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import math
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import NoReturn

from bench.errors import BenchError
from service.errors import BertieError
from training.errors import TrainingError

Program = Callable[[argparse.Namespace], int]


def parser(name: str, description: str | None) -> argparse.ArgumentParser:
    """Make a parser that shows `description` as it is written."""
    return argparse.ArgumentParser(
        prog=f"python -m {name}", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def run(options: argparse.ArgumentParser, program: Program, arguments: Sequence[str] | None) -> int:
    """Run `program` and return its exit status. An error that a person can mend is one line, and status 1."""
    given = options.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    try:
        with _unwound_by_sigterm():
            return program(given)
    except (BenchError, TrainingError, BertieError, OSError) as error:
        print(f"error: {getattr(error, 'detail', error)}", file=sys.stderr)
        return 1


def words(text: str) -> tuple[str, ...]:
    """Read comma-separated words, each once."""
    return tuple(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))


def some_words(text: str) -> tuple[str, ...]:
    """Read comma-separated words, at least one."""
    if not (found := words(text)):
        raise argparse.ArgumentTypeError("names nothing")
    return found


def count(text: str) -> int:
    """Read a whole number above 0."""
    if not (text.isdecimal() and int(text)):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)


def counts(text: str) -> tuple[int, ...]:
    """Read comma-separated whole numbers above 0, at least one."""
    return tuple(count(word) for word in some_words(text))


def amount(text: str) -> float:
    """Read a number above 0."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return number


@contextlib.contextmanager
def _unwound_by_sigterm() -> Iterator[None]:
    """End the program by an exception on SIGTERM, so that servers, child processes and temporary folders go with it."""

    def stop(number: int, frame: object) -> NoReturn:
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
