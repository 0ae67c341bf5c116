"""How many machines a load takes, what they cost, and what a crowd or a lost node does to them.

    python -m bench.capacity measure                   # unit costs of this machine: a quiet machine
    python -m bench.capacity check                     # the simulation beside the real service, on the same loads
    python -m bench.capacity plan                      # machines, money, a flash crowd, a lost node: some minutes
    python -m bench.capacity plan --fill docs/capacity.md     # and write the tables there; so does check
    python -m bench.capacity plan --rates 300 --mix sentiment:16=3,nli:64=1 --use 0.5

`measure` writes runs/capacity.json, which the others read. A mix is MODEL:TOKENS=WEIGHT, ...: rows of so many tokens, a
row a request. Prices are assumptions: give those of your provider.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from bench import command
from bench.capacity import check, measure, plan
from bench.capacity.costs import Costs
from bench.capacity.quiet import Quiet
from bench.capacity.traffic import Mix
from bench.command import amount, some_words
from bench.errors import BenchError
from bench.report.table import Table, fill

MIX = "sentiment:16=4,sentiment:32=4,sentiment:64=2"
RATES = "1000,100000,1000000"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, check or plan. Return the exit status."""
    parser = command.parser("bench.capacity", __doc__)
    parser.add_argument("step", choices=("measure", "check", "plan"))
    parser.add_argument("--costs", type=Path, default=Path("runs/capacity.json"), help="the unit costs (%(default)s)")
    parser.add_argument("--models", type=Path, default=Path("models"), help="folder of the bundles")
    parser.add_argument(
        "--names", type=some_words, default=("sentiment", "nli", "qa"),
        help="bundles, the first a classifier of single texts (sentiment,nli,qa)",
    )  # fmt: skip
    parser.add_argument("--seconds", type=amount, default=10.0, help="of each load on the service (%(default)s)")
    parser.add_argument("--rounds", type=command.count, default=3, help="of the check (%(default)s)")
    parser.add_argument(
        "--quiet", type=amount, default=1.0, metavar="SHARE",
        help="measure again what other programs took more than this share of the cores from (%(default)s)",
    )  # fmt: skip
    parser.add_argument("--patience", type=amount, default=600.0, help="seconds to wait for it (%(default)s)")
    parser.add_argument("--mix", default=MIX, help=f"models and lengths ({MIX})")
    parser.add_argument("--rates", type=some_words, default=some_words(RATES), help=f"rows a second ({RATES})")
    parser.add_argument("--use", type=amount, default=0.6, help="of a replica's peak, the usual load (%(default)s)")
    parser.add_argument(
        "--replicas", type=command.count, default=3, help="of the slice that is simulated (%(default)s)"
    )
    parser.add_argument(
        "--span", type=amount, default=360.0, help="seconds of a flash crowd's coming and going (%(default)s)"
    )
    parser.add_argument("--times", type=amount, default=10.0, help="the usual load, of a flash crowd (%(default)s)")
    parser.add_argument("--fill", type=Path, metavar="FILE.md", help="put the tables between the markers of this file")
    defaults = plan.Prices()
    parser.add_argument("--core-hour", type=amount, default=defaults.core_hour, help="US$ (%(default)s, assumed)")
    parser.add_argument("--machine-cores", type=command.count, default=defaults.machine_cores, help="(%(default)s)")
    return command.run(parser, program, arguments)


def program(options: argparse.Namespace) -> int:
    """Do the step that is asked for."""
    quiet = Quiet(options.quiet, options.patience)
    if options.step == "measure":
        found = measure.measure(options.models, options.names, seconds=options.seconds, quiet=quiet)
        found.save(options.costs)
        print(json.dumps(asdict(found)))
        return 0
    costs = Costs.load(options.costs)
    if options.step == "check":
        rounds = options.rounds
        pairs = check.check(
            costs, options.models, options.names[0], seconds=options.seconds, rounds=rounds, quiet=quiet
        )
        return _show(options, check.table(pairs, seconds=options.seconds, rounds=rounds, quiet=quiet))
    mix = Mix.of(options.mix)
    if missing := {model for model, _ in mix.shares} - costs.models.keys():
        raise BenchError(f"{options.costs} has no costs of {', '.join(sorted(missing))}")
    try:
        rates = [amount(rate) for rate in options.rates]
    except argparse.ArgumentTypeError as error:
        raise BenchError(f"--rates: {error}") from None
    prices = plan.Prices(core_hour=options.core_hour, machine_cores=options.machine_cores)
    peak = plan.peak(costs, mix)
    chosen = plan.scenarios(mix, peak, use=options.use, times=options.times, seconds=options.span)
    return _show(
        options,
        plan.units(costs),
        plan.sizes(costs, mix, peak, rates, prices, use=options.use),
        plan.outcomes(costs, chosen, prices),
    )


def _show(options: argparse.Namespace, *tables: Table) -> int:
    """Print tables, and put them into the page that is to be filled."""
    print("\n\n".join(table.text() for table in tables))
    if options.fill:
        fill(options.fill, tables, marker="capacity")
    return 0


if __name__ == "__main__":
    sys.exit(main())
