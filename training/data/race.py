"""RACE (Lai et al. 2017, arXiv 1704.04683): JSON lines of a passage each, the published folder, or a hub's rows."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from service.tasks import MultipleChoiceExample
from training.data.records import HUB, Report, is_text, read_json, read_records
from training.errors import DataError

LEVELS = ("middle", "high")


@dataclass(frozen=True, slots=True)
class ChoiceQuestion:
    """A question with its options and the right one."""

    example: MultipleChoiceExample  # the question, its passage and its options
    answer: int  # index of the right option
    passage: str  # name of the passage, which several questions share
    level: str  # `middle` or `high` school; empty where not known


def read_race(path: str, report: Report) -> Iterator[ChoiceQuestion]:
    """The questions of a file or a folder, in order. Passages' ids may not repeat."""
    seen: dict[str, str] = {}
    flat = path.startswith(HUB)
    for where, record in _passages(path, report):
        passage = record.get("example_id" if flat else "id")
        if not isinstance(passage, str) or not passage:
            report.add(where, "no 'id'")
        elif not flat and passage in seen:
            report.add(where, "the id stands twice", f"{passage!r}, first at {seen[passage]}")
        elif not is_text(record.get("article")):
            report.add(where, "'article' is empty or not a text")
        else:
            seen[passage] = where
            yield from _questions(record, passage, where, report)


def _passages(path: str, report: Report) -> Iterator[tuple[str, Mapping[str, Any]]]:
    folder = Path(path)
    if path.startswith(HUB) or not folder.is_dir():
        yield from read_records(path, report)
        return
    files = sorted(folder.rglob("*.txt"))
    if not files:
        raise DataError(f"{path}: no .txt file in this folder or those in it: this is not RACE as published")
    for file in files:
        where = str(file.relative_to(folder.parent))
        try:
            record = read_json(str(file))
        except DataError as error:
            report.add(where, "not JSON in UTF-8", str(error))
            continue
        if isinstance(record, dict):
            level = next((level for level in LEVELS if level in Path(where).parts), "")
            yield where, {"level": level} | record
        else:
            report.add(where, "not a JSON object")


def _questions(record: Mapping[str, Any], passage: str, where: str, report: Report) -> Iterator[ChoiceQuestion]:
    if isinstance(record.get("question"), str):  # the hub's layout: a row a question
        lists = [[record.get(name)] for name in ("question", "options", "answer")]
    else:
        lists = [value for name in ("questions", "options", "answers") if isinstance(value := record.get(name), list)]
    if len(lists) < 3 or len({len(values) for values in lists}) > 1:
        report.add(where, "'questions', 'options' and 'answers' are not lists of one length")
        return
    level = record.get("level") or next((level for level in LEVELS if passage.startswith(level)), "")
    for number, (question, options, answer) in enumerate(zip(*lists, strict=True), start=1):
        place = f"{where} question {number}"
        if not is_text(question):
            report.add(place, "the question is empty or not a text")
        elif not isinstance(options, list) or len(options) < 2 or not all(is_text(option) for option in options):
            report.add(place, "'options' is not a list of two or more texts")
        elif not isinstance(answer, str) or len(answer) != 1 or not 0 <= ord(answer) - ord("A") < len(options):
            report.add(place, "unknown answer", f"{json.dumps(answer)} of {len(options)} options")
        else:
            texts = tuple(option.strip() for option in options)
            example = MultipleChoiceExample(question.strip(), record["article"].strip(), texts)
            yield ChoiceQuestion(example, ord(answer) - ord("A"), passage, level)
