"""RACE in each of its layouts, and each kind of bad record."""

import json
from pathlib import Path
from typing import Any

import datasets
import pytest

from tests.training.samples import PASSAGES, race_records, write_race, write_text
from training.data import ChoiceQuestion, Report, read_race
from training.errors import DataError


def read(path: str | Path, report: Report | None = None) -> list[ChoiceQuestion]:
    return list(read_race(str(path), report or Report()))


def told(question: ChoiceQuestion) -> tuple[str, str, str, tuple[str, ...], int, str]:
    example = question.example
    return question.passage, question.level, example.question, example.options, question.answer, example.context


EXPECTED = [
    (name, level, question, options, "ABCD".index(answer), article)
    for name, level, article, questions in PASSAGES
    for question, options, answer in questions
]


def publish(folder: Path) -> Path:
    """The official layout: dev/middle/1.txt, dev/high/1.txt, with neither level nor its prefix in the record."""
    for record in race_records():
        level = record.pop("level")
        name = record["id"].removeprefix(level)
        write_text(folder / "dev" / level / name, json.dumps(record | {"id": f"{level[0]}-{name}"}))
    return folder / "dev"


@pytest.mark.parametrize("suffix", ["", ".xz"])
def test_a_passage_a_line(tmp_path: Path, suffix: str) -> None:
    assert [told(q) for q in read(write_race(tmp_path / f"dev.jsonl{suffix}"))] == EXPECTED


def test_the_published_folder(tmp_path: Path) -> None:
    folder = publish(tmp_path)
    found = read(folder)
    assert [told(q)[1:] for q in found] == [each[1:] for each in EXPECTED[2:] + EXPECTED[:2]]  # in their names' order
    assert [told(q)[1:] for q in read(folder / "middle")] == [each[1:] for each in EXPECTED[:2]]


def test_the_hubs_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        {"example_id": name, "article": article, "answer": "ABCD"[answer], "question": question, "options": options}
        for name, _, question, options, answer, article in EXPECTED
    ]
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: datasets.Dataset.from_list(rows))
    assert [told(q) for q in read("hub:ehovy/race:all#validation")] == EXPECTED


def changed(**changes: Any) -> dict[str, Any]:
    return race_records()[0] | {"id": "x"} | changes


@pytest.mark.parametrize(
    ("record", "reason", "left"),
    [
        (changed(id="high1.txt"), "d.jsonl:2: the id stands twice ('high1.txt', first at d.jsonl:1)", 0),
        (changed(id=None), "d.jsonl:2: no 'id'", 0),
        (changed(article=" "), "d.jsonl:2: 'article' is empty or not a text", 0),
        (changed(answers=["B"]), "d.jsonl:2: 'questions', 'options' and 'answers' are not lists of one length", 0),
        (changed(options=None), "d.jsonl:2: 'questions', 'options' and 'answers' are not lists of one length", 0),
        (changed(answers=["B", "E"]), 'd.jsonl:2 question 2: unknown answer ("E" of 4 options)', 1),
        (changed(answers=["B", "b"]), 'd.jsonl:2 question 2: unknown answer ("b" of 4 options)', 1),
        (changed(answers=["B", 1]), "d.jsonl:2 question 2: unknown answer (1 of 4 options)", 1),
        (changed(questions=["", "who ?"]), "d.jsonl:2 question 1: the question is empty or not a text", 1),
        (changed(options=[["a", "b"], ["a"]]), "d.jsonl:2 question 2: 'options' is not a list of two or more texts", 1),
        (changed(options=[["a", "b"], ["a", ""]]), "question 2: 'options' is not a list of two or more texts", 1),
    ],
)
def test_bad_records(tmp_path: Path, record: dict[str, Any], reason: str, left: int) -> None:
    report = Report()
    lines = [race_records()[1], record]
    path = write_text(tmp_path / "d.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    assert len(read(path, report)) == 2 + left
    assert reason in report.summary()
    assert report.bad.total() == 1


def test_bad_files_of_a_folder(tmp_path: Path) -> None:
    folder = publish(tmp_path)
    (folder / "high" / "2.txt").write_bytes(b"\xff{")
    write_text(folder / "high" / "3.txt", "[]")
    report = Report()
    assert len(read(folder, report)) == 4
    assert "dev/high/2.txt: not JSON in UTF-8" in report.summary()
    assert "dev/high/3.txt: not a JSON object" in report.summary()


def test_a_folder_of_something_else(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no \.txt file .* not RACE as published"):
        read(tmp_path)
