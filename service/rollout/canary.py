"""Which requests a canary answers."""

from __future__ import annotations

import hashlib

from service.repository.plan import Canary
from service.serving import Sender


def takes(canary: Canary, sender: Sender) -> bool:
    """Whether a canary answers a sender: one that asks for it, or one of `percent` in a hundred, by the hash of the
    sticky header's value where there is one, else by chance. A sender may also ask not to get it.
    """
    if canary.header is not None and (asked := sender.headers.get(canary.header.lower())) is not None:
        if asked in ("true", canary.version):
            return True
        if asked == "false":
            return False
    share = sender.draw
    if canary.sticky is not None and (key := sender.headers.get(canary.sticky.lower())) is not None:
        share = _fraction(f"{canary.version}/{key}")
    return 100 * share < canary.percent


def _fraction(key: str) -> float:
    """Get a number in [0, 1) of a text: the same for the same, evenly spread over all."""
    digest = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
