"""A log that nobody reads: stderr is a pipe whose reader hangs. (6)"""

from __future__ import annotations

import signal
import time
from pathlib import Path

from bench.chaos import raw
from bench.chaos.raw import Peer
from bench.chaos.result import Result
from bench.chaos.target import Service


def unread_log(models: Path, *, requests: int = 6000, drain_seconds: float = 5.0) -> Result:
    """Thousands of requests, a line of the log each, while nobody reads them; then SIGTERM.

    One in ten is a prediction, the others ask for what does not exist: that costs less and is logged as well.
    """
    result = Result(
        6,
        f"stderr is a pipe whose reader hangs; {requests} requests",
        "all answered; lines dropped and counted (bertie_log_dropped_total); SIGTERM: exit 0 within the drain",
    )
    prediction = raw.request("/classify", raw.dump({"text": "a good film"}))
    nothing = raw.request("/nothing")
    with Service(
        models, "sentiment", read=False, workers="1", drain_seconds=str(drain_seconds), log_level="info"
    ) as service:
        answered, began = 0, time.perf_counter()
        with Peer(service.address) as peer:
            for i in range(requests):
                data, status = (nothing, 404) if i % 10 else (prediction, 200)
                peer.send(data)
                if peer.reply(5.0).status != status:
                    break
                answered += 1
        result.put("answered", answered)
        result.put("a second", answered / (time.perf_counter() - began))
        result.put("lines dropped", int(service.metric("bertie_log_dropped_total") or 0))
        ended, took = service.ends(signal.SIGTERM, drain_seconds + 5)
        result.put("SIGTERM: exit status", ended)
        result.put("SIGTERM: took", took, "s")
        result.met = answered == requests and result["lines dropped"] > 0 and ended == 0 and took <= drain_seconds
    return result
