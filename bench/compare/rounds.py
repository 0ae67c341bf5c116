"""The comparison itself: what is built, in which order it is measured, and what becomes of what does not fit.

Owns the rounds. The measurements are `serving`'s, `steps`' and `weights`', each in a process of its own; one model is
in memory at a time.
"""

from __future__ import annotations

import datetime
import logging
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from bench import child, machine
from bench.compare import budget, parameters, weights
from bench.compare.options import Options
from bench.compare.results import Comparison, Row
from bench.compare.subjects import Subject
from bench.errors import BenchError
from bench.report.figure import Figure
from service.engine.processor import cpu_quota
from training.checkpoints import families, flops
from training.checkpoints.configs import max_positions

logger = logging.getLogger(__name__)

TRAINING = "training"
"""The kind of a cell that is no served graph."""


class Cell(NamedTuple):
    """What is timed: a model, its graph of a precision (or its training step), and the length of the rows."""

    name: str
    kind: str
    tokens: int


def run(subjects: tuple[Subject, ...], options: Options, folder: Path) -> Comparison:
    """Measure `subjects`, in alternation. The files they need lie in `folder` meanwhile.

    Raises:
        BenchError: a length is beyond a model's positions, or the disk has no room.
        ChildError: the files of a model, or the trial for the machine's speed, failed. What fails later is left out.
    """
    longest = _longest(options)
    for subject in subjects:
        if longest > (positions := max_positions(subject.config)):
            raise BenchError(f"rows of {longest} tokens are more than the {positions} positions of {subject.name}")
    described = machine.describe(("torch", "transformers", "onnxruntime"))
    described |= {"cores": cpu_quota(), "memory_available": budget.available_memory()}
    with tempfile.TemporaryDirectory(prefix=".compare-", dir=folder) as work:
        run = _Run(subjects, options, Path(work))
        run.build()
        run.take_rounds()
    return Comparison(
        rows=tuple(run.row(subject) for subject in subjects),
        grid=parameters.grid(),
        left_out=tuple(run.left_out),
        settings=asdict(options),
        machine=described,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="minutes"),
    )


class _Run:
    """A run in the making: figures by model, as they come."""

    def __init__(self, subjects: tuple[Subject, ...], options: Options, work: Path) -> None:
        self.subjects = {subject.name: subject for subject in subjects}
        self.options = options
        self.work = work
        self.workers = options.workers or cpu_quota()
        self.memory = options.memory or round(0.9 * budget.available_memory())
        self.counted = {subject.name: parameters.count(subject.config) for subject in subjects}
        self.left_out: list[str] = []
        self.sizes: dict[str, dict[str, Figure]] = defaultdict(dict)
        self.resident: dict[tuple[str, str], list[float]] = defaultdict(list)
        self.growth: dict[tuple[str, str], list[float]] = defaultdict(list)
        self.latency: dict[Cell, list[float]] = defaultdict(list)
        self.rate: dict[Cell, list[float]] = defaultdict(list)  # rows a second; of training, tokens a second
        self.unfit: set[tuple[str, str]] = set()
        self.estimated: set[Cell] = set()

    # Files

    def build(self) -> None:
        """Write and weigh every model's files; estimate those of a model that does not fit."""
        for name, subject in self.subjects.items():
            (self.work / name).mkdir()
            subject.config.save_pretrained(self.work / name)
        if not {*self.options.measures} - {TRAINING}:  # a training step makes its own weights
            return
        self._check_disk()
        for name, subject in self.subjects.items():
            count = self.counted[name].total
            written = self._fits(name, "writing its files", budget.build_bytes(count)) and self._write(subject)
            self.sizes[name] = written or {
                "checkpoint": Figure((budget.file_bytes(count, "fp32"),), estimated=True),
                **{p: Figure((budget.file_bytes(count, p),), estimated=True) for p in self.options.precisions},
            }

    def _write(self, subject: Subject) -> dict[str, Figure]:
        """The sizes of a model's files; none where the process that writes them is killed, which is noted."""
        logger.info("%s: writing its files", subject.name)
        try:
            request = {**self._source(subject), "precisions": self.options.precisions}
            sizes = child.call("bench.compare.weights", request)
        except child.KilledError as error:
            self.left_out.append(f"{subject.name}: writing its files: {error}")
            return {}
        return {kind: Figure((size,)) for kind, size in sizes.items()}

    def _check_disk(self) -> None:
        counts = [count.total for count in self.counted.values()]
        graphs = sum(budget.file_bytes(count, p) for count in counts for p in self.options.precisions)
        wanted, free = graphs + budget.file_bytes(max(counts), "fp32"), shutil.disk_usage(self.work).free
        if wanted > free:
            raise BenchError(f"the models take {wanted / 1e9:.1f} GB on disk, {free / 1e9:.1f} GB is free there")

    # Rounds

    def take_rounds(self) -> None:
        """Measure everything that fits, round by round: forth and back, so that drift hits all alike."""
        asked = {*self.options.measures}
        kinds = [*(self.options.precisions if asked & {"memory", "speed"} else ()), *({TRAINING} & asked)]
        runnable = [(s, kind) for kind in kinds for s in self.subjects.values() if self._can_run(s, kind)]
        planned = self._plan({cell for subject, kind in runnable for cell in self._cells(subject, kind)})
        rounds = self.options.rounds if planned else 1
        runnable = [(s, kind) for s, kind in runnable if self._weighs(kind) or planned & {*self._cells(s, kind)}]
        for i in range(rounds):
            for subject, kind in runnable if i % 2 == 0 else runnable[::-1]:
                logger.info("round %d of %d: %s, %s", i + 1, rounds, subject.name, kind)
                try:
                    self._take(subject, kind, [cell for cell in self._cells(subject, kind) if cell in planned])
                except child.ChildError as error:  # an hour's other figures are not lost for it
                    self.left_out.append(f"{subject.name}, {kind}, round {i + 1}: {error}")
                    runnable = [each for each in runnable if each != (subject, kind)]
        timed = {cell for kind in kinds for subject in self.subjects.values() for cell in self._cells(subject, kind)}
        self._estimate(timed - planned)

    def _cells(self, subject: Subject, kind: str) -> list[Cell]:
        if kind == TRAINING:
            return [Cell(subject.name, TRAINING, self.options.training_tokens)]
        return [Cell(subject.name, kind, t) for t in self.options.lengths if "speed" in self.options.measures]

    def _weighs(self, kind: str) -> bool:
        """Whether a process is of use without a timed call: the memory is measured."""
        return kind != TRAINING and "memory" in self.options.measures

    def _take(self, subject: Subject, kind: str, cells: list[Cell]) -> None:
        """One process: a model's step, or its graph at every length that was planned."""
        if kind == TRAINING:
            for cell in cells:
                answer = self._train(subject)
                self.rate[cell].append(answer["tokens_per_second"])
                self.resident[subject.name, kind].append(answer["peak"])
        else:
            answer = self._serve(subject, kind, [cell.tokens for cell in cells])
            self.resident[subject.name, kind].append(answer["memory"])
            self.growth[subject.name, kind].append(answer["growth"])
            for cell in cells:
                figures = answer["cells"][str(cell.tokens)]
                self.latency[cell].append(figures["latency"])
                self.rate[cell].append(figures["throughput"])

    def _plan(self, cells: set[Cell]) -> set[Cell]:
        """The cells whose calls fit the time, by the speed that the smallest model shows."""
        kinds = {cell.kind for cell in cells}
        rates = {kind: self._operations_a_second(kind, {c for c in cells if c.kind == kind}) for kind in kinds}
        costs = {cell: self.options.rounds * self._cost(cell, rates[cell.kind]) for cell in cells}
        return budget.affordable(costs, 60 * self.options.minutes)

    def _operations_a_second(self, kind: str, cells: set[Cell]) -> float:
        """Of a worker (of all threads, in training), by the cheapest of `cells`."""
        cell = min(cells, key=lambda c: (self._flops(c), c))
        subject = self.subjects[cell.name]
        logger.info("trying %s of %s for the speed of this machine", kind, cell.name)
        if kind == TRAINING:
            return float(self._train(subject)["tokens_per_second"]) / cell.tokens * self._flops(cell)
        answer = self._serve(subject, kind, [cell.tokens])
        return self._flops(cell) / float(answer["cells"][str(cell.tokens)]["latency"])

    def _cost(self, cell: Cell, operations_a_second: float) -> float:
        """Seconds of a cell's calls in a round."""
        row = self._flops(cell) / operations_a_second
        if cell.kind == TRAINING:
            step = self.options.training_rows * row
            return step + max(self.options.seconds, step)
        batch = max(1, self.options.batch_tokens // cell.tokens) * row
        return row + max(self.options.seconds, row) + max(self.options.seconds, batch)

    def _serve(self, subject: Subject, precision: str, lengths: list[int]) -> dict[str, Any]:
        return child.call("bench.compare.serving", {
            "graph": str(weights.graph_path(self.work / subject.name, precision)),
            "precision": precision,
            "workers": self.workers,
            "vocabulary": subject.config.vocab_size,
            "longest": max(lengths or [min(self.options.lengths)]),
            "tokens": lengths,
            "seconds": self.options.seconds,
            "batch_tokens": self.options.batch_tokens,
        })  # fmt: skip

    def _train(self, subject: Subject) -> dict[str, Any]:
        return child.call("bench.compare.steps", {
            **self._source(subject),
            "rows": self.options.training_rows,
            "tokens": self.options.training_tokens,
            "seconds": self.options.seconds,
            "threads": self.workers,
        })  # fmt: skip

    # What does not fit

    def _can_run(self, subject: Subject, kind: str) -> bool:
        """Whether its process fits into memory; where it does not, the estimate stands for what it would take."""
        name, o = subject.name, self.options
        if kind == TRAINING:
            count = self.counted[name].total
            wanted = budget.train_bytes(subject.config, count, o.training_rows, o.training_tokens)
            fits = self._fits(name, "a training step", wanted)
        else:
            file = self.sizes[name][kind]
            wanted = budget.serve_bytes(int(file.median))
            fits = self._fits(name, f"serving it in {kind}", wanted) and not file.estimated
        if not fits:
            self.unfit.add((name, kind))
            self.resident[name, kind] = [wanted]
        return fits

    def _fits(self, name: str, what: str, wanted: int) -> bool:
        if wanted > self.memory:
            self.left_out.append(
                f"{name}: {what} would take about {wanted / 1e9:.1f} GB of memory; there is {self.memory / 1e9:.1f} GB"
            )
        return wanted <= self.memory

    def _estimate(self, cells: set[Cell]) -> None:
        """Estimate what was left out for lack of time, at the speed of the largest of its kind that ran."""
        places = {name: i for i, name in enumerate(self.subjects)}
        for cell in sorted(cells, key=lambda c: (places[c.name], c.kind, c.tokens)):
            ran = [c for c in self.rate if c.kind == cell.kind and c not in cells]
            if not ran:
                self.left_out.append(f"{cell.name}, {cell.kind}, {cell.tokens} tokens: the time does not allow a call")
                continue
            like = max(ran, key=self._flops)
            times = self._flops(cell) / self._flops(like)
            rate = Figure(tuple(self.rate[like])).median / times
            if cell.kind == TRAINING:
                shown = f"about {rate:.0f} tokens/s"
            else:
                self.latency[cell] = [Figure(tuple(self.latency[like])).median * times]
                shown = f"about {self.latency[cell][0]:.1f} s for a row"
            self.rate[cell] = [rate]
            self.left_out.append(
                f"{cell.name}, {cell.kind}, {cell.tokens} tokens: {shown}, by {like.name}'s speed at {like.tokens}"
                + ("" if (cell.name, cell.kind) in self.unfit else f"; {self.options.minutes:g} minutes do not hold it")
            )
        self.estimated = cells

    # Rows

    def row(self, subject: Subject) -> Row:
        """What is known of a model."""
        name = subject.name
        training = Cell(name, TRAINING, self.options.training_tokens)
        return Row(
            name=name,
            family=subject.config.model_type,
            published=subject.published,
            reference=subject.reference if subject.reference in self.subjects else next(iter(self.subjects)),
            checkpoint=subject.checkpoint.name if subject.checkpoint else "",
            shape=_shape(subject),
            parameters=self.counted[name],
            flops={tokens: flops.forward(subject.config, tokens) for tokens in self.options.lengths},
            sizes=self.sizes[name],
            memory={
                p: figure
                for p in self.options.precisions
                if "memory" in self.options.measures and (figure := self._resident(name, p))
            },
            growth={
                p: Figure(tuple(values))
                for p in self.options.precisions
                if "memory" in self.options.measures and (values := self.growth[name, p])
            },
            latency=self._by_precision(name, self.latency),
            throughput=self._by_precision(name, self.rate),
            training=self._figure(training, self.rate),
            training_memory=self._resident(name, TRAINING),
        )

    def _resident(self, name: str, kind: str) -> Figure | None:
        values = self.resident[name, kind]
        return Figure(tuple(values), estimated=(name, kind) in self.unfit) if values else None

    def _by_precision(self, name: str, figures: Mapping[Cell, list[float]]) -> dict[str, dict[int, Figure]]:
        found = {
            p: {t: f for t in self.options.lengths if (f := self._figure(Cell(name, p, t), figures))}
            for p in self.options.precisions
        }
        return {precision: by_length for precision, by_length in found.items() if by_length}

    def _figure(self, cell: Cell, figures: Mapping[Cell, list[float]]) -> Figure | None:
        values = figures.get(cell)
        return Figure(tuple(values), estimated=cell in self.estimated) if values else None

    # Small things

    def _flops(self, cell: Cell) -> int:
        reckon = flops.train if cell.kind == TRAINING else flops.forward
        return reckon(self.subjects[cell.name].config, cell.tokens)

    def _source(self, subject: Subject) -> dict[str, Any]:
        checkpoint = str(subject.checkpoint.resolve()) if subject.checkpoint else None
        return {"folder": str(self.work / subject.name), "checkpoint": checkpoint}


def _longest(options: Options) -> int:
    """Tokens of the longest row that is run; 0 where none is."""
    run = {"memory": min(options.lengths), "speed": max(options.lengths), TRAINING: options.training_tokens}
    return max((tokens for measure, tokens in run.items() if measure in options.measures), default=0)


def _shape(subject: Subject) -> dict[str, int]:
    config: Any = subject.config
    return {
        "layers": config.num_hidden_layers,
        "hidden": config.hidden_size,
        "intermediate": families.of(config).wide(config),
        "heads": config.num_attention_heads,
        "embedding": getattr(config, "embedding_size", config.hidden_size),
        "vocabulary": config.vocab_size,
    }
