"""Attacks by heads: endless ones, slow ones, silence; and slow bodies. (1, 7)"""

from __future__ import annotations

import contextlib
import itertools
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from bench.chaos import crowd, raw
from bench.chaos.apart import Apart
from bench.chaos.raw import Asker, Peer, Reply
from bench.chaos.result import Result
from bench.chaos.target import MB, Service, until

START = b"POST /classify HTTP/1.1\r\nHost: bertie\r\n"
KEY = {"Authorization": "Bearer chaos"}
CHUNKED = START + b"Authorization: Bearer chaos\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
"""A body is read of who has a key alone."""
HEAD_BYTES = 65536
HEAD_LINES = 100
PIPELINED = 32
"""Requests that may be sent before the first is answered; the service closes on more than it bounds."""
SIZES = (10, 3000, 30_000)
"""Bytes of the heads that are sent so."""
LINGER_SECONDS = 6.0
"""So long a connection may outlive its answer: what the client still sends is thrown away, so that it can read that."""


def _lines(size: int) -> Iterator[bytes]:
    yield START
    many = b"".join(b"X-%d: %s\r\n" % (i, b"a" * 90) for i in range(600))
    for _ in range(size // len(many)):
        yield many


def _value(size: int) -> Iterator[bytes]:
    yield START + b"X-Endless: "
    yield from itertools.repeat(b"a" * 65536, size // 65536)


def _target(size: int) -> Iterator[bytes]:
    yield b"GET /"
    yield from itertools.repeat(b"a" * 65536, size // 65536)


def _trailer(size: int) -> Iterator[bytes]:
    """A body in chunks, and after its end the lines that may follow one: the parser takes them for a head's."""
    yield CHUNKED
    yield b'16\r\n{"text":"a good film"}\r\n0\r\nX-Endless: '
    yield from itertools.repeat(b"a" * 65536, size // 65536)


def _extension(size: int) -> Iterator[bytes]:
    """A body in chunks, the first of which has an endless extension beside its length."""
    yield CHUNKED + b"16;"
    yield from itertools.repeat(b"a" * 65536, size // 65536)


Kinds = Mapping[str, Callable[[int], Iterator[bytes]]]
HEADS: Kinds = {"lines": _lines, "value": _value, "target": _target}
TRAILERS: Kinds = {"trailer": _trailer, "extension": _extension}


def endless_heads(models: Path, *, size: int = 60_000_000, seconds: float = 5.0, peers: int = 2) -> Result:
    """Heads without end, of each kind from `peers` connections, with a key set and none given; others beside them."""
    result = Result(
        1,
        "endless request heads, keys set and none given",
        f"431 and closed at {HEAD_BYTES // 1024} KB or {HEAD_LINES} lines; RSS ≤ +100 MB; others' p99 ≤ 2 x",
    )
    with Service(models, "sentiment", api_keys="chaos", workers="1") as service:
        harmless = _pour(result, service, HEADS, size, seconds, peers)
        over = raw.request("/health/live", headers={"X-Long": "a" * HEAD_BYTES})
        many = raw.request("/health/live", headers={f"X-{i}": "a" for i in range(HEAD_LINES + 1)})
        for name, data in (("64 KB in one head", over), ("101 lines", many)):
            with Peer(service.address) as peer:
                peer.send(data)
                result.put(f"{name}: status", peer.reply().status)
                result.put(f"{name}: closed", peer.closed_within(2.0) is not None)
    result.met = (
        harmless
        and all(result[f"{kind}: taken at most"] <= 16 for kind in HEADS)
        and result["64 KB in one head: status"] == result["101 lines: status"] == 431
        and result["64 KB in one head: closed"]
        and result["101 lines: closed"]
    )
    return result


def endless_trailers(models: Path, *, size: int = 60_000_000, seconds: float = 6.0, peers: int = 2) -> Result:
    """What resembles a head, in a body of chunks: a trailer, and a chunk's extension. From who has a key."""
    result = Result(
        1,
        f"a body of chunks with an endless trailer, or an endless extension of a chunk (deadline {seconds / 2:g} s)",
        "closed by the deadline; RSS ≤ +100 MB; others' p99 ≤ 2 x",
    )
    with Service(models, "sentiment", api_keys="chaos", workers="1", timeout_seconds=str(seconds / 2)) as service:
        result.met = _pour(result, service, TRAILERS, size, seconds, peers)
    return result


def _pour(result: Result, service: Service, kinds: Kinds, size: int, seconds: float, peers: int) -> bool:
    """Pours all kinds at once. Returns whether all were closed and nobody was harmed."""
    question = raw.request("/classify", raw.dump({"text": "a good film"}), headers=KEY)
    alone = raw.asking(service.address, question, seconds=min(2.0, seconds))
    before = service.forget_peak()
    found: dict[str, list[tuple[int, Reply]]] = {kind: [] for kind in kinds}

    def pour(kind: str) -> None:
        try:
            with Peer(service.address) as peer:
                found[kind].append(peer.pour(kinds[kind](size), seconds=seconds))
        except OSError:
            found[kind].append((0, Reply()))

    threads = [threading.Thread(target=pour, args=(kind,)) for kind in kinds for _ in range(peers)]
    with Asker(service.address, question) as beside:
        for thread in threads:
            thread.start()
        time.sleep(seconds)
        for thread in threads:
            thread.join()
    result.put("RSS grown by", (service.peak() - before) / MB, "MB")
    result.put("others' answers", beside.good)
    result.put("others unanswered", len(beside.statuses) - beside.good)
    result.put("others' p99 alone", alone.at(99) * 1e3, "ms")
    result.put("others' p99 beside", beside.at(99) * 1e3, "ms")
    for kind, outcomes in found.items():
        result.put(f"{kind}: taken at most", max(sent for sent, _ in outcomes) / MB, "MB")
        result.put(f"{kind}: left open", sum(reply.open for _, reply in outcomes))
    return (
        result["RSS grown by"] <= 100
        and not result["others unanswered"]
        and beside.at(99) <= 2 * alone.at(99)
        and not any(result[f"{kind}: left open"] for kind in kinds)
    )


def heads_within(models: Path) -> Result:
    """Heads within the limits, as large and as many as they may be: all are answered."""
    result = Result(1, "heads within the limits: large ones, ones in pieces, many at once", "200 for each")
    with Service(models, "sentiment", workers="1") as service:
        lines = raw.request("/health/live", headers={f"X-{i}": "a" * 500 for i in range(HEAD_LINES - 10)})
        result.put("90 lines of 45 KB", raw.ask(service.address, lines).status)
        with Peer(service.address) as peer:
            for i in range(0, len(lines), 1000):
                peer.send(lines[i : i + 1000])
            result.put("the same in pieces", peer.reply().status)
        for size in SIZES:
            with Peer(service.address) as peer:
                peer.send(raw.request("/health/live", headers={"X-Long": "a" * size}) * PIPELINED)
                answered = list(itertools.takewhile(lambda _: peer.reply().status == 200, range(PIPELINED)))
                result.put(f"{PIPELINED} of {size} bytes at once: answered", len(answered))
        result.met = result["90 lines of 45 KB"] == result["the same in pieces"] == 200 and all(
            result[f"{PIPELINED} of {size} bytes at once: answered"] == PIPELINED for size in SIZES
        )
    return result


def slow_clients(
    models: Path,
    *,
    heads: int = 1000,
    bodies: int = 300,
    silent: int = 100,
    size: int = 2_000_000,
    head_seconds: float = 4.0,
    timeout_seconds: float = 8.0,
    drain_seconds: float = 5.0,
    stop: bool = True,
) -> Result:
    """Heads and bodies at a byte a second, and silence: are they closed in time, what do they hold, can it stop?

    Args:
        stop: whether to send SIGTERM in the middle of a second such attack.
    """
    result = Result(
        7,
        f"{heads} heads and {bodies} half bodies at a byte a second, {silent} silent connections "
        f"(head {head_seconds:g} s, deadline {timeout_seconds:g} s, drain {drain_seconds:g} s)",
        "heads and silent ones closed by the head's time, bodies answered by the deadline and then closed, "
        "RSS ≤ +200 MB, others answered, SIGTERM within the drain",
    )
    limits = {
        "head_seconds": str(head_seconds),
        "timeout_seconds": str(timeout_seconds),
        "drain_seconds": str(drain_seconds),
    }
    patience = timeout_seconds + LINGER_SECONDS + 2
    counts = {"heads": heads, "bodies": bodies, "silent": silent, "size": size}
    with Service(models, "sentiment", workers="1", **limits) as service:  # type: ignore[arg-type]
        question = raw.request("/classify", raw.dump({"text": "a good film"}))
        before = service.forget_peak()
        with Apart(_crowd, service.address, counts, patience) as attack, Asker(service.address, question) as beside:
            crowds: dict[str, crowd.Crowd] = attack.result(patience + 30)
        grown = result.put("RSS grown by", (service.peak() - before) / MB, "MB")
        for name, each in crowds.items():
            result.put(f"{name}: opened", each.opened)
            result.put(f"{name}: left open", each.opened - each.closed)
            result.put(f"{name}: last after", each.last, "s")
            result.put(f"{name}: statuses", [f"{count} x {status}" for status, count in sorted(each.statuses.items())])
        result.put("others' answers", beside.good)
        result.put("others unanswered", len(beside.statuses) - beside.good)
        result.put("others' p99", beside.at(99) * 1e3, "ms")
        if stop:
            with Apart(_crowd, service.address, counts, patience) as _:
                until(lambda: _connections(service.pid) > (heads + silent) * 0.8, 8.0)
                result.put("at SIGTERM: connections open", _connections(service.pid))
                status, took = service.ends(signal.SIGTERM, drain_seconds + timeout_seconds + 15)
            result.put("SIGTERM: exit status", status)
            result.put("SIGTERM: took", took, "s")
    slack = 1.5
    most = {
        "slow heads": head_seconds + LINGER_SECONDS,
        "silent": head_seconds,
        "half bodies": timeout_seconds + LINGER_SECONDS,
    }
    result.met = (
        all(each.opened and each.closed == each.opened and each.last <= most[n] + slack for n, each in crowds.items())
        and grown <= 200
        and beside.good == len(beside.statuses) > 0
        and (not stop or (status == 0 and took <= drain_seconds + slack))
    )
    return result


def unread_answers(
    models: Path,
    *,
    clients: int = 20,
    requests: int = PIPELINED,
    timeout_seconds: float = 3.0,
    drain_seconds: float = 3.0,
) -> Result:
    """Clients that ask and ask and never read an answer: are they closed, what do they hold, can it stop?"""
    result = Result(
        7,
        f"{clients} clients send {requests} requests each and read no answer (deadline {timeout_seconds:g} s, drain "
        f"{drain_seconds:g} s)",
        "closed by the deadline of the first answer that cannot be written; RSS ≤ +100 MB; SIGTERM within the drain",
    )
    limits = {"timeout_seconds": str(timeout_seconds), "drain_seconds": str(drain_seconds), "head_seconds": "2"}
    with Service(models, "sentiment", workers="1", **limits) as service:  # type: ignore[arg-type]
        question = raw.request("/openapi.json")
        length = len(raw.ask(service.address, question).body)
        before, idle = service.forget_peak(), _connections(service.pid)
        with contextlib.ExitStack() as stack:
            for _ in range(clients):
                peer = stack.enter_context(Peer(service.address, receive_buffer=4096))
                with contextlib.suppress(OSError):
                    for _ in range(requests):
                        peer.send(question)
            result.put("answers unread", clients * requests * length / MB, "MB")
            patience = timeout_seconds + LINGER_SECONDS
            result.put("closed after", until(lambda: _connections(service.pid) <= idle, patience), "s")
            result.put("left open", max(0, _connections(service.pid) - idle))
            result.put("RSS grown by", (service.peak() - before) / MB, "MB")
            status, took = service.ends(signal.SIGTERM, drain_seconds + 15)
        result.put("SIGTERM: exit status", status)
        result.put("SIGTERM: took", took, "s")
    result.met = not result["left open"] and result["RSS grown by"] <= 100 and status == 0 and took <= drain_seconds + 1
    return result


def _crowd(address: raw.Address, counts: dict[str, int], seconds: float) -> dict[str, crowd.Crowd]:
    return crowd.slow(address, seconds=seconds, **counts)  # type: ignore[arg-type]


def _connections(pid: int) -> int:
    """Descriptors of a process, of which nearly all are connections in such an attack."""
    try:
        return len(list(Path(f"/proc/{pid}/fd").iterdir()))
    except OSError:
        return 0
