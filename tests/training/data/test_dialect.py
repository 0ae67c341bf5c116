"""A table is read as it was written, whatever wrote it; what decided is told; and a recipe can say otherwise."""

import csv
import io
import logging
from pathlib import Path
from typing import Any

import pytest

from tests.training.samples import write_text
from training.data import Report, Table, read_table
from training.data import dialect as dialects
from training.data.dialect import CSV, PLAIN, SEMICOLON, TSV
from training.data.records import read_records

ROWS = [
    {"text": 'he said "no"', "label": "a"},
    {"text": '"Yes."', "label": "b"},
    {"text": "one\ttab, and\na line", "label": "a"},
    {"text": "plain; and simple, too", "label": "b"},
    {"text": '"', "label": "a"},
    {"text": '"" and "" again', "label": "b"},
]
"""What is hard to write and to read."""


def written(delimiter: str, rows: list[dict[str, str]] = ROWS, quoting: Any = csv.QUOTE_MINIMAL) -> str:
    """As pandas' `to_csv` writes it, which is this module of Python's."""
    file = io.StringIO()
    writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter, quoting=quoting, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def read(path: str, named: str = "") -> list[dict[str, Any]]:
    report = Report()
    found = [record for _, record in read_records(path, report, named)]
    assert not report.bad, report.summary()
    return found


@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.txt", "A.CSV", "a.tsv.gz", "A.TSV.XZ"])
def test_what_pandas_writes_is_read(tmp_path: Path, name: str, delimiter: str, quoting: Any) -> None:
    path = tmp_path / name
    text = written(delimiter, quoting=quoting)
    if path.suffix == ".XZ":  # the helper knows small letters only
        write_text(tmp_path / "a.xz", text)
        (tmp_path / "a.xz").rename(path)
    else:
        write_text(path, text)
    assert read(str(path)) == ROWS


@pytest.mark.parametrize("row", ROWS)
def test_each_hard_field_alone(tmp_path: Path, row: dict[str, str]) -> None:
    """But for those that GLUE writes in the very same way, which nothing in a file of one line can tell apart."""
    assert read(write_text(tmp_path / "a.tsv", written("\t", [row]))) == [row]


@pytest.mark.parametrize(
    "text", ['he said "no', '"quoted" he said', '"Yes."', '"I see', 'a "b" c', '""', '"', '"Yes, sir."']
)
def test_a_quotation_mark_of_glue_is_text(tmp_path: Path, text: str) -> None:
    path = write_text(tmp_path / "a.tsv", f"sentence\tlabel\nfine, so far\t1\n{text}\t0\nand on\t1\n")
    assert [record["sentence"] for record in read(path)] == ["fine, so far", text, "and on"]


def test_two_open_quotations_are_not_one_field(tmp_path: Path) -> None:
    path = write_text(tmp_path / "a.tsv", 'sentence\tlabel\n"I see\t0\nso\t0\nhe goes"\t1\n')
    assert [record["sentence"] for record in read(path)] == ['"I see', "so", 'he goes"']


@pytest.mark.parametrize("times", [1, 10])
def test_spreadsheets_quote_what_has_a_comma(tmp_path: Path, times: int, caplog: pytest.LogCaptureFixture) -> None:
    path = write_text(tmp_path / "a.txt", "text\tlabel\n" + '"well, good"\ta\nbad\tb\n' * times)
    assert [record["text"] for record in read(path)] == ["well, good", "bad"] * times
    assert len(caplog.records) == (times == 1)  # a warning, where there are but few


@pytest.mark.parametrize("first", ["sep=,", "sep=;", "SEP=;", '"sep=;"', "sep=\t", "sep=|"])
def test_the_line_that_names_the_separator(tmp_path: Path, first: str) -> None:
    delimiter = first.strip('"')[-1]
    path = write_text(tmp_path / "a.csv", f"{first}\r\n{written(delimiter)}")
    assert read(path) == ROWS
    report = Report()
    path = write_text(tmp_path / "b.csv", f"{first}\ntext{delimiter}label\nx\n")
    assert not list(read_records(path, report))
    assert "b.csv:3: too few columns (1 of 2)" in report.summary()


def test_the_reason_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    for text, told in (
        ("text;label\na;b\n", "'semicolon': its first line has 1 semicolon and no comma"),
        ("sep=;\ntext;label\na;b\n", "'semicolon': its first line says 'sep=;'"),
        (written("\t"), "'tsv': its first line has 1 tab and no comma; quotation marks enclose fields: those within"),
        ('text\tlabel\na "b\tc\n', "quotation marks are text: one stands by itself in 'a \"b'"),
    ):
        caplog.clear()
        read(write_text(tmp_path / "a.csv", text))
        assert f"a.csv: read as table.dialect {told}" in caplog.text or told in caplog.text
        assert not [record for record in caplog.records if record.levelno > logging.INFO]
    caplog.clear()
    read(write_text(tmp_path / "a.csv", 'text,label\n"a, b",c\n'))
    assert not caplog.records  # there was nothing to decide


def test_what_may_be_either_is_told_as_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    text = 'text\tlabel\n"Yes."\ta\nso, well\tb\n'
    assert read(write_text(tmp_path / "a.tsv", text))[0]["text"] == '"Yes."'
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "quotation marks are text: none is doubled in the fields that stand in them (1)" in record.message
    assert read(write_text(tmp_path / "a.tsv", text), "tsv")[0]["text"] == "Yes."


def test_a_recipe_names_the_dialect(tmp_path: Path) -> None:
    text = "text,x;label\na,b;c\n"
    path = write_text(tmp_path / "a.csv", text)
    assert read(path, "csv") == [{"text": "a", "x;label": "b;c"}]
    assert read(path, "semicolon") == [{"text,x": "a,b", "label": "c"}]
    table = Table(text="text,x", dialect="semicolon")
    assert [e.example.text for e in read_table(path, table, (), Report())] == ["a,b"]
    path = write_text(tmp_path / "b.tsv", written("\t"))
    assert read(path, "tsv") == ROWS


def test_a_long_file_is_judged_from_its_first_quotation_mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dialects, "SAMPLE", 200)
    before = [{"text": "nothing", "label": "a"}] * 200
    assert read(write_text(tmp_path / "a.tsv", written("\t", before + ROWS * 9))) == before + ROWS * 9


@pytest.mark.parametrize(
    ("text", "own", "expected"),
    [
        ("", CSV, CSV), ("", PLAIN, PLAIN), ("text\n", CSV, CSV), ("text\n", PLAIN, PLAIN), ("a;b,c\n", CSV, CSV),
        ("a;b;c,d\n", CSV, SEMICOLON), ('"a;b;c",d\n', CSV, CSV), ("a,b\n", PLAIN, CSV), ("a\tb\n", CSV, PLAIN),
        ('"a"\t"b"\n', CSV, TSV), ("a\tb;c;d\n", PLAIN, SEMICOLON),
    ],
)  # fmt: skip
def test_headers(text: str, own: dialects.Dialect, expected: dialects.Dialect) -> None:
    assert dialects.find(text.splitlines(keepends=True), own).dialect == expected
