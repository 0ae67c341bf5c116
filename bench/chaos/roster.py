"""All attacks, in the order of the table of issue 10."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from bench.chaos import bodies, engine_faults, fairness, heads, logs, probes
from bench.chaos.result import Result

Attack = Callable[[Path], Result]

ATTACKS: tuple[tuple[int, Attack], ...] = (
    (1, heads.endless_heads),
    (2, bodies.unbounded_lists),
    (3, probes.probes),
    (4, fairness.polite),
    (5, fairness.short_beside_long),
    (6, logs.unread_log),
    (7, heads.slow_clients),
    (8, engine_faults.throwing),
    (8, engine_faults.hanging),
    (8, engine_faults.hanging_once),
    (8, engine_faults.dying_once),
    (8, engine_faults.dying),
    (9, engine_faults.guilty_row),
    (12, bodies.half_close),
    (12, bodies.departures),
    (15, bodies.edges),
)
