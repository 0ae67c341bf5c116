"""All attacks, in the order of the table of issue 10."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from bench.chaos import bodies, bundles, engine_faults, fairness, heads, logs, probes, provider, signals, upgrade
from bench.chaos.result import Result

Attack = Callable[[Path], Result]

ATTACKS: tuple[tuple[int, Attack], ...] = (
    (1, heads.endless_heads),
    (1, heads.endless_trailers),
    (1, heads.heads_within),
    (2, bodies.unbounded_lists),
    (2, bodies.heavy_texts),
    (3, probes.probes),
    (4, fairness.polite),
    (5, fairness.short_beside_long),
    (6, logs.unread_log),
    (7, heads.slow_clients),
    (7, heads.unread_answers),
    (8, engine_faults.throwing),
    (8, engine_faults.hanging),
    (8, engine_faults.hanging_once),
    (8, engine_faults.dying_once),
    (8, engine_faults.dying),
    (9, engine_faults.guilty_row),
    (10, bundles.refused),
    (10, bundles.changed_while_served),
    (10, bundles.nan_logits),
    (11, upgrade.offers),
    (12, bodies.half_close),
    (12, bodies.departures),
    (13, signals.while_loading),
    (13, signals.interrupted_twice),
    (13, signals.hung_up),
    (14, provider.broken_cuda),
    (15, bodies.edges),
    (16, provider.quota),
    (16, provider.threads),
)
