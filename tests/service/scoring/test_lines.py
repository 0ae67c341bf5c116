"""Records of text files: where each begins, and what is said of those that cannot be read."""

from __future__ import annotations

import io
from typing import Any

import pytest

from service.scoring import lines
from service.scoring.errors import ScoringError
from service.scoring.lines import Fault, csv_header, csv_records, json_records


def csv_rows(content: bytes, offset: int | None = None, delimiter: str = ",") -> list[Any]:
    file = io.BytesIO(content)
    header, begin = csv_header(file, "f.csv", delimiter)
    return [record.row for record in csv_records(file, header, delimiter, begin if offset is None else offset)]


def test_json_lines_are_objects_and_blank_ones_are_no_rows() -> None:
    records = list(json_records(io.BytesIO(b'{"a": 1}\n\n  \n{"a": "x\xc3\xa9"}')))
    assert [record.row for record in records] == [{"a": 1}, {"a": "xé"}]
    assert [record.offset for record in records] == [0, 13]


def test_json_lines_go_on_from_any_record() -> None:
    content = b'{"a": 1}\n{"a": 2}\n{"a": 3}\n'
    second = list(json_records(io.BytesIO(content)))[1].offset
    assert [record.row for record in json_records(io.BytesIO(content), second)] == [{"a": 2}, {"a": 3}]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"[1, 2]", "it is no JSON object"),
        (b'{"a": ', "it is no JSON: Expecting value: line 2 column 1 (char 7)"),
        (b'{"a": "\xff"}', "it is not UTF-8"),
        (b'{"a": "\\ud83d"}', "it holds half of a surrogate pair"),
        (b'{"a": ' + b"[" * 100_000, "it is no JSON: "),
    ],
)
def test_a_json_line_that_cannot_be_read_is_a_fault_in_its_place(line: bytes, reason: str) -> None:
    first, bad, last = (record.row for record in json_records(io.BytesIO(b'{"a": 1}\n' + line + b'\n{"a": 3}\n')))
    assert (first, last) == ({"a": 1}, {"a": 3})
    assert isinstance(bad, Fault)
    assert bad.reason.startswith(reason)


def test_a_surrogate_pair_is_one_character() -> None:
    (record,) = json_records(io.BytesIO(b'{"a": "\\ud83d\\ude00"}'))
    assert record.row == {"a": "😀"}


def test_a_byte_order_mark_is_no_part_of_a_name() -> None:
    (record,) = json_records(io.BytesIO(b'\xef\xbb\xbf{"a": 1}'))
    assert record.row == {"a": 1}
    assert csv_rows(b"\xef\xbb\xbfa\nx\n") == [{"a": "x"}]


def test_a_line_without_end_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "LONGEST", 16)
    content = b'{"a": 1}\n{"a": "' + b"x" * 50 + b'"}\n{"a": 3}\n'
    first, bad, last = list(json_records(io.BytesIO(content)))
    assert (first.row, last.row) == ({"a": 1}, {"a": 3})
    assert bad.row == Fault("the line is longer than 16 bytes")
    assert content[last.offset :] == b'{"a": 3}\n'


def test_csv_cells_hold_delimiters_quotes_and_lines() -> None:
    content = b'id,text\r\n1,"a, ""b""\nc"\r\n\r\n2,d\r\n'
    assert csv_rows(content) == [{"id": "1", "text": 'a, "b"\nc'}, {"id": "2", "text": "d"}]
    assert csv_rows(b"id\ttext\n1\ta, b\n", delimiter="\t") == [{"id": "1", "text": "a, b"}]


def test_csv_goes_on_from_any_record() -> None:
    content = b'id,text\n1,"a\nb"\n2,c\n3,d\n'
    file = io.BytesIO(content)
    records = list(csv_records(file, ["id", "text"], ",", 8))
    for i, record in enumerate(records):
        assert csv_rows(content, record.offset) == [each.row for each in records[i:]]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"2", "it has 1 cells, and the header 2"),
        (b"2,a,b", "it has 3 cells, and the header 2"),
        (b"2,\xff", "it is not UTF-8"),
        (b'2,"a"b', "it is no CSV: "),
    ],
)
def test_a_csv_row_that_cannot_be_read_is_a_fault_in_its_place(line: bytes, reason: str) -> None:
    first, bad, last = csv_rows(b"id,text\n1,a\n" + line + b"\n3,c\n")
    assert (first, last) == ({"id": "1", "text": "a"}, {"id": "3", "text": "c"})
    assert bad.reason.startswith(reason)


def test_a_quote_that_never_closes_costs_its_own_line_alone() -> None:
    rows = csv_rows(b'id,text\n1,"a\n2,b\n3,c\n')
    assert isinstance(rows[0], Fault)
    assert rows[1:] == [{"id": "2", "text": "b"}, {"id": "3", "text": "c"}]


@pytest.mark.parametrize("content", [b"", b"\n", b"a,a\n", b'"a\n', b"\xff,b\n"])
def test_a_header_that_names_no_columns_is_refused(content: bytes) -> None:
    with pytest.raises(ScoringError, match=r"^f\.csv: "):
        csv_header(io.BytesIO(content), "f.csv", ",")
