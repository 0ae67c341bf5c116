"""A real Ray cluster on the loopback: a head without cores, and nodes of one core each. `make test-ray` runs it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

ADDRESS = "127.0.0.2"
"""Of all nodes: Ray takes 127.0.0.1 for the machine's outer address."""
NODE = {"node_ip_address": ADDRESS, "object_store_memory": 80 << 20}


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A cluster of a head and two nodes."""
    utils = pytest.importorskip("ray.cluster_utils")
    monkeypatch.setenv("RAY_worker_niceness", "0")
    found = utils.Cluster(initialize_head=True, head_node_args={**NODE, "num_cpus": 0, "include_dashboard": False})
    try:
        for _ in range(2):
            found.add_node(num_cpus=1, **NODE)
        yield found
    finally:
        found.shutdown()
