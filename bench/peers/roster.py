"""Who is measured, on which work, and in which configurations each is tried.

A peer is tried in several configurations, always with as many threads in all as there are cores, and measured in the
one that did best. Imports no peer.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bench.errors import BenchError
from bench.peers.order import Configuration
from bench.serving import ROOT

BERTIE = ("-m", "service")
Work = Literal["single", "batched", "qa"]
ROWS = 32
"""Of a request of the work `batched`."""


@dataclass(frozen=True, slots=True)
class Peer:
    """A service that is measured.

    Attributes:
        name: in tables and on the command line.
        work: `single` (a sentence a request), `batched` (`ROWS` of them) or `qa` (a question and its paragraph).
        command: what Python runs: a module, and its arguments.
        path: of its route.
        needs: modules that must be installed.
        model: `graph` (the bundle's own file) or `torch` (the checkpoint).
        title: what it is, for the table's notes.
        fixed: whether it has one configuration, and is not tuned.
        tree: the source tree that it runs.
    """

    name: str
    work: Work
    command: tuple[str, ...]
    path: str
    needs: tuple[str, ...]
    model: Literal["graph", "torch"]
    title: str
    fixed: bool = False
    tree: Path = ROOT

    @property
    def is_bertie(self) -> bool:
        """Whether it is no peer but the service itself."""
        return self.command == BERTIE

    @property
    def missing(self) -> str:
        """The first of its modules that is not installed; empty when all are."""
        return next((module for module in self.needs if importlib.util.find_spec(module) is None), "")

    def body(self, texts: Sequence[str]) -> bytes:
        """Make a request's body: of a text, of many, or of a question and a context."""
        if self.work == "qa":
            value: object = dict(zip(("question", "context"), texts, strict=True))
        elif self.work == "batched":
            value = {"inputs": [{"text": text} for text in texts]}
        elif self.name == "bentoml":
            value = {"texts": list(texts)}
        else:
            value = {"text": texts[0]}
        return json.dumps(value).encode()

    def configurations(self, cores: int) -> tuple[Configuration, ...]:
        """List what is tried, a sensible guess first."""
        whole = (1, cores)
        if self.fixed:
            return (Configuration(*whole),)
        spread = (cores, 1)
        found = [
            Configuration(*spread, batch=8, wait_ms=2),
            Configuration(*spread, batch=32, wait_ms=2),
            Configuration(*whole, batch=32, wait_ms=5),
            Configuration(*spread),
        ]
        return tuple(dict.fromkeys(found))


PEERS = (
    Peer("bertie", "single", BERTIE, "/classify", (), "graph", "python -m service, default settings", fixed=True),
    Peer(
        "naive", "single", ("-m", "bench.peers.naive"), "/classify", ("fastapi", "transformers", "torch"), "torch",
        "FastAPI over transformers' text-classification pipeline, fp32", fixed=True,
    ),
    Peer(
        "litserve-torch", "single", ("-m", "bench.peers.litserve_torch"), "/predict", ("litserve", "torch"), "torch",
        "LitServe over eager torch, fp32",
    ),
    Peer(
        "litserve", "single", ("-m", "bench.peers.litserve_graph"), "/predict", ("litserve",), "graph",
        "LitServe over the same graph",
    ),
    Peer(
        "mosec", "single", ("-m", "bench.peers.mosec_graph"), "/inference", ("mosec",), "graph",
        "mosec over the same graph",
    ),
    Peer(
        "bentoml", "single", ("-m", "bench.peers.bentoml_graph"), "/classify", ("bentoml",), "graph",
        "BentoML over the same graph; how long a batch waits it adapts itself",
    ),
    Peer("bertie-32", "batched", BERTIE, "/classify", (), "graph", f"Bertie, {ROWS} rows a request", fixed=True),
    Peer("bertie-qa", "qa", BERTIE, "/qa", (), "graph", "python -m service with the QA bundle", fixed=True),
    Peer(
        "pipeline-qa", "qa", ("-m", "bench.peers.qa_pipeline"), "/qa", ("fastapi", "transformers", "torch"), "torch",
        "FastAPI over the algorithm of the question-answering pipeline before transformers 5.3, eager torch, fp32",
        fixed=True,
    ),
)  # fmt: skip


def choose(names: Sequence[str]) -> tuple[Peer, ...]:
    """Choose the peers of these names, in the roster's order; all when there are no names.

    Raises:
        BenchError: a name is unknown.
    """
    known = [peer.name for peer in PEERS]
    if unknown := [name for name in names if name not in known]:
        raise BenchError(f"--peers {unknown[0]!r} is not one of {', '.join(known)}")
    return tuple(peer for peer in PEERS if not names or peer.name in names)
