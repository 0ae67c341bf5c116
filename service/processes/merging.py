"""What several processes have counted, as one.

Owns the rules: counters and histograms are added up, those of processes that are gone too; what a gauge means decides
how those of the living become one. Plain values on the way, for `marshal`.
"""

from __future__ import annotations

import marshal
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric
from prometheus_client.samples import Exemplar

from service.drift import FEATURES, Tally, add
from service.metrics import DRIFT, GAUGES

Labels: TypeAlias = tuple[tuple[str, str], ...]
Value: TypeAlias = tuple[float, Any]
"""A sample's value, and its exemplar or None."""
_RULES: Mapping[str, Callable[[float, float], float]] = {"sum": lambda a, b: a + b, "max": max, "min": min}
_GAUGES = ("gauge", "info", "stateset", "unknown")


@dataclass(frozen=True, slots=True)
class Counts:
    """What a process has counted.

    Attributes:
        families: of each metric its help and type, and its samples by name and labels.
        drift: of each model its version and what its drift is measured by.
    """

    families: dict[str, tuple[str, str, dict[tuple[str, Labels], Value]]] = field(default_factory=dict)
    drift: dict[str, tuple[str, Tally]] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """Write it for another process."""
        return marshal.dumps(
            (self.families, {name: (each, tuple(tally)) for name, (each, tally) in self.drift.items()})
        )

    @classmethod
    def from_bytes(cls, content: bytes) -> Counts:
        """Read what `to_bytes` wrote, in this process or another; nothing of nothing."""
        if not content:
            return cls()
        families, drift = marshal.loads(content)
        return cls(families, {name: (version, Tally(*tally)) for name, (version, tally) in drift.items()})


def take(
    registry: CollectorRegistry,
    drift: Mapping[str, tuple[str, Tally]] | None = None,
    instead: Mapping[str, float] | None = None,
) -> Counts:
    """Take down what a registry holds.

    Args:
        instead: values to take for metrics of these names.
    """
    instead = instead or {}
    families = {}
    for metric in registry.collect():
        samples: dict[tuple[str, Labels], Value] = {}
        for sample in metric.samples:
            exemplar = tuple(sample.exemplar) if sample.exemplar else None
            value = float(instead.get(sample.name, sample.value))
            samples[sample.name, tuple(sample.labels.items())] = (value, exemplar)
        families[metric.name] = (metric.documentation, metric.type, samples)
    return Counts(families, dict(drift or {}))


def merge(living: Sequence[Counts], gone: Sequence[Counts] = ()) -> Counts:
    """Make one of what several processes have counted.

    Args:
        gone: of processes that are no more: their gauges say nothing now.
    """
    families: dict[str, tuple[str, str, dict[tuple[str, Labels], Value]]] = {}
    for counts, lives in [*((each, True) for each in living), *((each, False) for each in gone)]:
        for name, (documentation, kind, samples) in counts.families.items():
            is_gauge = kind in _GAUGES
            if is_gauge and not lives:
                continue
            found = families.setdefault(name, (documentation, kind, {}))[2]
            rule = _RULES[GAUGES.get(name, "sum")] if is_gauge else _RULES["sum"]
            for key, value in samples.items():
                known = found.get(key)
                if known is None:
                    found[key] = value
                else:
                    found[key] = _one(known, value, min if key[0].endswith("_created") else rule)
    return Counts(families, _merge_drift(living))


def collect(counts: Counts) -> Iterable[Metric]:
    """Get the metrics, as a registry would give them."""
    drift = {
        (model, feature): tally.distance(feature) for model, (_, tally) in counts.drift.items() for feature in FEATURES
    }
    for name, (documentation, kind, samples) in counts.families.items():
        metric = Metric(name, documentation, kind)
        for (sample_name, labels), (value, exemplar) in samples.items():
            if name == DRIFT:  # a distance of all is no sum of distances
                values = dict(labels)
                value = drift.get((values["model"], values["feature"]), value)
            metric.add_sample(sample_name, dict(labels), value, exemplar=Exemplar(*exemplar) if exemplar else None)
        yield metric


def _one(known: Value, value: Value, rule: Callable[[float, float], float]) -> Value:
    """Make one of two samples. A NaN, which says that there is nothing to tell, gives way; the later exemplar stays."""
    if math.isnan(known[0]) or math.isnan(value[0]):
        number = known[0] if math.isnan(value[0]) else value[0]
    else:
        number = rule(known[0], value[0])
    return number, max((each for each in (known[1], value[1]) if each), key=lambda each: each[2] or 0.0, default=None)


def _merge_drift(living: Sequence[Counts]) -> dict[str, tuple[str, Tally]]:
    """Add up what drift is measured by: of each model that of the version with the most inputs, for two of them serve
    for a moment only."""
    tallies: dict[str, dict[str, list[Tally]]] = {}
    for counts in living:
        for model, (version, tally) in counts.drift.items():
            tallies.setdefault(model, {}).setdefault(version, []).append(tally)
    found = {}
    for model, versions in tallies.items():
        added = {version: add(each) for version, each in versions.items()}
        found[model] = max(added.items(), key=lambda item: item[1].inputs)
    return found
