"""Keys: does one key's flood keep another waiting, and what does the gate take for a key?

    python -m bench.keys                       # both parts, the bundles in models/
    python -m bench.keys --part fairness --rows 1,64 --connections 32,256 --share 1

*Fairness*: the key `steady` asks for one sentence every 50 ms on one connection, alone and beside the key `flood`. Each
of the flood's connections sends its next request as soon as it has an answer, whatever it says. p95 of `steady` with
and without, in alternation; wanted is at most 1.5 times its value alone. `--share` is what the flood's key may hold.

*Cost*: what `Gate.admit` takes of the event loop, in this process: without keys, and with.

The load generator shares the cores with the service. Ends with one JSON object.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from bench import command, rows
from bench.chaos import crowd, raw
from bench.chaos.apart import Apart
from bench.chaos.target import Service
from bench.command import counts
from bench.load import percentile
from service import protocols
from service.http.context import PERMIT, Recorder
from service.http.endpoints import Endpoints
from service.http.gate import Gate
from service.keys import entries
from service.metrics import Metrics
from service.scheduler.permits import Permits
from service.settings import Settings

WANTED = 1.5
EVERY = 0.05
WARM_UP = 1.0
"""Seconds of a flood before it counts."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print. Return the exit status."""
    parser = command.parser("bench.keys", __doc__)
    parser.add_argument("--part", choices=("fairness", "cost", "all"), default="all")
    parser.add_argument("--models", type=Path, default=Path("models"), help="folder of the bundles")
    parser.add_argument("--rows", type=counts, default=(1, 64), metavar="N,N", help="of a request in a flood; 1,64")
    parser.add_argument("--connections", type=counts, default=(32, 256), metavar="N,N", help="of a flood; 32,256")
    parser.add_argument(
        "--share", type=float, default=0.5, help="of queue and workers, for the flood's key (%(default)s)"
    )
    parser.add_argument("--seconds", type=float, default=5.0, help="of each side of a round (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="with and without the flood (%(default)s)")
    return command.run(parser, program, arguments)


def program(options: argparse.Namespace) -> int:
    """Measure the parts that are asked for and print them."""
    found: dict[str, Any] = {}
    if options.part in ("fairness", "all"):
        sides = found["fairness"] = []
        for size, connections in itertools.product(options.rows, options.connections):
            beside = fairness(options, size, connections)
            print(beside.words(), flush=True)
            sides.append(asdict(beside))
    if options.part in ("cost", "all"):
        found["cost"] = cost()
        for name, seconds in found["cost"].items():
            print(f"{name:40} {seconds * 1e6:7.2f} µs")
    print(json.dumps(found))
    return 0


@dataclass(frozen=True, slots=True)
class Beside:
    """What a key's flood does to another's requests.

    Attributes:
        rows, connections: of the flood.
        p50_alone, p95_alone, p50_beside, p95_beside: seconds of the other key's answers.
        unanswered: requests of it that got no 200.
        flood: answers to the flood, by status.
    """

    rows: int
    connections: int
    p50_alone: float
    p95_alone: float
    p50_beside: float
    p95_beside: float
    unanswered: int
    flood: dict[int, int]

    @property
    def ratio(self) -> float:
        """p95 beside the flood over that without."""
        return self.p95_beside / self.p95_alone

    def words(self) -> str:
        """Describe it in a line."""
        got = ", ".join(f"{count} x {status}" for status, count in sorted(self.flood.items()))
        return (
            f"{self.connections} connections of {self.rows} rows: p50 {self.p50_alone * 1e3:.1f} ms alone, "
            f"{self.p50_beside * 1e3:.1f} beside; p95 {self.p95_alone * 1e3:.1f} alone, {self.p95_beside * 1e3:.1f} "
            f"beside, {self.ratio:.2f} x (wanted ≤ {WANTED} x); {self.unanswered} unanswered; the flood got {got}"
        )


def fairness(options: argparse.Namespace, size: int, connections: int) -> Beside:
    """Ask with one key, alone and beside another's flood, in alternation."""
    steady, flood = entries.new_token(), entries.new_token()
    keys = _entry("steady", steady) + _entry("flood", flood, f"share = {options.share}")
    alone: list[float] = []
    beside: list[float] = []
    unanswered, got = 0, Counter[int]()
    with Service(options.models, "sentiment", keys=keys) as service:
        question, bodies = _requests(steady, 1, 1)[0], _requests(flood, 50, size)
        raw.asking(service.address, question, seconds=WARM_UP)
        for _ in range(options.rounds):
            calm = raw.asking(service.address, question, seconds=options.seconds, every=EVERY)
            with Apart(crowd.flood, service.address, bodies, connections, options.seconds + WARM_UP) as sent:
                time.sleep(WARM_UP)
                beset = raw.asking(service.address, question, seconds=options.seconds, every=EVERY)
                got += sent.result(60).statuses
            alone += calm.seconds
            beside += beset.seconds
            unanswered += len(calm.statuses) - calm.good + len(beset.statuses) - beset.good
    (p50_alone, p95_alone), (p50_beside, p95_beside) = (
        (percentile(side, 50), percentile(side, 95)) for side in (alone, beside)
    )
    return Beside(size, connections, p50_alone, p95_alone, p50_beside, p95_beside, unanswered, dict(got))


def cost(times: int = 2000, rounds: int = 25) -> dict[str, float]:
    """Measure the seconds that the gate takes for a request: medians of `rounds` of so many `times`, in alternation."""
    token = entries.new_token()
    many = "".join(_entry(f"team-{i}", f"token {i}") for i in range(1000))
    limits = "requests_per_second = 1e8\ntokens_per_second = 1e9\nshare = 0.9"
    cases = {
        "without keys": _gate({}, token),
        "one plain token": _gate({"api_keys": token}, token),
        "1001 named keys, none limited": _gate({"keys": many + _entry("one", token)}, token),
        "1001 named keys, this one limited": _gate({"keys": many + _entry("one", token, limits)}, token),
    }
    found: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(rounds):
        for name, admit in cases.items():
            began = time.process_time()  # whoever else uses the cores
            for _ in range(times):
                next(admit)
            found[name].append((time.process_time() - began) / times)
    return {name: statistics.median(seconds) for name, seconds in found.items()}


def _gate(settings: dict[str, Any], token: str) -> Iterator[None]:
    """Admit a request and give its permit back, over and over."""
    made = Settings(**settings)
    endpoints = Endpoints()
    endpoints.add(protocols.endpoints(made))
    gate = Gate(made, Recorder(Metrics()), endpoints)
    gate.keys.load()
    permits = Permits(made.max_requests, made.max_queue_tokens, lambda: 0.0)
    gate.predictor = SimpleNamespace(permits=permits, check_open=lambda: None)  # type: ignore[assignment]
    found = endpoints.find("POST", "/classify")
    assert found
    named = {"content-type": "application/json", "content-length": "60", "authorization": f"Bearer {token}"}
    headers = [(name.encode(), value.encode()) for name, value in named.items()]
    while True:
        scope: dict[str, Any] = {"headers": headers, "client": ("127.0.0.1", 1)}
        gate.admit(scope, found[0])
        scope[PERMIT].release()
        yield


def _entry(name: str, token: str, more: str = "") -> str:
    return f'[[key]]\nname = "{name}"\nhashes = ["{entries.written(token)}"]\n{more}\n'


def _requests(token: str, count: int, size: int) -> list[bytes]:
    """Requests of `size` sentences each."""
    sentences, made = itertools.cycle(rows.sentences()), []
    for _ in range(count):
        some = [{"text": text} for text in itertools.islice(sentences, size)]
        body = raw.dump(some[0] if size == 1 else {"inputs": some})
        made.append(raw.request("/classify", body, headers={"Authorization": f"Bearer {token}"}))
    return made


if __name__ == "__main__":
    sys.exit(main())
