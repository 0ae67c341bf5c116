"""The run: every service in its turn, started, warmed, measured at each number of connections, and stopped.

Owns the order of it: rounds are interleaved, so that a slow minute touches all. Knows nothing of tables.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import client, process, serving, wrk
from bench.errors import BenchError, ServerError
from bench.load import Load
from bench.peers.order import Configuration, Order
from bench.peers.roster import ROWS, Peer
from bench.process import Server
from bench.report import Point, Service

logger = logging.getLogger(__name__)

START_SECONDS = 180
"""A peer that has not answered by then is skipped."""
CHECKED = 32
"""Sentences whose labels are compared with the bare session's."""

LoadMaker = Callable[..., Load]


@dataclass(frozen=True, slots=True)
class Plan:
    """What is asked for.

    Attributes:
        peers: in the order of their turns.
        connections: of each work.
        rounds, seconds, warm_up: turns of each peer; seconds of a point, and of what goes before it.
        tune: whether configurations are tried first, at `tune_connections`.
        cores: what servers and load generator share.
        bundles, checkpoints: folders by the kind of model, `single` (`batched` too) and `qa`.
        texts: what is posted: sentences, or (question, context).
        out: folder for logs.
    """

    peers: tuple[Peer, ...]
    connections: dict[str, tuple[int, ...]]
    rounds: int
    seconds: float
    warm_up: float
    tune: bool
    tune_connections: int
    cores: int
    bundles: dict[str, Path]
    checkpoints: dict[str, Path]
    texts: dict[str, list[tuple[str, ...]]]
    out: Path


class Turns:
    """A run in the making.

    Attributes:
        configurations: chosen for each peer.
        tried: rows a second of each configuration that was tried.
        points: by peer and connections, one a round.
        skipped: why a peer was left out.
        agreement: how many of the sentences that were looked at got the bare session's label.
    """

    def __init__(self, plan: Plan, load: LoadMaker, labels: Sequence[str] = ()) -> None:
        self.plan = plan
        self._load = load
        self._labels = labels
        self.configurations: dict[str, Configuration] = {}
        self.tried: dict[str, dict[str, float]] = defaultdict(dict)
        self.points: dict[str, dict[int, list[Point]]] = defaultdict(lambda: defaultdict(list))
        self.skipped: dict[str, str] = {}
        self.agreement: dict[str, str] = {}

    def tune(self) -> None:
        """Chooses each peer's configuration: the first of its list, or the best of a short run each."""
        for peer in self.plan.peers:
            if peer.missing:
                self.skipped[peer.name] = f"{peer.missing} is not installed"
                continue
            candidates = peer.configurations(self.plan.cores)
            self.configurations[peer.name] = candidates[0]
            if len(candidates) == 1 or not self.plan.tune:
                continue
            for candidate in candidates:
                self._try(peer, candidate)
            if tried := self.tried[peer.name]:
                best = max(tried, key=tried.__getitem__)
                self.configurations[peer.name] = next(c for c in candidates if c.words() == best)

    def round(self) -> None:
        """One turn of every peer."""
        for peer in self.plan.peers:
            if peer.name in self.skipped:
                continue
            try:
                with self._serving(peer, self.configurations[peer.name]) as (server, url):
                    self._check(peer, url)
                    for connections in self.plan.connections[peer.work]:
                        point = self._point(peer, server, url, connections)
                        self.points[peer.name][connections].append(point)
                        logger.info(
                            "%-14s %4d connections: %7.1f rows/s, p50 %.1f ms, p95 %.1f ms, %d errors", peer.name,
                            connections, point.rows_per_second, point.p50 * 1e3, point.p95 * 1e3, point.errors,
                        )  # fmt: skip
            except BenchError as error:
                self.skipped[peer.name] = str(error)
                logger.warning("%s: %s", peer.name, error)

    def services(self) -> tuple[Service, ...]:
        """What was found."""
        return tuple(
            Service(
                name=peer.name,
                work=peer.work,
                model=peer.model,
                title=peer.title,
                configuration="its defaults" if peer.is_bertie else self._words(peer),
                tried=dict(self.tried[peer.name]),
                agreement=self.agreement.get(peer.name, ""),
                skipped=self.skipped.get(peer.name, ""),
                points={n: tuple(points) for n, points in self.points[peer.name].items()},
            )
            for peer in self.plan.peers
        )

    def _words(self, peer: Peer) -> str:
        return self.configurations[peer.name].words() if peer.name in self.configurations else ""

    def _try(self, peer: Peer, candidate: Configuration) -> None:
        connections = self.plan.tune_connections
        try:
            with self._serving(peer, candidate) as (server, url):
                point = self._point(peer, server, url, connections)
        except BenchError as error:
            logger.warning("%s, %s: %s", peer.name, candidate.words(), error)
            return
        self.tried[peer.name][candidate.words()] = point.rows_per_second
        logger.info("%s, %s: %.1f rows/s at %d", peer.name, candidate.words(), point.rows_per_second, connections)

    def _serving(self, peer: Peer, configuration: Configuration) -> _Serving:
        kind = "qa" if peer.work == "qa" else "single"
        order = Order(
            serving.free_port(), str(self.plan.bundles[kind]), str(self.plan.checkpoints.get(kind, "")), configuration
        )
        return _Serving(peer, order, self.plan.out / f"{peer.name}.log", self._bodies(peer)[0])

    def _bodies(self, peer: Peer) -> list[bytes]:
        """Requests' bodies, to be posted in turn without end."""
        texts = self.plan.texts["qa" if peer.work == "qa" else "single"]
        if peer.work == "batched":
            endless = itertools.cycle(text for (text,) in texts)
            return [peer.body(list(itertools.islice(endless, ROWS))) for _ in range(max(1, len(texts) // 4))]
        return [peer.body(text) for text in texts]

    def _point(self, peer: Peer, server: Server, url: str, connections: int) -> Point:
        bodies = self._bodies(peer)
        self._load(url, bodies, connections=connections, seconds=self.plan.warm_up)
        server.reset_peak()
        before = server.usage()
        load = self._load(url, bodies, connections=connections, seconds=self.plan.seconds)
        after = server.usage()
        if not server.alive:
            raise ServerError(f"it ended at {connections} connections: {server.last_words()}")
        rows = load.answered * (ROWS if peer.work == "batched" else 1)
        return Point(
            rows_per_second=rows / load.seconds,
            p50=load.p50,
            p95=load.p95,
            p99=load.p99,
            cpu_seconds=(after.cpu_seconds - before.cpu_seconds) / rows if rows else math.nan,
            peak_rss=max(server.peak_rss, after.rss),
            pss=server.pss(),
            processes=after.processes,
            errors=load.errors,
        )

    def _check(self, peer: Peer, url: str) -> None:
        """Whether a peer on the graph gives the labels that the graph gives."""
        if peer.work != "single" or peer.model != "graph" or not self._labels or peer.name in self.agreement:
            return
        answers = client.post(url, [peer.body(text) for text in self.plan.texts["single"][:CHECKED]])
        labels = [_label(answer.json()) if answer.ok else None for answer in answers]
        agreed = sum(a == b for a, b in zip(labels, self._labels, strict=False))
        self.agreement[peer.name] = f"{agreed} of {len(labels)}"


class _Serving:
    """A peer that answers; a context manager of its server and its URL."""

    def __init__(self, peer: Peer, order: Order, log: Path, body: bytes) -> None:
        self._body = body
        self._url = f"http://127.0.0.1:{order.port}{peer.path}"
        bundle = Path(order.bundle)
        mine = {"BERTIE_PORT": str(order.port), "BERTIE_MODELS_DIR": str(bundle.parent), "BERTIE_MODELS": bundle.name}
        environment = mine if peer.is_bertie else order.environment()
        self._server = Server([*process.python(peer.command[1]), *peer.command[2:]], environment=environment, log=log)

    def __enter__(self) -> tuple[Server, str]:
        try:
            serving.await_ready(
                self._server, lambda: client.post(self._url, [self._body])[0].ok, START_SECONDS, step=0.2
            )
        except BaseException:
            self._server.stop()
            raise
        return self._server, self._url

    def __exit__(self, *_: object) -> None:
        self._server.stop()


def load_maker(name: str) -> LoadMaker:
    """`wrk`, or `python`.

    Raises:
        BenchError: there is no wrk.
    """
    if name == "wrk" and not wrk.available():
        raise BenchError("there is no wrk (apt-get install wrk); --client python does without")
    return wrk.run if name == "wrk" else client.run


def _label(answer: Any) -> str | None:
    found = answer[0] if isinstance(answer, list) else answer
    return found.get("label")
