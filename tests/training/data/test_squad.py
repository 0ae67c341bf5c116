"""SQuAD in its layouts; an answer must stand where it says, and nothing malformed passes unreported."""

import json
from pathlib import Path
from typing import Any

import datasets
import pytest

from tests.training.samples import PARIS, squad_json, squad_record, write_text
from training.data import Question, Report, read_squad
from training.errors import DataError

EMOJI = "👩‍🚀 Zoë flew. 中文 Zoë slept."
GOOD = squad_record("ok", "where ?", PARIS, "france")


def read(path: Path, text: str) -> tuple[list[Question], Report]:
    report = Report()
    return list(read_squad(write_text(path, text), report)), report


@pytest.mark.parametrize("name", ["a.json", "a.json.gz", "a.json.xz"])
def test_squad_1(tmp_path: Path, name: str) -> None:
    start = EMOJI.rindex("Zoë")
    record = {"id": "1", "question": " Who slept? ", "answers": [{"text": "Zoë", "answer_start": start}] * 3}
    questions, report = read(tmp_path / name, squad_json((EMOJI, [record]), (PARIS, [GOOD])))
    assert questions == [
        Question("1", "Who slept?", EMOJI, (("Zoë", start),) * 3, False),
        Question("ok", "where ?", PARIS, (("france", PARIS.index("france")),), False),
    ]
    assert not report.bad


def test_squad_2(tmp_path: Path) -> None:
    plausible = [{"text": "france", "answer_start": 3}]
    impossible = squad_record("no", "who ?", PARIS, is_impossible=True, plausible_answers=plausible)
    questions, report = read(tmp_path / "a.json", squad_json((PARIS, [GOOD | {"is_impossible": False}, impossible])))
    assert [(q.id, q.is_impossible, len(q.answers)) for q in questions] == [("ok", False, 1), ("no", True, 0)]
    assert not report.bad


def test_squad_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        {"id": "1", "context": PARIS, "question": "q", "answers": {"text": ["paris"], "answer_start": [0]}},
        {"id": "2", "context": PARIS, "question": "q", "answers": {"text": [], "answer_start": []}},
    ]
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: datasets.Dataset.from_list(rows))
    report = Report()
    questions = list(read_squad("hub:rajpurkar/squad_v2#train", report))
    assert [(q.answers, q.is_impossible) for q in questions] == [((("paris", 0),), False), ((), True)]
    assert not report.bad


@pytest.mark.parametrize(
    ("identifier", "expected"),
    [(262, "262"), (0, "0"), (-7, "-7"), (None, "data[0].paragraphs[0].qas[0]"), ("", "data[0].paragraphs[0].qas[0]")],
)
def test_ids_that_are_whole_numbers_or_missing(tmp_path: Path, identifier: Any, expected: str) -> None:
    """COVID-QA's are numbers, and many a file of one's own has none."""
    questions, report = read(tmp_path / "a.json", squad_json((PARIS, [GOOD | {"id": identifier}, GOOD])))
    assert [q.id for q in questions] == [expected, "ok"]
    record = {name: value for name, value in GOOD.items() if name != "id"}
    questions, _ = read(tmp_path / "a.json", squad_json((PARIS, [record, record]), (PARIS, [record])))
    places = ("data[0].paragraphs[0].qas[0]", "data[0].paragraphs[0].qas[1]", "data[0].paragraphs[1].qas[0]")
    assert tuple(q.id for q in questions) == places
    assert not report.bad


def test_a_number_and_its_digits_are_one_id(tmp_path: Path) -> None:
    _, report = read(tmp_path / "a.json", squad_json((PARIS, [GOOD | {"id": 7}, GOOD | {"id": "7"}])))
    assert "a.json#7: the id stands twice" in report.summary()


@pytest.mark.parametrize("answers", [[], {"text": [], "answer_start": []}])
@pytest.mark.parametrize("more", [{}, {"is_impossible": None}, {"is_impossible": True}])
def test_no_answers_are_no_answer_in_every_form(tmp_path: Path, answers: Any, more: dict[str, Any]) -> None:
    record = {"id": "x", "question": "where ?", "answers": answers, **more}
    questions, report = read(tmp_path / "a.json", squad_json((PARIS, [record])))
    assert [(q.answers, q.is_impossible) for q in questions] == [((), True)]
    assert not report.bad
    _, report = read(tmp_path / "a.json", squad_json((PARIS, [record | {"is_impossible": False}])))
    assert "a.json#x: an answerable question without an answer" in report.summary()


def test_hub_columns_of_unlike_length(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"id": "1", "context": PARIS, "question": "q", "answers": {"text": ["paris"], "answer_start": [0, 3]}}]
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: rows)
    report = Report()
    assert not list(read_squad("hub:x#train", report))
    assert "#1: 'answers' is not a list of objects" in report.summary()


@pytest.mark.parametrize(
    ("changes", "place", "reason"),
    [
        ({"id": ["x"]}, "data[0].paragraphs[0].qas[1]", "'id' is not a text or a whole number"),
        ({"id": True}, "data[0].paragraphs[0].qas[1]", "'id' is not a text or a whole number"),
        ({"id": "ok"}, "ok", "the id stands twice"),
        ({"question": " "}, "x", "'question' is empty or not a text"),
        ({"question": "a\ud800"}, "x", "'question' is empty or not a text"),
        ({"answers": None}, "x", "'answers' is not a list of objects"),
        ({"answers": ["france"]}, "x", "'answers' is not a list of objects"),
        ({"answers": [], "is_impossible": False}, "x", "an answerable question without an answer"),
        ({"is_impossible": "false"}, "x", "'is_impossible' is not true or false"),
        ({"answers": [{"text": "france"}]}, "x", "an answer without 'text' or 'answer_start'"),
        ({"answers": [{"text": "", "answer_start": 3}]}, "x", "an answer without 'text' or 'answer_start'"),
        (
            {"answers": [{"text": "france", "answer_start": 3}]},
            "x",
            "an answer is not in its context at answer_start ('france' at 3, it stands at 24)",
        ),
        (
            {"answers": [{"text": "france", "answer_start": 24}, {"text": "Spain", "answer_start": 24}]},
            "x",
            "an answer is not in its context at answer_start ('Spain' at 24, nor anywhere else in it)",
        ),
        (
            {"answers": [{"text": "game", "answer_start": -6}]},  # there, by Python's way of counting
            "x",
            "an answer is not in its context at answer_start ('game' at -6, it stands at",
        ),
        ({"is_impossible": True}, "x", "an unanswerable question with answers"),
    ],
)
def test_bad_questions(tmp_path: Path, changes: dict[str, Any], place: str, reason: str) -> None:
    bad = squad_record("x", "where ?", PARIS, "france") | changes
    text = json.dumps(json.loads(squad_json((PARIS, [GOOD, bad]))))  # surrogates escaped
    questions, report = read(tmp_path / "a.json", text)
    assert [q.id for q in questions] == ["ok"]
    assert f"a.json#{place}: {reason}" in report.summary()
    assert report.bad.total() == 1


def test_a_question_without_answers_and_without_a_word_on_it(tmp_path: Path) -> None:
    record = {"id": "x", "question": "where ?"}
    questions, report = read(tmp_path / "a.json", squad_json((PARIS, [record])))
    assert not questions
    assert "a.json#x: 'answers' is not a list of objects" in report.summary()


@pytest.mark.parametrize(
    ("data", "place", "reason"),
    [
        ([3], "data[0]", "an article without 'paragraphs'"),
        ([{"title": "t"}], "data[0]", "an article without 'paragraphs'"),
        ([{"paragraphs": [3]}], "data[0].paragraphs[0]", "a paragraph without 'context' or 'qas'"),
        ([{"paragraphs": [{"qas": []}]}], "data[0].paragraphs[0]", "a paragraph without 'context' or 'qas'"),
        ([{"paragraphs": [{"context": "c"}]}], "data[0].paragraphs[0]", "a paragraph without 'context' or 'qas'"),
        ([{"paragraphs": [{"context": "c", "qas": [1]}]}], "data[0].paragraphs[0].qas[0]", "a question that is no"),
    ],
)
def test_malformed_articles(tmp_path: Path, data: list[Any], place: str, reason: str) -> None:
    questions, report = read(tmp_path / "a.json", json.dumps({"data": data}))
    assert not questions
    assert f"a.json#{place}: {reason}" in report.summary()


@pytest.mark.parametrize("text", ["[1]", '{"rows": []}', '{"data": {}}', '"text"'])
def test_not_the_official_layout(tmp_path: Path, text: str) -> None:
    with pytest.raises(DataError, match=r"a\.json: no list 'data' at the top"):
        read(tmp_path / "a.json", text)
