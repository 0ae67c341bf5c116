"""What to measure and how long. Light, so that the command line can read it before torch is loaded."""

from __future__ import annotations

from dataclasses import dataclass

MEASURES = ("files", "memory", "speed", "training")
PRECISIONS = ("fp32", "int8")


@dataclass(frozen=True, slots=True)
class Options:
    """How to measure.

    Attributes:
        measures: what to measure; parameters and operations are always counted.
        lengths: tokens of the rows that are timed.
        precisions: of the served graphs.
        rounds: times that every model is measured.
        seconds: for each figure in each round, at least one call.
        minutes: for all timed calls together; what does not fit is estimated.
        memory: bytes that a process may take; 0 for what is free.
        workers: engine calls side by side, and threads of a training step; 0 for the cores.
        batch_tokens: of a batch when throughput is measured.
        training_rows, training_tokens: the batch of a training step.
    """

    measures: tuple[str, ...] = MEASURES
    lengths: tuple[int, ...] = (32, 128, 384)
    precisions: tuple[str, ...] = PRECISIONS
    rounds: int = 5
    seconds: float = 1.0
    minutes: float = 60.0
    memory: int = 0
    workers: int = 0
    batch_tokens: int = 1024
    training_rows: int = 8
    training_tokens: int = 128
