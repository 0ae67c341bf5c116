"""What a comparison found. Owns the layout of compare.json; knows nothing of how the figures were come by."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bench.compare.budget import BYTES
from bench.compare.parameters import GridCell, Parameters
from bench.report.figure import Figure


@dataclass(frozen=True, slots=True)
class Row:
    """One model.

    Attributes:
        name, family: what it is called, and its `model_type`.
        published: parameters by the paper; None where it gives none.
        reference: the name of the model that ratios are taken to; its own where it is that model.
        checkpoint: the name of the folder its weights are from; empty for random weights.
        shape: layers, hidden size and the like.
        parameters: see `Parameters`.
        flops: operations of a row by tokens, see `bench.compare.flops`.
        sizes: bytes of the files: `checkpoint` (fp32 safetensors) and a graph for each precision.
        memory: bytes resident in a process that has nothing but the engine, ready for requests, by precision.
        growth: those bytes that opening and warming up the graph added, by precision.
        latency: seconds for a row alone, by precision and tokens.
        throughput: rows a second with every core busy, by precision and tokens.
        training: tokens a second of a training step.
        training_memory: most bytes resident while training.
    """

    name: str
    family: str
    published: int | None
    reference: str
    checkpoint: str
    shape: Mapping[str, int]
    parameters: Parameters
    flops: Mapping[int, int]
    sizes: Mapping[str, Figure] = field(default_factory=dict)
    memory: Mapping[str, Figure] = field(default_factory=dict)
    growth: Mapping[str, Figure] = field(default_factory=dict)
    latency: Mapping[str, Mapping[int, Figure]] = field(default_factory=dict)
    throughput: Mapping[str, Mapping[int, Figure]] = field(default_factory=dict)
    training: Figure | None = None
    training_memory: Figure | None = None

    def over_weights(self, figure: Figure, precision: str) -> float:
        """Get how many times the bytes of the unique weights at `precision` a number of bytes is."""
        return figure.median / (BYTES[precision] * self.parameters.total)

    def gain(self, figures: Mapping[str, Mapping[int, Figure]], tokens: int) -> float | None:
        """Get int8 over fp32 in `latency` or `throughput`; None where one of the two was not run."""
        int8, fp32 = (figures.get(precision, {}).get(tokens) for precision in ("int8", "fp32"))
        return int8.over(fp32) if int8 and fp32 else None


@dataclass(frozen=True, slots=True)
class Comparison:
    """A run.

    Attributes:
        rows: the models.
        grid: table 3 of the ALBERT paper, counted again.
        left_out: what was not run, why, and the estimate: a sentence each.
        settings: what was asked for.
        machine: where it ran: processor, cores, memory, load before the start, versions.
        created: when, ISO 8601.
    """

    rows: tuple[Row, ...]
    grid: tuple[GridCell, ...]
    left_out: tuple[str, ...]
    settings: Mapping[str, Any]
    machine: Mapping[str, Any]
    created: str

    def row(self, name: str) -> Row:
        """Find the model called `name`."""
        return next(row for row in self.rows if row.name == name)

    def to_json(self) -> str:
        """Get the text of compare.json; figures gain their median, parameters their total, rows their ratios."""
        return json.dumps(_plain(self), indent=2) + "\n"


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        fields = {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        if isinstance(value, Figure):
            fields["median"] = value.median
        if isinstance(value, Parameters):
            fields["total"] = value.total
        if isinstance(value, Row):
            fields["over_weights"] = {
                name: {p: value.over_weights(f, p) for p, f in figures.items() if p in BYTES}
                for name, figures in (("sizes", value.sizes), ("growth", value.growth))
            }
            fields["int8_over_fp32"] = {
                name: {str(t): gain for t in value.flops if (gain := value.gain(figures, t)) is not None}
                for name, figures in (("latency", value.latency), ("throughput", value.throughput))
            }
        return fields
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(each) for each in value]
    return value
