"""The run: every service started, warmed, measured at each number of connections, and stopped; then all again.

Owns the order of it: rounds are interleaved, so that a slow minute touches all. Knows nothing of tables.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import client, process, serving, wrk
from bench.errors import BenchError, ServerError
from bench.load import Load
from bench.peers.order import Configuration, Order
from bench.peers.roster import ROWS, Peer
from bench.process import Server
from bench.report.results import Point, Service

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
        groups: peers in the order in which they are measured. Those of a group do the same work; they run side by side,
            and are measured in alternation at each number of connections, in an order that is swapped each round.
        connections: of each work.
        rounds, seconds, warm_up: how often each peer is measured; seconds of a point, and of what goes before it.
        tune: whether configurations are tried first, at `tune_connections`.
        cores: what servers and load generator share.
        bundles, checkpoints: folders by the kind of model, `single` (`batched` too) and `qa`.
        texts: what is posted: sentences, or (question, context).
        out: folder for logs.
        models_dir: bundles that Bertie is started with in each round, to time the start; None for not at all.
    """

    groups: tuple[tuple[Peer, ...], ...]
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
    models_dir: Path | None = None

    @property
    def peers(self) -> tuple[Peer, ...]:
        """All of them."""
        return tuple(itertools.chain.from_iterable(self.groups))


class Rounds:
    """A run in the making.

    Attributes:
        configurations: chosen for each peer.
        tried: rows a second of each configuration that was tried.
        points: by peer and connections, one a round.
        starts: by peer (seconds until ready, bytes when idle), one a round.
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
        self.starts: dict[str, list[tuple[float, int]]] = defaultdict(list)
        self.skipped: dict[str, str] = {}
        self.agreement: dict[str, str] = {}

    def tune(self) -> None:
        """Choose each peer's configuration: the first of its list, or the best of a short run each."""
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

    def round(self, i: int) -> None:
        """Measure every peer once; odd rounds go through a group backwards."""
        for group in self.plan.groups:
            order = group if i % 2 == 0 else group[::-1]
            for peer in order:
                if self.plan.models_dir and peer.is_bertie and peer.work == "single":
                    with self.skipping(peer):
                        self.starts[peer.name].append(serving.start(self.plan.models_dir, tree=peer.tree))
            with contextlib.ExitStack() as stack:
                servers: dict[Peer, tuple[Server, str]] = {}
                for peer in (peer for peer in order if peer.name not in self.skipped):
                    with self.skipping(peer):
                        servers[peer] = stack.enter_context(self.serving(peer))
                        self._check(peer, servers[peer][1])
                for connections in self.plan.connections[group[0].work]:
                    for peer, (server, url) in servers.items():
                        if peer.name not in self.skipped:
                            with self.skipping(peer):
                                self._note(peer, connections, self._point(peer, server, url, connections))

    def services(self) -> tuple[Service, ...]:
        """Get what was found."""
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
                ready=tuple(seconds for seconds, _ in self.starts[peer.name]),
                idle_rss=tuple(rss for _, rss in self.starts[peer.name]),
            )
            for peer in self.plan.peers
        )

    @contextlib.contextmanager
    def serving(self, peer: Peer, configuration: Configuration | None = None) -> Iterator[tuple[Server, str]]:
        """Run a peer, in its chosen configuration if none is given; get its server and its route's address.

        Raises:
            ServerError: it did not start.
        """
        url = f"http://127.0.0.1:{serving.free_port()}"
        kind = "qa" if peer.work == "qa" else "single"
        bundle = self.plan.bundles[kind].resolve()
        if peer.is_bertie:
            environment = serving.bertie_environment(url, bundle.parent, (bundle.name,))
        else:
            checkpoint = self.plan.checkpoints.get(kind)
            port, how = int(url.rpartition(":")[2]), configuration or self.configurations[peer.name]
            order = Order(port, str(bundle), str(checkpoint.resolve()) if checkpoint else "", how)
            environment = order.environment()
        command = [*process.python(peer.command[1]), *peer.command[2:]]
        body = self.bodies(peer)[0]
        route = url + peer.path
        with serving.running(
            command, environment, lambda: client.post(route, [body])[0].ok, tree=peer.tree,
            log=self.plan.out / f"{peer.name}.log", seconds=START_SECONDS,
        ) as server:  # fmt: skip
            yield server, route

    def bodies(self, peer: Peer) -> list[bytes]:
        """Make requests' bodies, to be posted one after another without end."""
        texts = self.plan.texts["qa" if peer.work == "qa" else "single"]
        if peer.work == "batched":
            endless = itertools.cycle(text for (text,) in texts)
            return [peer.body(list(itertools.islice(endless, ROWS))) for _ in range(max(1, len(texts) // 4))]
        return [peer.body(text) for text in texts]

    @contextlib.contextmanager
    def skipping(self, peer: Peer) -> Iterator[None]:
        """Leave out a peer that fails, and go on with the others."""
        try:
            yield
        except BenchError as error:
            self.skipped[peer.name] = str(error)
            logger.warning("%s: %s", peer.name, error)

    def _words(self, peer: Peer) -> str:
        return self.configurations[peer.name].words() if peer.name in self.configurations else ""

    def _try(self, peer: Peer, candidate: Configuration) -> None:
        connections = self.plan.tune_connections
        try:
            with self.serving(peer, candidate) as (server, url):
                point = self._point(peer, server, url, connections)
        except BenchError as error:
            logger.warning("%s, %s: %s", peer.name, candidate.words(), error)
            return
        self.tried[peer.name][candidate.words()] = point.rows_per_second
        logger.info("%s, %s: %.1f rows/s at %d", peer.name, candidate.words(), point.rows_per_second, connections)

    def _note(self, peer: Peer, connections: int, point: Point) -> None:
        self.points[peer.name][connections].append(point)
        logger.info(
            "%-14s %4d connections: %7.1f rows/s, p50 %.1f ms, p95 %.1f ms, %d errors", peer.name, connections,
            point.rows_per_second, point.p50 * 1e3, point.p95 * 1e3, point.errors,
        )  # fmt: skip

    def _point(self, peer: Peer, server: Server, url: str, connections: int) -> Point:
        bodies = self.bodies(peer)
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
        """Compare the labels of a peer on the graph with the graph's own."""
        if peer.work != "single" or peer.model != "graph" or not self._labels or peer.name in self.agreement:
            return
        answers = client.post(url, [peer.body(text) for text in self.plan.texts["single"][:CHECKED]])
        labels = [_label(answer.json()) if answer.ok else None for answer in answers]
        agreed = sum(a == b for a, b in zip(labels, self._labels, strict=False))
        self.agreement[peer.name] = f"{agreed} of {len(labels)}"


def load_maker(name: str) -> LoadMaker:
    """Get what makes load: `wrk`, or `python`.

    Raises:
        BenchError: there is no wrk.
    """
    if name == "wrk" and not wrk.available():
        raise BenchError("there is no wrk (apt-get install wrk); --client python does without")
    return wrk.run if name == "wrk" else client.run


def _label(answer: Any) -> str | None:
    label: str | None = (answer[0] if isinstance(answer, list) else answer).get("label")
    return label
