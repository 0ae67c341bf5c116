"""What one request takes: seconds of a core by model and length, of the event loop, and memory.

Owns the numbers, their formulas and their file. Knows nothing of how they are measured or used.

All times are those of a thread that has its core, and its core's sibling, to itself. Where `cores` threads run at once
each goes at `busy` of that speed: two virtual cores are often one real one.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bench.errors import BenchError


@dataclass(frozen=True, slots=True)
class Curve:
    """Seconds of a batch: `call + token * tokens + square * rows * length**2`, all its rows padded to `length`.

    The square is attention's; all of the rest of an encoder goes by tokens.
    """

    call: float
    token: float
    square: float

    def seconds(self, rows: float, length: float) -> float:
        """Get the seconds of a batch of so many rows, padded to `length` tokens."""
        return self.call + self.token * rows * length + self.square * rows * length * length

    @classmethod
    def fit(cls, points: Sequence[tuple[float, float, float]]) -> Curve:
        """Fit to (rows, length, seconds), so that relative errors are least; no coefficient is below zero.

        Raises:
            BenchError: fewer than three points.
        """
        if len(points) < 3:
            raise BenchError(f"a curve of three coefficients wants three points at least, not {len(points)}")
        terms = np.array([(1.0, rows * length, rows * length**2) for rows, length, _ in points])
        seconds = np.array([point[2] for point in points])
        used = [0, 1, 2]
        while True:  # the least squares of those left, until none is negative (Lawson and Hanson's idea, for three)
            found, *_ = np.linalg.lstsq(terms[:, used] / seconds[:, None], np.ones(len(points)), rcond=None)
            if found.min() >= 0:
                break
            del used[int(found.argmin())]
        coefficients = [0.0, 0.0, 0.0]
        for i, value in zip(used, found, strict=True):
            coefficients[i] = float(value)
        return cls(*coefficients)


@dataclass(frozen=True, slots=True)
class ModelCosts:
    """A model's.

    Attributes:
        batch: of a batch in one thread.
        wide: of a batch in the low-latency session, elapsed, on all cores.
        batch_tokens: most tokens of a batch, padding included.
        low_latency_tokens: from so many on a batch that has the process to itself runs on all cores; 0: never.
    """

    batch: Curve
    wide: Curve
    batch_tokens: int
    low_latency_tokens: int

    def scaled(self, busy: float) -> ModelCosts:
        """Get them as of a thread alone, where `batch` was measured among threads that went at `busy` of its speed."""
        curve = self.batch
        return replace(self, batch=Curve(curve.call * busy, curve.token * busy, curve.square * busy))


@dataclass(frozen=True, slots=True)
class Costs:
    """All of a machine's.

    Attributes:
        machine: its processor and so on, for people.
        cores: of the service that was measured.
        busy: speed of a thread while all cores are busy, over its speed alone.
        request: seconds of the event loop for a request, whatever its length; `text_token`: for each of its tokens.
        refusal: seconds of the event loop for a request that is refused with 429.
        wake: seconds that it takes more each time that it had nothing to do: it is woken, its caches are cold.
        client, client_wake: likewise, of the load generator, where it shares the cores.
        memory: bytes of a replica at full load (PSS).
        models: by name.
    """

    machine: dict[str, Any]
    cores: int
    busy: float
    request: float
    text_token: float
    refusal: float
    wake: float
    client: float
    client_wake: float
    memory: int
    models: dict[str, ModelCosts]

    def save(self, path: Path) -> None:
        """Write it as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Costs:
        """Read what `save` wrote.

        Raises:
            BenchError: the file is missing or holds something else.
        """
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            models = {
                name: ModelCosts(
                    Curve(**each["batch"]), Curve(**each["wide"]), each["batch_tokens"], each["low_latency_tokens"]
                )
                for name, each in found.pop("models").items()
            }
            return cls(**found, models=models)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BenchError(
                f"{path} holds no unit costs ({error}); make it: python -m bench.capacity measure"
            ) from error

    def loop_seconds(self, tokens: int) -> float:
        """Get the seconds of the event loop for a request of so many tokens."""
        return self.request + self.text_token * tokens

    def speed(self, demand: float) -> float:
        """Get the speed of each thread while so many want to run, 1 being that of one alone.

        In between it falls evenly; what is more than the cores takes turns.
        """
        if demand <= 1 or self.cores == 1:
            return 1 / max(1.0, demand)
        used = min(demand, self.cores)
        return (1 - (1 - self.busy) * (used - 1) / (self.cores - 1)) * used / demand
