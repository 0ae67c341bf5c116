"""An engine that throws, hangs or dies, and a batch with one guilty row. (8, 9)"""

from __future__ import annotations

import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench.chaos import raw
from bench.chaos.engine import GUILTY, Steer, faulty
from bench.chaos.raw import Reply
from bench.chaos.result import Result
from bench.chaos.target import Service, until

FAILURES = 5
"""Batches in a row that may fail before readiness goes off."""


def throwing(models: Path, *, patience: float = 20.0) -> Result:
    """The engine raises on every call, and later works again."""
    result = Result(
        8,
        "the engine throws on every call, then works again",
        f"500; not ready after {FAILURES} failures in a row; ready again by itself, without requests; live throughout",
    )
    with Steer() as steer, faulty(models, steer) as service:
        result.put("before", (_predict(service).status, service.ready()))
        steer.to("throw")
        statuses = [_predict(service).status for _ in range(FAILURES)]
        result.put("statuses", statuses)
        off = result.put("not ready after", until(lambda: service.ready() == 503, 3.0), "s")
        live = result.put("live", service.live())
        steer.to("ok")
        on = result.put(
            "ready again after", until(lambda: service.ready() == 200, patience) if off is not None else None
        )
        result.put("then", _predict(service).status)
    result.met = (
        set(statuses) <= {500, 503} and off is not None and live == 200 and on is not None and result["then"] == 200
    )
    return result


def hanging(models: Path, *, timeout_seconds: float = 2.0, patience: float = 30.0) -> Result:
    """Every call of the engine hangs, in each worker that takes the place of another; then it works again."""
    result = Result(
        8,
        f"every call of the engine hangs (deadline {timeout_seconds:g} s)",
        "504 by the deadline; not ready soon after; not live where new workers hang as well; others' probes answered; "
        "SIGTERM ends it",
    )
    with Steer() as steer, faulty(models, steer, timeout_seconds=str(timeout_seconds), drain_seconds="2") as service:
        _predict(service)
        steer.to("hang")
        reply = _predict(service)
        result.put("status", reply.status)
        result.put("answered after", reply.seconds, "s")
        off = result.put("not ready after", until(lambda: service.ready() == 503, timeout_seconds * 2 + 2), "s")
        dead = result.put("not live after", until(lambda: service.live() == 503, patience, 0.2), "s")
        result.put("workers lost", int(service.metric("bertie_workers_lost_total") or 0))
        status, took = service.ends(signal.SIGTERM, 15)
        result.put("SIGTERM: exit status", status)
        result.put("SIGTERM: took", took, "s")
    result.met = (
        reply.status == 504
        and reply.seconds <= timeout_seconds + 1
        and off is not None
        and dead is not None
        and status == 0
        and took <= 5
    )
    return result


def hanging_once(models: Path, *, timeout_seconds: float = 2.0, patience: float = 15.0) -> Result:
    """One call of the engine hangs for ever; the worker is replaced."""
    return _once(models, "hang-once", "one call of the engine hangs for ever", timeout_seconds, patience)


def dying_once(models: Path, *, timeout_seconds: float = 2.0, patience: float = 15.0) -> Result:
    """A worker dies of what no `except Exception` catches; it is replaced."""
    return _once(models, "die-once", "a worker's thread dies", timeout_seconds, patience)


def _once(models: Path, word: str, attack: str, timeout_seconds: float, patience: float) -> Result:
    result = Result(8, attack, "replaced and counted: the next requests are answered, ready again, live throughout")
    with Steer() as steer, faulty(models, steer, timeout_seconds=str(timeout_seconds)) as service:
        _predict(service)
        steer.to(word)
        result.put("status", _predict(service).status)
        again = result.put("answered again after", until(lambda: _predict(service).status == 200, patience), "s")
        ready = result.put("ready again after", until(lambda: service.ready() == 200, 5.0), "s")
        live = result.put("live", service.live())
        lost = result.put("workers lost", int(service.metric("bertie_workers_lost_total") or 0))
    result.met = (
        result["status"] in (500, 503, 504) and again is not None and ready is not None and live == 200 and lost >= 1
    )
    return result


def dying(models: Path, *, patience: float = 30.0) -> Result:
    """Every call kills its worker: replacing does not help."""
    result = Result(
        8,
        "every call kills its worker's thread",
        "not ready; replaced with back-off (≤ 30 in all); not live where that goes on; no request hangs",
    )
    statuses: list[int] = []
    with Steer() as steer, faulty(models, steer, timeout_seconds="3") as service:
        _predict(service)
        steer.to("die")

        def gone() -> bool:
            statuses.append(_predict(service).status)
            return service.live() == 503

        dead = result.put("not live after", until(gone, patience, 0.3), "s")
        ready = result.put("ready", service.ready())
        lost = result.put("workers lost", int(service.metric("bertie_workers_lost_total") or 0))
        result.put("statuses", sorted(set(statuses)))
    result.met = dead is not None and ready == 503 and 1 <= lost <= 30 and set(statuses) <= {500, 503, 504}
    return result


def guilty_row(models: Path, *, others: int = 15, seconds: float = 0.3) -> Result:
    """A batch fails because of one of its rows."""
    result = Result(9, f"a batch of {others + 1} rows fails because of one", "that one gets 500, the others 200")
    innocent, guilty = raw.dump({"text": "a good film"}), raw.dump({"text": f"a {GUILTY} film"})
    with Steer("guilty", seconds=seconds) as steer, faulty(models, steer) as service:
        with ThreadPoolExecutor(others + 2) as pool:
            first = pool.submit(raw.post, service.address, "/classify", innocent)
            time.sleep(0.15)  # the engine is busy: what comes now is one batch
            replies = list(
                pool.map(
                    lambda i: raw.post(
                        service.address, "/classify", guilty if i == others // 2 else innocent, timeout=30
                    ),
                    range(others + 1),
                )
            )
            first.result()
        result.put("the guilty one", replies.pop(others // 2).status)
        result.put("others answered", sum(reply.status == 200 for reply in replies))
        result.put("ready", service.ready())
        result.met = (
            result["the guilty one"] == 500 and all(r.status == 200 for r in replies) and result["ready"] == 200
        )
    return result


def _predict(service: Service) -> Reply:
    return raw.post(service.address, "/classify", {"text": "a good film"}, timeout=15)
