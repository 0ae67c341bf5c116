"""Parts scored: rows read, answered and written, block by block, while the next ones are read and tokenised.

A part is done when the record of it is in the output folder, and it gets there last: until then the part is scored
again, into files of the same names. So each row is in the output once, however often a run was killed.
"""

from __future__ import annotations

import contextlib
import json
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from typing import Any, TypeVar

from service.errors import BertieError, InvalidInput
from service.inprocess.model import Model
from service.scoring.answers import Layout
from service.scoring.fields import Fields
from service.scoring.lines import Fault
from service.scoring.plan import Part, Plan, answers_of
from service.scoring.readers import Block
from service.scoring.storage import Folder

SHOWN = 200
"""Characters of a rejected row's values that are kept."""
A = TypeVar("A")
B = TypeVar("B")
OnBlock = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Done:
    """A part that is done.

    Attributes:
        number: the part's.
        rows: that are answered.
        rejected: rows that are not.
    """

    number: int
    rows: int
    rejected: int


@dataclass(frozen=True, slots=True, eq=False)
class Answered:
    """A block with its answers.

    Attributes:
        places: of the rows that have one.
        answers: the predictions of those.
        faults: of the others, by their place.
    """

    block: Block
    places: list[int]
    answers: list[Any]
    faults: dict[int, Fault]


class Scorer:
    """A model that scores parts of a plan into a folder."""

    def __init__(self, plan: Plan, model: Model, folder: Folder) -> None:
        """Raises ScoringError: the model does not take the plan's columns."""
        self._plan, self._folder = plan, folder
        # Blocks are many, and a last one may be small: no second session for one batch alone.
        self._model = replace(model, low_latency=False)
        self._fields: Fields = plan.fields(model)
        self._layout: Layout = answers_of(self._fields)

    def score(self, parts: Iterable[Part], on_block: OnBlock = lambda rows, rejected: None) -> Iterator[Done]:
        """Score parts, in order; each is done when it is yielded.

        Args:
            on_block: told of every block: rows answered and rejected.

        Raises:
            ScoringError: a file cannot be read or written, or has changed.
        """
        blocks = ((part, block) for part in parts for block in self._blocks(part))
        threads = 2 + self._model.cores // 8  # one makes rows of text while the engine runs another's
        with contextlib.closing(ahead(lambda each: (each[0], self._answer(each[1])), blocks, threads)) as answered:
            for part, group in groupby(answered, key=lambda each: each[0]):
                yield self._write(part, (each for _, each in group), on_block)

    def _blocks(self, part: Part) -> Iterator[Block]:
        columns = list(dict.fromkeys((*self._fields.columns.values(), *self._plan.kept)))
        return self._plan.reader(part).blocks(part.start, columns)

    def _answer(self, block: Block) -> Answered:
        faults, places, examples = dict(block.faults), [], []
        for place, row in enumerate(block.values(list(self._fields.columns.values()))):
            if place in faults:
                continue
            try:
                examples.append(self._fields.example(row, most_characters=self._plan.settings.max_characters))
                places.append(place)
            except InvalidInput as error:
                faults[place] = Fault(error.detail, error.field)
        answers = self._model.predict_each(self._fields.task, examples)
        for place, answer in zip(places, answers, strict=True):
            if isinstance(answer, BertieError):
                faults[place] = Fault(answer.detail, answer.field)
        good = [(place, answer) for place, answer in zip(places, answers, strict=True) if place not in faults]
        return Answered(block, [place for place, _ in good], [answer for _, answer in good], faults)

    def _write(self, part: Part, group: Iterable[Answered], on_block: OnBlock) -> Done:
        rejected: list[str] = []
        rows = 0
        file = self._plan.files[part.file]
        with self._folder.new(f"part-{part.name}.{self._plan.format}") as path:
            with self._plan.writer(path, self._layout) as writer:
                for each in group:
                    faults = dict(each.faults)
                    for place in each.places:
                        if reason := writer.unfit(each.block, place):
                            faults[place] = Fault(reason)
                    good = [
                        (place, self._layout.values(answer))
                        for place, answer in zip(each.places, each.answers, strict=True)
                        if place not in faults
                    ]
                    if good:
                        writer.write(each.block, [place for place, _ in good], [answer for _, answer in good])
                    rejected += self._rejections(file.url, each.block, faults)
                    rows += len(good)
                    on_block(len(good), len(faults))
            file.check()
        if rejected:
            self._folder.write(f"_rejected-{part.name}.jsonl", "".join(rejected).encode())
        done = Done(part.number, rows, len(rejected))
        self._folder.write(f"_done/{part.name}.json", json.dumps(asdict(done)).encode())
        return done

    def _rejections(self, url: str, block: Block, faults: dict[int, Fault]) -> Iterator[str]:
        """Write rows that have no answer as lines of JSON: where they are, why, and how they begin."""
        values = block.values(list(self._fields.columns.values())) if faults else []
        for place, fault in sorted(faults.items()):
            shown = {name: repr(value)[:SHOWN] for name, value in values[place].items()}
            row = {
                "file": url,
                "row": block.first + place,
                "field": fault.field,
                "reason": fault.reason,
                "values": shown,
            }
            yield json.dumps(row) + "\n"


def ahead(run: Callable[[A], B], items: Iterable[A], threads: int) -> Generator[B]:
    """Run a function on each item, in order, on so many threads; one more item is read ahead."""
    waiting: deque[Future[B]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="bertie-score") as pool:
        try:
            for item in items:
                waiting.append(pool.submit(run, item))
                if len(waiting) > threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
