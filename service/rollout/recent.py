"""What was answered of late, so that a right answer that comes later can be held against it.

Owns how it is kept: bounded, and with no text in it, for an answer may quote its client's. Numbers stay what they are.
"""

from __future__ import annotations

import hashlib
import secrets
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TypeAlias

from service.tasks import Gist
from service.tasks.difference import same_score

MOST = 20_000
"""Answers that are kept; the oldest go first."""

Hidden: TypeAlias = bytes | float
"""A gist that no text can be read from."""


@dataclass(slots=True)
class Said:
    """What was answered to one input.

    Attributes:
        task: place of the task that was done among the model's.
        gists: of the answers, by version.
        truth: that of the right answer, once it came.
        judged: versions that were counted as right or wrong.
    """

    model: str
    task: int
    gists: dict[str, Hidden] = field(default_factory=dict)
    truth: Hidden | None = None
    judged: set[str] = field(default_factory=set)

    def right(self, version: str) -> bool:
        """Whether a version was right. Ask it once the truth is there."""
        gist, truth = self.gists[version], self.truth
        if isinstance(gist, float) and isinstance(truth, float):
            return same_score(gist, truth)
        return gist == truth


class Recent:
    """The recent answers, by request id and the input's place in the request."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._key = secrets.token_bytes(32)
        self._said: OrderedDict[tuple[str, int], Said] = OrderedDict()

    def add(self, request_id: str, place: int, said: Said) -> None:
        """Keep what was said. Of an id that is used again the latest stays."""
        self._said[request_id, place] = said
        self._said.move_to_end((request_id, place))
        if len(self._said) > self._most:
            self._said.popitem(last=False)

    def get(self, request_id: str, place: int) -> Said | None:
        """Get what was said to an input; None where it is not known, or no longer."""
        return self._said.get((request_id, place))

    def hide(self, gist: Gist) -> Hidden:
        """Hide a gist: a hash under a key that this process alone knows, and forgets."""
        if isinstance(gist, float):
            return gist
        return hashlib.blake2b(gist.encode("utf-8", "surrogatepass"), key=self._key, digest_size=16).digest()
