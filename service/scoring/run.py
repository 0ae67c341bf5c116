"""A run of scoring from its beginning or from where it was killed: which parts are missing, and when to stop.

Owns the output folder's layout:
    part-NNNNN.FORMAT       the rows of a part with their answers
    _rejected-NNNNN.jsonl   those without, where there are any: file, row, field, reason, values
    _done/NNNNN.json        that a part is done
    _score.json             the plan
    _SUCCESS                that all are done, and how many rows
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TextIO

from service.inprocess.model import Model
from service.scoring.errors import ScoringError
from service.scoring.part import Done, OnBlock
from service.scoring.plan import Part, Plan, Settings, make
from service.scoring.progress import Progress
from service.scoring.storage import TEMPORARY, Folder, find

PLAN, SUCCESS, DONE = "_score.json", "_SUCCESS", "_done"
OURS = re.compile(rf"{PLAN}|{SUCCESS}|{DONE}|part-\d+\.\w+|_rejected-\d+\.jsonl|{re.escape(TEMPORARY)}.*")
FEWEST = 1000
"""Rows from which on the share of those rejected stops a run; that of fewer counts at its end."""

Score = Callable[[list[Part], OnBlock], Iterator[Done]]


@dataclass(frozen=True)
class Run:
    """A run in its output folder.

    Attributes:
        done: parts that are done, by number.
        finished: whether there is nothing left to do.
    """

    plan: Plan
    folder: Folder
    done: dict[int, Done]
    finished: bool

    @property
    def missing(self) -> list[Part]:
        """Parts to score."""
        return [part for part in self.plan.parts if part.number not in self.done]

    def score(self, score: Score, max_rejected: float, out: TextIO) -> Progress:
        """Score what is missing.

        Args:
            score: scores parts, and yields each when it is done.
            max_rejected: share of the rows.

        Raises:
            ScoringError: more rows than that are rejected, or a file cannot be read or written.
        """
        done = self.done.values()
        progress = Progress(self.plan.rows, sum(d.rows for d in done), sum(d.rejected for d in done), out)

        def on_block(rows: int, rejected: int) -> None:
            progress.add(rows, rejected)
            self._check(progress, max_rejected, FEWEST)

        for _ in score(self.missing, on_block):
            pass
        progress.end()
        self._check(progress, max_rejected, 1)
        if progress.rows + progress.rejected != self.plan.rows:
            raise ScoringError(f"{progress.rows + progress.rejected:,} rows were seen, not {self.plan.rows:,}")
        self.folder.remove({name for name in self.folder.names() if name.startswith(TEMPORARY)})
        counts = {"rows": progress.rows, "rejected": progress.rejected, "parts": len(self.plan.parts)}
        self.folder.write(SUCCESS, json.dumps(counts).encode())
        return progress

    def _check(self, progress: Progress, most: float, fewest: int) -> None:
        seen = progress.rows + progress.rejected
        if seen >= fewest and progress.rejected > most * seen:
            raise ScoringError(
                f"{progress.rejected:,} of {seen:,} rows are rejected, more than --max-rejected {most:g}: "
                f"{self.folder.url}/_rejected-*.jsonl has the reasons of parts that are done"
            )


def begin(settings: Settings, model: Model, folder: Folder, *, overwrite: bool) -> Run:
    """Begin a run, or go on with the one in the folder.

    Raises:
        ScoringError: the folder holds something else, or a run that is meant otherwise; or the input is not what it has
            to be.
    """
    files = find(settings.input)
    there = folder.names()
    foreign = {name for name in there if not OURS.fullmatch(name)}
    if foreign or (there and PLAN not in there):
        name = min(foreign or there)
        raise ScoringError(f"{folder.url} holds {name!r} and is no output of this command: choose another folder")
    if there and overwrite:
        folder.remove(there - {PLAN})
        folder.remove({PLAN})
        there = set()
    if PLAN in there:
        try:
            plan = Plan.from_json(folder.read(PLAN))
        except ValueError as error:
            raise ScoringError(f"{folder.url}/{PLAN} cannot be used ({error}): --overwrite begins anew") from error
        plan.same(settings, files)
    else:
        plan = make(settings, files, model)
        folder.write(PLAN, plan.to_json())
    return Run(plan, folder, dict(_done(folder)), SUCCESS in there)


def _done(folder: Folder) -> Iterable[tuple[int, Done]]:
    for name in folder.names(DONE):
        if not name.startswith(TEMPORARY):
            done = Done(**json.loads(folder.read(f"{DONE}/{name}")))
            yield done.number, done
