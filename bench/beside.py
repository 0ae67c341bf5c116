"""What clients notice of what runs beside them: a shadow of all requests, and the answer cache.

    python -m bench.beside shadow    # at half of what the service can do: with a shadow of every request, and without
    python -m bench.beside cache     # two services, in turns: the same sentence again, half repeats, all new

Each ends with one JSON object. Ratios come from runs in turns, so what a noisy machine does it does to both.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import random
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import uvloop

from bench import client, command, rows, serving, swaps
from bench.load import Load
from bench.process import Server

HALF = 0.5
"""Of what the service can do, under the load with a shadow."""
CACHE_MB = "256"
SHARE = 0.5
"""Repeats among the requests of the mixed load."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print. Return the exit status."""
    parser = command.parser("bench.beside", __doc__)
    parser.add_argument("part", choices=["shadow", "cache"])
    parser.add_argument("--rounds", type=int, default=4, help="%(default)s")
    parser.add_argument("--seconds", type=float, default=6.0, help="of a load (%(default)s)")
    parser.add_argument("--connections", type=int, default=32, help="%(default)s")
    parser.add_argument("--bundle", type=Path, default=Path("models") / swaps.NAME, help="%(default)s")
    return command.run(parser, program, arguments)


def program(options: argparse.Namespace) -> int:
    """Measure and print. Return 1 where a request failed."""
    with tempfile.TemporaryDirectory(prefix="bench-beside-") as folder:
        swaps.make_versions(options.bundle, Path(folder))
        measured = _shadow if options.part == "shadow" else _cache
        failed, told = measured(Path(folder), options)
    print(json.dumps(told))
    return 1 if failed else 0


# ---- a shadow -------------------------------------------------------------------------------------------------------


def _shadow(folder: Path, options: argparse.Namespace) -> tuple[int, dict[str, Any]]:
    with serving.bertie(folder, BERTIE_ADMIN_KEY=swaps.KEY) as (_, url):
        feed = _requests(url, itertools.cycle(_texts(random.Random(0), 1000)))
        most = _closed(url, feed, options.connections, options.seconds)
        rate = HALF * most.answered / most.seconds
        alone: list[Load] = []
        beside: list[Load] = []
        compared = dropped = 0
        for number in range(options.rounds):
            for with_shadow in (False, True) if number % 2 else (True, False):
                if with_shadow:
                    asyncio.run(swaps.administer(url, "shadow", "no shadow", version=swaps.VERSIONS[0], percent=100))
                answers = uvloop.run(
                    client.opened(url, feed, rate=rate, seconds=options.seconds, connections=options.connections)
                )
                good = [answer.seconds for answer in answers if answer.ok]
                found = Load.of(good, errors=len(answers) - len(good), seconds=options.seconds)
                (beside if with_shadow else alone).append(found)
                if with_shadow:
                    snapshot = client.get(f"{url}/models/{swaps.NAME}/compare").json()
                    compared, dropped = compared + snapshot["compared"], dropped + snapshot["dropped"]
                    asyncio.run(swaps.administer(url, "end", "the shadow goes on"))
    told: dict[str, Any] = {"rate": rate, "compared": compared, "dropped": dropped}
    for name in ("p50", "p95", "p99"):
        without, with_it = (statistics.median(getattr(load, name) for load in loads) for loads in (alone, beside))
        told[name] = {"without": without, "with": with_it, "ratio": with_it / without}
    failed = sum(load.errors for load in (*alone, *beside))
    print(
        f"{rate:.0f} requests/s over {options.connections} connections, a shadow of all of them: "
        + "; ".join(
            f"{name} {1000 * told[name]['without']:.1f} ms without, {1000 * told[name]['with']:.1f} ms with: "
            f"{told[name]['ratio']:.2f}"
            for name in ("p50", "p95", "p99")
        )
        + f"; compared {compared}, dropped {dropped}; failed {failed}"
    )
    return failed, told


# ---- the cache ------------------------------------------------------------------------------------------------------


def _cache(folder: Path, options: argparse.Namespace) -> tuple[int, dict[str, Any]]:
    loads: dict[str, tuple[int, float]] = {
        "the same sentence": (1, 1.0),
        "half repeats": (options.connections, SHARE),
        "all new": (options.connections, 0.0),
    }
    found: dict[tuple[str, str], list[tuple[Load, float]]] = {}
    with ExitStack() as stack:
        services = {
            name: stack.enter_context(serving.bertie(folder, BERTIE_CACHE_MB=size))
            for name, size in (("off", "0"), ("on", CACHE_MB))
        }
        for number in range(options.rounds):
            for name, (connections, share) in loads.items():
                for which in ("off", "on") if number % 2 else ("on", "off"):
                    server, url = services[which]
                    texts = _mixed(random.Random(f"{number} {name}"), share)
                    found.setdefault((name, which), []).append(
                        _spent(server, url, _requests(url, texts), connections, options.seconds)
                    )
    told: dict[str, Any] = {}
    for name in loads:
        each = {}
        for which in services:
            runs = found[name, which]
            answered = sum(load.answered for load, _ in runs)
            each[which] = {
                "p50": statistics.median(load.p50 for load, _ in runs),
                "rate": answered / sum(load.seconds for load, _ in runs),
                "cpu": sum(spent for _, spent in runs) / answered,
            }
        told[name] = each
        off, on = each["off"], each["on"]
        print(
            f"{name}: p50 {1000 * off['p50']:.2f} ms off, {1000 * on['p50']:.2f} ms on; {off['rate']:.0f} and "
            f"{on['rate']:.0f} requests/s: {on['rate'] / off['rate']:.2f}; {1000 * off['cpu']:.2f} and "
            f"{1000 * on['cpu']:.2f} ms of the processor a request"
        )
    return sum(load.errors for runs in found.values() for load, _ in runs), told


def _spent(server: Server, url: str, feed: Iterator[bytes], connections: int, seconds: float) -> tuple[Load, float]:
    before = server.usage().cpu_seconds
    load = _closed(url, feed, connections, seconds)
    return load, server.usage().cpu_seconds - before


def _mixed(chance: random.Random, share: float) -> Iterator[str]:
    """Texts without end, a share of which has been asked before."""
    hot = _texts(random.Random(1), 1 if share == 1.0 else 64)
    while True:
        yield chance.choice(hot) if chance.random() < share else _texts(chance, 1)[0]


# ---- loads ----------------------------------------------------------------------------------------------------------


def _texts(chance: random.Random, count: int) -> list[str]:
    words = " ".join(rows.sentences()).split()
    return [" ".join(chance.choices(words, k=chance.randint(8, 24))) for _ in range(count)]


def _requests(url: str, texts: Iterator[str]) -> Iterator[bytes]:
    return (client.request(f"{url}/classify", json.dumps({"text": text}).encode()) for text in texts)


def _closed(url: str, feed: Iterator[bytes], connections: int, seconds: float) -> Load:
    answers = uvloop.run(client.closed(url, feed, connections=connections, seconds=seconds))
    good = [answer.seconds for answer in answers if answer.ok]
    return Load.of(good, errors=len(answers) - len(good), seconds=seconds)


if __name__ == "__main__":
    sys.exit(main())
