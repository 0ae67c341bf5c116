"""Data of one's own: any columns, one label or several, labels given or read off; and each kind of bad record."""

import json
from pathlib import Path
from typing import Any

import pytest

from service.tasks import ClassificationExample
from tests.training.samples import write_text
from training.data import (
    LabelledText,
    Report,
    ScoredText,
    Table,
    TaggedText,
    labels_of,
    read_scores,
    read_table,
    read_tags,
)
from training.data.names import name_of
from training.errors import DataError

STARS = Table(text="review", label="stars")
CSV = 'id,review,stars\n1,"well, good",5\n2,bad,1\n3,fine,4\n'


def read(path: str, table: Table = STARS, labels: tuple[str, ...] = ()) -> tuple[list[tuple[str, str]], Report]:
    report = Report()
    return [(e.example.text, e.label) for e in read_table(path, table, labels, report)], report


def tags(path: str, table: Table, labels: tuple[str, ...] = ()) -> tuple[list[set[str]], Report]:
    report = Report()
    return [set(e.labels) for e in read_tags(path, table, labels, report)], report


@pytest.mark.parametrize("name", ["a.csv", "a.csv.xz", "a.tsv", "a.jsonl"])
def test_each_kind_of_file(tmp_path: Path, name: str) -> None:
    rows = [("1", "well, good", "5"), ("2", "bad", "1"), ("3", "fine", "4")]
    text = {
        "csv": CSV,
        "tsv": "\n".join("\t".join(row) for row in [("id", "review", "stars"), *rows]) + "\n",
        "jsonl": "".join(json.dumps({"id": i, "review": r, "stars": int(s)}) + "\n" for i, r, s in rows),
    }[name.split(".")[1]]
    found, report = read(write_text(tmp_path / name, text))
    assert found == [("well, good", "5"), ("bad", "1"), ("fine", "4")]
    assert not report.bad


def test_pairs(tmp_path: Path) -> None:
    path = write_text(tmp_path / "a.csv", "q1,q2,label\nhow old ?,what age ?,same\n")
    [found] = read_table(path, Table(text="q1", text_pair="q2"), (), Report())
    assert found == LabelledText(ClassificationExample("how old ?", "what age ?"), "same")


@pytest.mark.parametrize(
    ("given", "expected"),
    [("1", "good"), ("good", "good"), ("0", "bad"), (1, "good"), (1.0, "good"), ("1.0", "good")],
)
def test_an_index_where_the_recipe_says_so(tmp_path: Path, given: Any, expected: str) -> None:
    path = write_text(tmp_path / "a.jsonl", json.dumps({"review": "x", "stars": given}) + "\n")
    indices = Table(text="review", label="stars", numbers="index")
    assert read(path, indices, labels=("bad", "good"))[0] == [("x", expected)]
    if given != "good":
        found, report = read(path, labels=("bad", "good"))
        assert not found
        assert 'numbers its labels from 0 in this order, say table.numbers = "index"' in report.summary()


def test_an_index_beyond_the_labels(tmp_path: Path) -> None:
    indices = Table(text="review", label="stars", numbers="index")
    found, report = read(write_text(tmp_path / "a.csv", "review,stars\na,2\nb,-1\n"), indices, labels=("bad", "good"))
    assert not found
    assert report.bad == {"unknown label": 2}


STAR_FILES = {
    "a.csv": "review,stars\na,1.0\nb,5.0\nc,3.0\n",  # pandas, where a cell of the column was empty
    "b.csv": "review,stars\na,1\nb,5\nc,3\n",
    "a.tsv": "review\tstars\na\t1.0\nb\t5\nc\t3.00\n",
    "a.jsonl": '{"review": "a", "stars": 1}\n{"review": "b", "stars": 5.0}\n{"review": "c", "stars": "3"}\n',
    "a.json": '[{"review": "a", "stars": "1.0"}, {"review": "b", "stars": 5}, {"review": "c", "stars": 3.0}]',
}


@pytest.mark.parametrize("labels", [(), ("1", "2", "3", "4", "5"), ("1.0", "2.0", "3.0", "4.0", "5.0")])
@pytest.mark.parametrize("name", STAR_FILES)
def test_a_number_is_a_label_by_its_value_in_every_file(tmp_path: Path, name: str, labels: tuple[str, ...]) -> None:
    """Under the name that the labels have for it; 1 is the first star here, and not the label at 1."""
    found, report = read(write_text(tmp_path / name, STAR_FILES[name]), labels=labels)
    spelt = labels or ("1", "2", "3", "4", "5")
    assert found == [("a", spelt[0]), ("b", spelt[4]), ("c", spelt[2])]
    assert not report.bad


def test_an_empty_cell_among_numbers_is_no_label(tmp_path: Path) -> None:
    found, report = read(write_text(tmp_path / "a.csv", "review,stars\na,1.0\nb,\n"))
    assert found == [("a", "1")]
    assert "a.csv:3: no label" in report.summary()
    found, report = read(write_text(tmp_path / "a.jsonl", '{"review": "a", "stars": NaN}\n'))
    assert not found
    assert "a.jsonl:1: no label" in report.summary()


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("-1", "-1"), ("-1.0", "-1"), (-1, "-1"), ("+1", "1"), ("-0.0", "0"), ("0.50", "0.5"), (0.5, "0.5"),
        (".5", "0.5"),
        (-2.25, "-2.25"), (1e16, "10000000000000000"), ("1e-05", "0.00001"), (0.00001, "0.00001"), (True, "true"),
        ("007", "007"), ("5E1", "5E1"), ("1e5", "1e5"), ("1.", "1."), ("1,000", "1,000"), ("nan", "nan"), ("٣", "٣"),
        (" 2.0 ", "2"), (float("nan"), ""), (float("inf"), ""), (None, ""), ([1], ""),
    ],
)  # fmt: skip
def test_names_of_cells(cell: Any, expected: str) -> None:
    assert name_of(cell) == expected
    assert name_of(expected) == expected


def test_labels_that_are_numbers_are_names(tmp_path: Path) -> None:
    """Or a review of 1 star would be taken for the second label."""
    found, report = read(write_text(tmp_path / "a.csv", "review,stars\na,1\nb,0\n"), labels=("1", "2", "3"))
    assert found == [("a", "1")]
    assert "a.csv:3: unknown label ('0'; there are 1, 2, 3)" in report.summary()


@pytest.mark.parametrize("values", [[True, False], ["true", "false"]])
def test_truth_values_are_labels(tmp_path: Path, values: list[Any]) -> None:
    lines = "".join(json.dumps({"review": "x", "stars": value}) + "\n" for value in values)
    assert [label for _, label in read(write_text(tmp_path / "a.jsonl", lines))[0]] == ["true", "false"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("4,good,", "a.csv:5: no label ('stars' is '')"),
        ("4,good,6", "a.csv:5: unknown label ('6'; there are 1, 4, 5)"),
        ("4, ,5", "a.csv:5: 'review' is empty or not a text"),
        ("2,good,5", "a.csv:5: the id stands twice ('2', first at a.csv:3)"),
    ],
)
def test_bad_records(tmp_path: Path, line: str, reason: str) -> None:
    found, report = read(write_text(tmp_path / "a.csv", f"{CSV}{line}\n"), labels=("1", "4", "5"))
    assert len(found) == 3
    assert reason in report.summary()
    assert report.bad.total() == 1


@pytest.mark.parametrize("label", [None, [], ["5"], {}])
def test_no_label_in_json(tmp_path: Path, label: Any) -> None:
    found, report = read(write_text(tmp_path / "a.jsonl", json.dumps({"review": "x", "stars": label}) + "\n"))
    assert not found
    assert "a.jsonl:1: no label ('stars' is " in report.summary()


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        (Table(text="reviw", label="stars"), "no column 'reviw' (did you mean 'review'?)"),
        (Table(text="review", label="zzz"), "no column 'zzz' (there are id, review, stars)"),
        (Table(text="review", text_pair="other", label="stars"), "no column 'other'"),
    ],
)
def test_columns_that_are_not_there(tmp_path: Path, table: Table, reason: str) -> None:
    found, report = read(write_text(tmp_path / "a.csv", CSV), table)
    assert not found
    assert f"a.csv:2: {reason}" in report.summary()


def test_a_column_of_ids_can_be_given_up(tmp_path: Path) -> None:
    path = write_text(tmp_path / "a.csv", "id,review,stars\n7,a,1\n7,b,2\n")
    assert len(read(path)[0]) == 1
    assert len(read(path, Table(text="review", label="stars", id=""))[0]) == 2


def test_several_labels(tmp_path: Path) -> None:
    table = Table(label="tags", separator="|")
    path = write_text(tmp_path / "a.csv", "text,tags\nx,a|b\ny,\nz, b | b \n")
    assert tags(path, table)[0] == [{"a", "b"}, set(), {"b"}]
    lines = [{"text": "x", "tags": ["a", "b"]}, {"text": "y", "tags": []}, {"text": "z", "tags": [1]}]
    path = write_text(tmp_path / "a.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    found, report = tags(path, Table(label="tags", numbers="index"), ("a", "b"))
    assert found == [{"a", "b"}, set(), {"b"}]
    assert not report.bad
    found, report = tags(path, table, ("a", "b"))
    assert found == [{"a", "b"}, set()]
    assert report.bad == {"unknown label": 1}


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        (None, "no label ('tags' is None)"),
        ([{"a": 1}], "no label"),
        (["a", "c"], "unknown label ('c'; there are a, b)"),
        ("a,c", "unknown label ('c'"),
    ],
)
def test_bad_labels_of_several(tmp_path: Path, cell: Any, reason: str) -> None:
    path = write_text(tmp_path / "a.jsonl", json.dumps({"text": "x", "tags": cell}) + "\n")
    found, report = tags(path, Table(label="tags"), ("a", "b"))
    assert not found
    assert f"a.jsonl:1: {reason}" in report.summary()


def labelled(*labels: str) -> list[LabelledText]:
    return [LabelledText(ClassificationExample("x"), label) for label in labels]


def test_labels_of_the_data_come_in_one_order() -> None:
    assert labels_of(labelled("b", "a", "C", "a")) == ("C", "a", "b")
    assert labels_of(labelled("10", "9", "0")) == ("0", "9", "10")
    assert labels_of(labelled("10", "9", "x")) == ("10", "9", "x")
    assert labels_of(labelled("1", "-1", "0", "-10", "0.5", "-0.25")) == ("-10", "-1", "-0.25", "0", "0.5", "1")
    assert labels_of([TaggedText(ClassificationExample("x"), frozenset(each)) for each in ("ba", "", "c")]) == tuple(
        "abc"
    )


def test_labels_that_make_no_sense() -> None:
    with pytest.raises(DataError, match=r"has 1 labels \(a\)"):
        labels_of(labelled("a", "a"))
    with pytest.raises(DataError, match=r"1001 different labels: is table\.label the column of labels"):
        labels_of(labelled(*map(str, range(1001))))


@pytest.mark.parametrize(
    ("cell", "number"),
    [(1, 1.0), (2.5, 2.5), ("2.50", 2.5), (" -1e-3 ", -0.001), (True, 1.0), ("FALSE", 0.0), ("007", 7.0)],
)
def test_a_score_is_a_number(tmp_path: Path, cell: Any, number: float) -> None:
    path = write_text(tmp_path / "a.jsonl", json.dumps({"review": "x", "stars": cell}) + "\n")
    assert list(read_scores(path, STARS, Report())) == [ScoredText(ClassificationExample("x"), number, "a.jsonl:1")]


@pytest.mark.parametrize(
    ("cell", "told"),
    [
        ("good", "1 x not a number"), ("3,5", "1 x not a number"), ("nan", "1 x not a number"),
        ("inf", "1 x not a number"), ([1], "1 x not a number"), (None, "1 x no label"), ("", "1 x no label"),
    ],
)  # fmt: skip
def test_what_is_no_score_is_told(tmp_path: Path, cell: Any, told: str) -> None:
    path = write_text(tmp_path / "a.jsonl", json.dumps({"review": "x", "stars": cell}) + "\n")
    report = Report()
    assert list(read_scores(path, STARS, report)) == []
    assert told in report.summary()


def test_the_columns_of_sts_b(tmp_path: Path) -> None:
    """As GLUE has them: tabs, and quotation marks that are text."""
    header = "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore\n"
    row = '0\tmain\tMSRvid\t2012\t1\tnone\tnone\tA plane is "taking off.\tAn air plane is taking off.\t5.000\n'
    path = write_text(tmp_path / "dev.tsv", header + row)
    table = Table(text="sentence1", text_pair="sentence2", label="score")
    [found] = read_scores(path, table, Report())
    assert found.example == ClassificationExample('A plane is "taking off.', "An air plane is taking off.")
    assert found.score == 5.0
