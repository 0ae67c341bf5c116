"""What a bundle's graphs reach on dev data, and what is fitted on it: the no-answer threshold and the temperature.

Owns the order of it: the graph that CPUs run is run first, and thresholds are its own; the others are held to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from service.drift import Profile
from service.engine.processor import cpu_quota
from service.engine.session import OrtEngine
from service.engine.tokenizer import Tokenizer
from service.repository.manifest import Calibration
from training import tasks
from training.evaluate import calibration, profile
from training.evaluate import runner as evaluate
from training.export import gate
from training.tasks import Labelled, Served

Examples = Sequence[Labelled]
Scores = dict[str, dict[str, float]]
"""By data set."""

CALIBRATED = 2000
"""Answers that the temperature is fitted on: more change its third digit."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What came of it."""

    scores: dict[str, Scores]  # of each precision, by data set
    task: Served  # the task with its threshold and temperature
    fit: calibration.Fit | None = None  # the temperature's; None without dev data
    calibration: Calibration | None = None  # what the manifest says of the fit
    profile: Profile | None = None  # of the dev data


def run(
    task: Served, files: Mapping[str, Path], tokenizer: Tokenizer, examples: Mapping[str, Examples], gate_limit: int = 0
) -> Measured:
    """Score each graph, hold the quantised one to fp32, and fit what the task leaves open.

    fp16 is for GPUs; its scores are measured where one is at hand, by `evaluate`.

    Args:
        files: the graphs by precision, fp32 among them.
        examples: dev examples by data set.
        gate_limit: examples of each data set, spread over all of it, on which fp32 is run; 0 for all.

    Raises:
        GateError: the answers are worse than guesses, or the labels in the wrong order; or int8 lost too much against
            fp32.
    """
    if not examples:
        return Measured({}, task)
    pad_id = tokenizer.pad_id
    served, *others = (precision for precision in ("int8", "fp32") if precision in files)
    engine = _open(files[served], served)
    outcomes = {
        name: evaluate.outcomes(task, engine, pad_id, dev, f"{served} {name}") for name, dev in examples.items()
    }
    kind = tasks.of(task)
    task = kind.fit(task, list(outcomes.values()))
    scores = {served: {name: evaluate.scores(task, o) for name, o in outcomes.items()}}
    for precision in others:
        reference = _open(files[precision], precision)
        scores[precision] = {}
        for name, dev in examples.items():
            chosen = _spread(len(dev), gate_limit)
            some = [dev[i] for i in chosen]
            reached = evaluate.scores(task, evaluate.outcomes(task, reference, pad_id, some, f"{precision} {name}"))
            ours = evaluate.scores(task, [outcomes[name][i] for i in chosen])
            gate.scores({name: reached}, {name: ours}, served, kind.main)
            scores[precision][name] = reached
    for name, answered in outcomes.items():  # after the others: a graph that is off alone is no fault of the labels
        gate.chance(name, served, kind.misfit(task, answered))
    measured = _calibrated(Measured(scores, task), engine, pad_id, examples)
    return replace(measured, profile=profile.measure(measured.task, engine, tokenizer, examples))


def _calibrated(measured: Measured, engine: OrtEngine, pad_id: int, examples: Mapping[str, Examples]) -> Measured:
    """With the temperature fitted on the first data set's answers: of questions, those that have one."""
    name, dev = next(iter(examples.items()))
    known = tasks.of(measured.task).with_answer(dev)
    some = [known[i] for i in _spread(len(known), CALIBRATED)]
    fit = calibration.fit(measured.task, evaluate.infer(measured.task, engine, pad_id, some))
    if fit is None:
        return measured
    rows = sum(bin.count for bin in fit.before)
    errors = (calibration.expected_error(bins) for bins in (fit.before, fit.after))
    task = measured.task.with_temperature(fit.temperature)
    return Measured(measured.scores, task, fit, Calibration(name, rows, *errors))


def _open(path: Path, precision: str) -> OrtEngine:
    return OrtEngine(path, provider="cpu", precision=precision, workers=cpu_quota(), intra_op_threads=1)


def _spread(total: int, limit: int) -> list[int]:
    """`limit` indices below `total`, evenly spread: data sets are in the order of their articles. All of them for 0."""
    return [i * total // limit for i in range(limit)] if 0 < limit < total else list(range(total))
