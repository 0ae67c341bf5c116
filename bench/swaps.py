"""Versions swapped under full load: does a request fail, do answers of two versions mix, what do clients wait, and does
memory grow?

    python -m bench.swaps                     # three rounds of 20 swaps under 32 connections, then 50 swaps for memory
    python -m bench.swaps --rounds 1          # a look

Two versions of a bundle in a folder of their own, the second with another temperature, so that an answer tells which
gave it. None stays loaded that does not answer: each swap loads one from disk. Each round first loads the service
without swaps, for as long as the swaps of the round before took. Ends with one JSON object; exit status 1 where a
request failed, answers mixed, or a wanted figure was missed.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import uvloop

from bench import client, command, rows, serving
from bench.client import Answer
from bench.errors import BenchError
from bench.load import Load
from bench.process import Server
from service.repository.manifest import MANIFEST
from service.repository.plan import PLAN

KEY = "the-administrators-key"
NAME = "sentiment"
VERSIONS = ("1", "2")
FIRST_SECONDS = 15.0
"""How long the load without swaps lasts in the first round."""
P99_RATIO, GROWTH = 1.5, 0.05
"""What is wanted: the 99th percentile with swaps over that without; memory after the last swap over the second's."""
SETTLE_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Round:
    """A load without swaps and one with them.

    Attributes:
        seconds: of each swap.
        mixed: answers that are not their version's.
        versions: how many answers each version gave while they were swapped.
    """

    quiet: Load
    swapped: Load
    seconds: tuple[float, ...]
    mixed: int
    versions: dict[str, int]

    @property
    def ratio(self) -> float:
        """The 99th percentile with swaps over the one without."""
        return self.swapped.p99 / self.quiet.p99


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print. Return the exit status."""
    parser = command.parser("bench.swaps", __doc__)
    parser.add_argument("--rounds", type=int, default=3, help="%(default)s")
    parser.add_argument("--swaps", type=int, default=20, help="of a round (%(default)s)")
    parser.add_argument("--memory-swaps", type=int, default=50, help="%(default)s")
    parser.add_argument("--connections", type=int, default=32, help="%(default)s")
    parser.add_argument("--bundle", type=Path, default=Path("models") / NAME, help="%(default)s")
    return command.run(parser, program, arguments)


def program(options: argparse.Namespace) -> int:
    """Measure and print. Return 1 where something is not as wanted."""
    with tempfile.TemporaryDirectory(prefix="bench-swaps-") as folder:
        make_versions(options.bundle, Path(folder))
        with serving.bertie(Path(folder), BERTIE_ADMIN_KEY=KEY) as (server, url):
            expected = uvloop.run(_scores(url))
            rounds, seconds = [], FIRST_SECONDS
            order = itertools.cycle(VERSIONS[::-1])  # the first one serves now
            for number in range(options.rounds):
                found = uvloop.run(
                    _round(url, expected, options.connections, list(itertools.islice(order, options.swaps)), seconds)
                )
                rounds.append(found)
                seconds = sum(found.seconds)
                print(_line(number + 1, found))
            memory = uvloop.run(_memory(server, url, list(itertools.islice(order, options.memory_swaps))))
    ratio = statistics.median(found.ratio for found in rounds)
    failed = sum(found.swapped.errors + found.quiet.errors for found in rounds)
    mixed = sum(found.mixed for found in rounds)
    growth = max(memory[-3:]) / memory[1] - 1
    print(
        f"p99 with swaps over without {ratio:.2f} (wanted <= {P99_RATIO:g}); failed {failed}, mixed {mixed} (wanted "
        f"0); resident {memory[1] / 1e6:.1f} MB after 2 swaps, {memory[-1] / 1e6:.1f} MB after {len(memory)}: "
        f"{growth:+.1%} (wanted <= {GROWTH:.0%})"
    )
    print(json.dumps({"rounds": [asdict(found) for found in rounds], "resident": memory, "ratio": ratio}))
    return 0 if ratio <= P99_RATIO and growth <= GROWTH and not failed and not mixed else 1


def _line(number: int, found: Round) -> str:
    quiet, swapped, taken = found.quiet, found.swapped, found.seconds
    return (
        f"round {number}: {len(taken)} swaps in {sum(taken):.1f} s, one {statistics.median(taken):.2f} s, at most "
        f"{max(taken):.2f} s; p99 {quiet.p99 * 1000:.1f} ms without, {swapped.p99 * 1000:.1f} ms with: "
        f"{found.ratio:.2f}; p50 {quiet.p50 * 1000:.1f} and {swapped.p50 * 1000:.1f} ms; failed {swapped.errors} of "
        f"{swapped.answered + swapped.errors}, mixed {found.mixed}"
    )


def make_versions(bundle: Path, folder: Path) -> None:
    """Make a folder of models with two versions of a bundle, the second with half the temperature.

    Raises:
        BenchError: it is no bundle for sentences by themselves.
    """
    if not (bundle / MANIFEST).is_file():
        raise BenchError(f"there is no bundle in {str(bundle)!r}")
    for version in VERSIONS:
        shutil.copytree(bundle, folder / NAME / version)
        path = folder / NAME / version / MANIFEST
        manifest = json.loads(path.read_text(encoding="utf-8"))
        manifest["name"] = NAME
        if version == VERSIONS[1]:
            manifest["temperature"] = manifest.get("temperature", 1.0) / 2
            manifest["files"].pop("golden.json", None)  # they are of the other temperature
        path.write_text(json.dumps(manifest), encoding="utf-8")
    (folder / NAME / PLAN).write_text(json.dumps({"warm": 0}), encoding="utf-8")


def _bodies() -> list[bytes]:
    """Requests of the same sentence twice: were they answered by two versions, their scores would differ."""
    return [json.dumps({"inputs": [{"text": text}, {"text": text}]}).encode() for text in rows.sentences()[:200]]


async def _scores(url: str) -> dict[bytes, dict[str, float]]:
    """Get what each version answers to each request, which no other request changes."""
    found: dict[bytes, dict[str, float]] = {body: {} for body in _bodies()}
    for version in VERSIONS[::-1]:  # the last in order serves first
        if version != VERSIONS[-1]:
            await _promote(url, version)
        answers = await client.closed(
            url, [client.request(f"{url}/classify", body) for body in found], connections=1, seconds=60.0
        )
        for body, answer in zip(found, answers, strict=True):
            if not answer.ok or answer.version != version:
                raise BenchError(f"version {version} does not answer: {answer.status} {answer.body[:200]!r}")
            found[body][version] = answer.json()["results"][0]["score"]
    return found


async def _round(
    url: str, expected: dict[bytes, dict[str, float]], connections: int, swaps: Sequence[str], seconds: float
) -> Round:
    bodies = list(expected)
    quiet, _ = await _load(url, bodies, connections, asyncio.sleep(seconds))
    taken: list[float] = []

    async def swap() -> None:
        for version in swaps:
            began = time.perf_counter()
            await _promote(url, version)
            taken.append(time.perf_counter() - began)

    swapped, answers = await _load(url, bodies, connections, swap())
    mixed, versions = 0, dict.fromkeys(VERSIONS, 0)
    for body, answer in answers:
        if answer.ok:
            versions[answer.version] = versions.get(answer.version, 0) + 1
            scores = {result["score"] for result in answer.json()["results"]}
            mixed += scores != {expected[body].get(answer.version)}
    return Round(quiet, swapped, tuple(taken), mixed, versions)


async def _load(
    url: str, bodies: Sequence[bytes], connections: int, meanwhile: Any
) -> tuple[Load, list[tuple[bytes, Answer]]]:
    """Make load by so many clients until `meanwhile` is done."""
    done = asyncio.ensure_future(meanwhile)
    feed, answers = itertools.cycle(bodies), []
    requests = {body: client.request(f"{url}/classify", body) for body in bodies}

    async def one() -> None:
        connection = client.Connection(url)
        while not done.done():
            body = next(feed)
            answers.append((body, await connection.send(requests[body])))
        connection.close()

    began = time.perf_counter()
    await asyncio.gather(*(one() for _ in range(connections)))
    done.result()
    good = [answer.seconds for _, answer in answers if answer.ok]
    return Load.of(good, errors=len(answers) - len(good), seconds=time.perf_counter() - began), answers


async def _memory(server: Server, url: str, swaps: Sequence[str]) -> list[int]:
    """Swap again and again, and get what is resident after each swap, with a few answers given and the old one gone."""
    resident = []
    requests = [client.request(f"{url}/classify", body) for body in _bodies()[:50]]
    for number, version in enumerate(swaps):
        await _promote(url, version)
        await client.closed(url, requests, connections=8)
        await asyncio.sleep(SETTLE_SECONDS if number in (1, len(swaps) - 1) else 0.3)
        resident.append(server.usage().rss)
    return resident


async def _promote(url: str, version: str) -> None:
    await administer(url, "promote", f"version {version} was not promoted", version=version)


async def administer(url: str, action: str, otherwise: str, **body: Any) -> None:
    """Have the service take a step of a rollout. Raises BenchError, with what to say, where it does not."""
    path, content = f"{url}/admin/models/{NAME}/{action}", json.dumps(body).encode()
    [answer] = await client.closed(url, [client.request(path, content, KEY)], connections=1)
    if answer.status != 200:
        raise BenchError(f"{otherwise}: {answer.status} {answer.body[:300]!r}")


if __name__ == "__main__":
    sys.exit(main())
