"""The golden rows of a bundle, written: which inputs there are, and what each graph makes of them.

The format, and how the service tries them, is `service.repository.golden`'s.
"""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers

from service.drift import describe
from service.engine.processor import cpu_quota, products_overflow
from service.engine.session import OrtEngine
from service.engine.tokenizer import Tokenizer
from service.errors import BertieError, BundleError
from service.repository import bundle as bundles
from service.repository import golden, loading
from service.repository.files import sha256
from service.repository.golden import GOLDEN, Case, Golden
from service.repository.manifest import MANIFEST, TOKENIZER
from training import files, tasks
from training.data import records
from training.errors import TrainingError
from training.evaluate import runner as evaluate
from training.evaluate.engine import run_rows
from training.export import own
from training.tasks import Labelled, Served

logger = logging.getLogger(__name__)

INPUTS = 12
OWN = 4
"""Of these, Bertie's own, which hold capitals, numbers and rare pieces, where the others come from dev data."""
LOOKED_AT = 300
"""Dev examples that inputs are chosen from, spread over all."""
NUMBERS = 3600
"""Most logits of all inputs: 25 kB as JSON. One input has half of what is left at most."""


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """An input, and what it is chosen by: its answer's labels, its tokens, and how many logits it has."""

    body: dict[str, Any]
    case: Case
    labels: tuple[str, ...]
    tokens: int
    numbers: int


def make(
    task: Served,
    tokenizer: Tokenizer,
    graphs: Mapping[str, Path],
    examples: Mapping[str, Sequence[Labelled]],
    vocabulary: Path,
) -> Golden | None:
    """Choose inputs whose answers and lengths differ, and run them on the CPU.

    Args:
        task: as it is served.
        graphs: those of the bundle by precision.
        examples: dev examples by data set, or none.
        vocabulary: the `tokenizer.json` whose pieces make texts.

    Returns:
        None where an input has too many logits, or no graph runs on a CPU.
    """
    engines = dict(_engines(graphs))
    if not engines:
        return None
    kind, engine = tasks.of(task), next(iter(engines.values()))
    every = [kind.asked(example) for dev in examples.values() for example in dev]
    some = [every[i * len(every) // LOOKED_AT] for i in range(LOOKED_AT)] if len(every) > LOOKED_AT else every
    ours = own.examples(task, tokenizers.Tokenizer.from_file(str(vocabulary)))
    chosen: list[Candidate] = []
    for asked, count in ((some, INPUTS - OWN), (ours, OWN if some else INPUTS)):
        chosen += _varied(list(_candidates(task, tokenizer, engine, asked)), count, NUMBERS * count // INPUTS)
    if some:
        logger.info("%s holds texts of %s; `training golden BUNDLE` writes Bertie's own", GOLDEN, ", ".join(examples))
    if not chosen:
        logger.warning("no golden rows: an input has more than %d logits", NUMBERS // 2)
        return None
    expected = {
        arithmetic: tuple(
            golden.expect(task, each.case, golden.run(each.case.rows, tokenizer.pad_id, engine)) for each in chosen
        )
        for arithmetic, engine in engines.items()
    }
    return Golden(tuple(each.body for each in chosen), expected)


def add(folder: Path, paths: Sequence[str] = (), *, layout: Mapping[str, Any] | None = None) -> Golden:
    """Give a bundle golden rows, in the place of those that it had. Nothing else of it changes.

    Args:
        paths: labelled files to take inputs from; without, they are Bertie's own.
        layout: see `evaluate.read`; what it leaves open is as in the bundle's own dev files.

    Raises:
        BertieError: the bundle is broken.
        DataError: a file cannot be read or holds a bad record.
        TrainingError: no golden rows can be made.
    """
    bundle = bundles.load(folder)
    tokenizer, task = loading.open_task(bundle)
    layout = {**bundle.manifest.layout, **(layout or {})}
    examples = {records.name(path): evaluate.read(task, path, layout=layout) for path in paths}
    graphs = {graph.precision: folder / graph.file for graph in bundle.manifest.graphs if not graph.packed}
    made = make(task, tokenizer, graphs, examples, folder / TOKENIZER)
    if made is None:
        raise TrainingError(f"{folder}: no graph of it runs on this machine's CPU, or it has too many labels")
    values = json.loads((folder / MANIFEST).read_bytes())
    if values["files"].pop(GOLDEN, None):  # so the manifest is right at any moment, whatever stops this
        _write(folder / MANIFEST, values)
    with files.written_aside(folder / GOLDEN) as path:
        path.write_text(made.to_json(), encoding="utf-8")
    values["files"][GOLDEN] = sha256(folder / GOLDEN)
    _write(folder / MANIFEST, values)
    return made


def _engines(graphs: Mapping[str, Path]) -> Iterator[tuple[str, OrtEngine]]:
    """Open the graphs by arithmetic: int8 in 8 bits and in 7, where this processor can do both."""
    for precision, path in sorted(graphs.items(), key=lambda item: item[0] != "int8"):
        for seven_bits in (products_overflow(), True) if precision == "int8" else (None,):
            try:
                engine = OrtEngine(
                    path, provider="cpu", precision=precision, workers=cpu_quota(), intra_op_threads=1,
                    seven_bits=seven_bits,
                )  # fmt: skip
            except BundleError as error:  # no kernels on the CPU; or int8 of an earlier version, in 8 bits alone
                logger.warning("no golden rows of the %s graph: %s", precision, error)
                continue
            yield engine.arithmetic, engine


def _candidates(task: Served, tokenizer: Tokenizer, engine: OrtEngine, asked: Sequence[Any]) -> Iterator[Candidate]:
    """Run examples that a client could post: a dev file may hold blank texts, and pieces may make no word."""
    kind = tasks.of(task)
    found = []
    for example in asked:
        body = kind.body(example)
        try:
            found.append((body, golden.encode(task, body)))
        except (BertieError, ValueError):
            continue
    logits = iter(run_rows(engine, [row for _, case in found for row in case.rows], tokenizer.pad_id))
    for body, case in found:
        prediction = task.decode(case.example, case.rows, [next(logits) for _ in case.rows])
        labels, _, tokens = describe(task, case.rows, prediction)
        numbers = sum(task.widths(len(row))[0] * len(task.widths(len(row))) for row in case.rows)
        yield Candidate(body, case, labels, tokens, numbers)


def _varied(candidates: Sequence[Candidate], count: int, room: int) -> list[Candidate]:
    """Choose so many with at most `room` logits: of each label in turn the longest, the shortest, and those between."""
    groups: defaultdict[tuple[str, ...], list[Candidate]] = defaultdict(list)
    for candidate in sorted(candidates, key=lambda candidate: candidate.tokens):
        groups[candidate.labels].append(candidate)
    queues = [_from_both_ends(group, first=number % 2) for number, group in enumerate(groups.values())]
    chosen: list[Candidate] = []
    while queues and len(chosen) < count:
        queue = queues.pop(0)
        while queue and queue[0].numbers > room // 2:
            queue.pop(0)
        if queue:
            chosen.append(queue.pop(0))
            room -= chosen[-1].numbers
            queues.append(queue)
    return chosen


def _from_both_ends(group: Sequence[Candidate], first: int) -> list[Candidate]:
    """Order candidates, sorted by length, so that any beginning of the list is spread over all: ends, middle, ..."""
    ends = [len(group) - 1, 0]
    order = ends[first:] + ends[:first]
    step = len(group)
    while step > 1:
        order += range(step // 2, len(group), step)
        step //= 2
    return [group[i] for i in dict.fromkeys(order)]


def _write(path: Path, values: Mapping[str, Any]) -> None:
    with files.written_aside(path) as aside:
        aside.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
