"""How far a run is, on the standard error: a line that is written over on a terminal, else one a few seconds."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from typing import TextIO

SECONDS, ON_TERMINAL = 5.0, 0.5
"""Between two lines."""


class Progress:
    """A count of rows against the clock.

    Attributes:
        rows: answered, of runs before this one too.
        rejected: likewise.
    """

    def __init__(
        self, total: int, rows: int, rejected: int, out: TextIO, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """
        Args:
            total: rows of the input.
            rows, rejected: of parts that are done.
        """
        self.total, self.rows, self.rejected = total, rows, rejected
        self._before = rows + rejected
        self._out, self._clock = out, clock
        self._begun = self._shown = clock()
        self._terminal = out.isatty()

    @property
    def seconds(self) -> float:
        """Since the beginning of this run."""
        return self._clock() - self._begun

    @property
    def rate(self) -> float:
        """Rows a second of this run."""
        return (self.rows + self.rejected - self._before) / max(self.seconds, 1e-9)

    def add(self, rows: int, rejected: int) -> None:
        """Count rows, and tell of it where it is time to."""
        self.rows += rows
        self.rejected += rejected
        now = self._clock()
        if now - self._shown >= (ON_TERMINAL if self._terminal else SECONDS):
            self._shown = now
            self._tell()

    def end(self) -> None:
        """Tell how it stands at the end."""
        self._tell()
        if self._terminal:
            print(file=self._out)

    def _tell(self) -> None:
        seen = self.rows + self.rejected
        share = seen / self.total if self.total else 1.0
        left = timedelta(seconds=round((self.total - seen) / self.rate)) if self.rate else "?"
        line = (
            f"{seen:,} of {self.total:,} rows ({share:.1%}), {self.rate:,.0f} rows/s, {left} left, "
            f"{self.rejected:,} rejected"
        )
        print(
            f"\r{line}\033[K" if self._terminal else line,
            end="" if self._terminal else "\n",
            file=self._out,
            flush=True,
        )
