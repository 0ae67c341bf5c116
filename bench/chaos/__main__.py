"""Run the attacks one by one and print what was measured beside what is wanted.

    python -m bench.chaos                     # all, on the bundles in models/
    python -m bench.chaos --only 1,5 --markdown

Each attack starts a service of its own on loopback and ends it. Exit status 1 where something wanted does not hold.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from bench.chaos.result import Result, line, table
from bench.chaos.roster import ATTACKS


def main(arguments: Sequence[str] | None = None) -> int:
    """Attacks and prints. Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=_numbers, default=(), metavar="N,N", help="these rows of the table alone")
    parser.add_argument("--models", type=Path, default=Path("models"), help="folder of the bundles (%(default)s)")
    parser.add_argument("--markdown", action="store_true", help="end with the table in Markdown")
    options = parser.parse_args(arguments)
    results = []
    began = time.perf_counter()
    for number, attack in ATTACKS:
        if options.only and number not in options.only:
            continue
        started = time.perf_counter()
        try:
            result = attack(options.models)
        except Exception as error:  # one attack that cannot be made never hides the others
            traceback.print_exc()
            result = Result(number, attack.__name__.replace("_", " "), "to be measured")
            result.put("broke", f"{type(error).__name__}: {error}")
        results.append(result)
        print(f"{line(result)}\n      took {time.perf_counter() - started:.1f} s", flush=True)
    if options.markdown:
        print(f"\n{table(results, markdown=True)}")
    met = sum(result.met for result in results)
    print(f"\n{met} of {len(results)} hold; {time.perf_counter() - began:.0f} s in all")
    return 0 if met == len(results) else 1


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(word) for word in text.split(","))


if __name__ == "__main__":
    sys.exit(main())
