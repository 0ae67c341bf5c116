"""Probes beside a flood: does the orchestrator still see that the service lives? (3)"""

from __future__ import annotations

import itertools
import json
import time
from pathlib import Path

from bench import client, rows
from bench.chaos import crowd, raw
from bench.chaos.apart import Apart
from bench.chaos.raw import Asker
from bench.chaos.result import Result
from bench.chaos.target import Service, free_port


def texts(count: int, size: int) -> list[bytes]:
    """Requests of `size` sentences each."""
    sentences = itertools.cycle(rows.sentences())
    made = []
    for _ in range(count):
        some = [{"text": text} for text in itertools.islice(sentences, size)]
        made.append(client.request("http://bertie/classify", json.dumps({"inputs": some}).encode()))
    return made


def probes(models: Path, *, connections: int = 1000, size: int = 32, seconds: float = 10.0) -> Result:
    """A flood of bodies of many rows; liveness, readiness and metrics are asked for, each on a new connection."""
    result = Result(
        3,
        f"{connections} connections of {size}-row bodies; probes on new connections",
        "live, ready and metrics ≤ 250 ms at p99, all 200",
    )
    with Service(models, "sentiment", ops_port=str(free_port())) as service:
        result.put("port of their own", service.ops != service.address)
        paths = ("/health/live", "/health/ready", "/metrics")
        askers = [Asker(service.ops, raw.request(path), every=0.1, fresh=True) for path in paths]
        on_main_port = Asker(service.address, raw.request("/health/live"), every=0.25, fresh=True)
        with Apart(crowd.flood, service.address, texts(50, size), connections, seconds) as flood:
            time.sleep(1.5)  # it has begun
            with askers[0] as live, askers[1] as ready, askers[2] as metrics, on_main_port as main:
                time.sleep(seconds - 1.5)
            statuses = flood.result(30).statuses
        for name, asked in (("live", live), ("ready", ready), ("metrics", metrics)):
            result.put(f"{name}: good", asked.good)
            result.put(f"{name}: bad", len(asked.statuses) - asked.good)
            result.put(f"{name}: p99", asked.at(99) * 1e3, "ms")
            result.put(f"{name}: most", max(asked.seconds) * 1e3, "ms")
        result.put("live on the main port: p99", main.at(99) * 1e3, "ms")
        result.put("the flood got", [f"{count} x {status}" for status, count in sorted(statuses.items())])
        result.met = all(asked.good == len(asked.statuses) and asked.at(99) <= 0.25 for asked in (live, ready, metrics))
    return result
