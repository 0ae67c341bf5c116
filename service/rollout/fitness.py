"""Whether a version may take the place of another: it does the same for clients, and there is memory for both."""

from __future__ import annotations

from service.engine import memory
from service.errors import BundleError
from service.repository.bundle import Bundle
from service.repository.manifest import WEIGHTS

MEMORY_FACTOR = 3
"""Bytes that loading takes at most, for each byte of a graph's files (docs/lab.md)."""


def check_kind(bundle: Bundle, stable: Bundle) -> None:
    """Check that a version does what the stable one does, for clients rely on it. Raises BundleError."""
    for what in ("task", "labels", "multi_label"):
        found, known = getattr(bundle.manifest, what), getattr(stable.manifest, what)
        if found != known:
            raise BundleError(
                f"bundle {bundle.label!r} has the {what} {_said(found)}, and the version that serves {_said(known)}: "
                "clients rely on it, so serve it under a name of its own"
            )


def _said(value: object) -> str:
    return ascii(value)[:200]


def check_memory(bundle: Bundle, processes: int = 1) -> None:
    """Check that a bundle fits beside what is loaded, in each of so many processes. Raises BundleError."""
    largest = max(
        sum((bundle.folder / name).stat().st_size for name in (graph.file, WEIGHTS) if name in bundle.manifest.files)
        for graph in bundle.manifest.graphs
    )
    needed, left = processes * MEMORY_FACTOR * largest, memory.available()
    if needed > left:
        raise BundleError(
            f"bundle {bundle.label!r} takes up to {needed / 1e6:.0f} MB while it is loaded, and {left / 1e6:.0f} MB of "
            "memory are left: the version that serves must stop first, or the limit be higher"
        )
