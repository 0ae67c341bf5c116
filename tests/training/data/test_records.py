"""Bytes to records: every compression, every kind of broken file, and an account that loses nothing."""

import gzip
import hashlib
import json
import lzma
from pathlib import Path
from typing import Any

import datasets
import pytest

from tests.training.samples import write_text
from training.data.records import SHOWN, Report, is_text, open_text, read_json, read_records, sha256
from training.errors import DataError

TSV = 'sentence\tlabel\nhe said "no\t0\n"quoted"\t1\n\ta lone tab before\t1\n'
TEXT = "sentence\tlabel\n" + "".join(f"sentence number {i} of many\t{i % 2}\n" for i in range(500))


def records(path: str, report: Report | None = None) -> list[tuple[str, dict[str, Any]]]:
    return list(read_records(path, report or Report()))


@pytest.mark.parametrize("suffix", ["", ".gz", ".xz"])
def test_compressions(tmp_path: Path, suffix: str) -> None:
    path = write_text(tmp_path / f"a.tsv{suffix}", TSV)
    report = Report()
    assert records(path, report) == [
        (f"a.tsv{suffix}:2", {"sentence": 'he said "no', "label": "0"}),
        (f"a.tsv{suffix}:3", {"sentence": '"quoted"', "label": "1"}),
    ]
    assert f"a.tsv{suffix}:4: too many columns" in report.summary()
    assert read_json(write_text(tmp_path / f"a.json{suffix}", '{"é": [1]}')) == {"é": [1]}


@pytest.mark.parametrize("name", ["a.tsv", "a.txt", "a.txt.gz", "a.tsv.xz"])
def test_suffixes_of_tables(tmp_path: Path, name: str) -> None:
    assert records(write_text(tmp_path / name, "a\tb\n1\t2\n")) == [(f"{name}:2", {"a": "1", "b": "2"})]


def test_jsonl_lines_and_their_numbers(tmp_path: Path) -> None:
    report = Report()
    path = write_text(tmp_path / "a.jsonl", '{"a": "x\u2028y"}\r\n\n{"a": \n[1]\n"text"\n{"a": 2}\n')
    assert records(path, report) == [("a.jsonl:1", {"a": "x\u2028y"}), ("a.jsonl:6", {"a": 2})]
    assert report.bad == {"not JSON": 1, "not a JSON object": 2}
    assert "a.jsonl:3: not JSON (" in report.summary()
    assert "a.jsonl:4: not a JSON object" in report.summary()


def test_rows_of_other_widths(tmp_path: Path) -> None:
    """What stands beyond the header's columns is told: a tab in a text moves all that follows it."""
    report = Report()
    path = write_text(tmp_path / "a.tsv", "a\tb\n1\n1\t2\t\t\n1\t2\t3\n")
    assert records(path, report) == [("a.tsv:3", {"a": "1", "b": "2"})]
    assert "a.tsv:2: too few columns (1 of 2)" in report.summary()
    assert "a.tsv:4: too many columns (3 of 2: is there a tab in a text?)" in report.summary()


@pytest.mark.parametrize("fault", ["9" * 5000, "[" * 100_000], ids=["digits", "depth"])
def test_json_that_python_will_not_read(tmp_path: Path, fault: str) -> None:
    report = Report()
    assert records(write_text(tmp_path / "a.jsonl", f'{{"a": 1}}\n{fault}\n'), report) == [("a.jsonl:1", {"a": 1})]
    assert "a.jsonl:2: not JSON (" in report.summary()
    with pytest.raises(DataError, match=r"a\.json: "):
        read_json(write_text(tmp_path / "a.json", fault))


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "A.JSON", "a.json.gz"])
@pytest.mark.parametrize("indent", [None, 2])
def test_a_json_list(tmp_path: Path, name: str, indent: int | None) -> None:
    """One record a line, or all of them in a list, on one line or on many."""
    path = write_text(tmp_path / name, "\n " + json.dumps([{"a": 1}, 3, {"a": 2}], indent=indent))
    report = Report()
    assert records(path, report) == [(f"{name}[0]", {"a": 1}), (f"{name}[2]", {"a": 2})]
    assert f"{name}[1]: not a JSON object" in report.summary()
    assert report.bad.total() == 1


@pytest.mark.parametrize("text", ['[\n{"a": 1},\n{"a": 2},\n', '[{"a": 1}]\n[{"a": 2}]\n', "[" * 100_000])
def test_a_broken_json_list_is_told_once(tmp_path: Path, text: str) -> None:
    with pytest.raises(DataError, match=r"a\.json: .*\(it begins with \[, so all of it is read as one list\)"):
        records(write_text(tmp_path / "a.json", text))


def test_one_json_object_over_many_lines_is_told_once(tmp_path: Path) -> None:
    text = json.dumps({"version": 1, "data": [{"a": 1}, {"a": 2}]}, indent=1)
    with pytest.raises(DataError, match=r"a\.json: one JSON object \(of 'version', 'data'\) over many lines; "):
        records(write_text(tmp_path / "a.json", text))
    report = Report()
    assert records(write_text(tmp_path / "a.json", '{"a":\n{"a": 2}\n'), report) == [("a.json:2", {"a": 2})]
    assert "a.json:1: not JSON (" in report.summary()


def test_an_empty_file_has_no_records(tmp_path: Path) -> None:
    assert records(write_text(tmp_path / "a.tsv", "")) == []
    assert records(write_text(tmp_path / "a.jsonl", "")) == []


def broken(kind: str) -> tuple[str, bytes]:
    xz, gz = lzma.compress(TEXT.encode()), bytearray(gzip.compress(TEXT.encode()))
    match kind:
        case "truncated xz":
            return ".xz", xz[: len(xz) // 2]
        case "truncated gz":
            return ".gz", bytes(gz[: len(gz) // 2])
        case "corrupt xz":
            return ".xz", xz[:40] + bytes(40) + xz[80:]
        case "corrupt gz":
            gz[20:40] = b"\xff" * 20
            return ".gz", bytes(gz)
        case "no xz":
            return ".xz", TEXT.encode()
        case _:
            return ".gz", TEXT.encode()


@pytest.mark.parametrize("kind", ["truncated xz", "truncated gz", "corrupt xz", "corrupt gz", "no xz", "no gz"])
def test_broken_files_are_named(tmp_path: Path, kind: str) -> None:
    suffix, content = broken(kind)
    for name in (f"a.tsv{suffix}", f"a.jsonl{suffix}"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=name.replace(".", r"\.")):
            records(str(tmp_path / name))
    (tmp_path / f"a.json{suffix}").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.json"):
        read_json(str(tmp_path / f"a.json{suffix}"))


@pytest.mark.parametrize("suffix", ["", ".gz", ".xz"])
def test_absent_files_are_named(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(DataError, match=r"absent.*No such file"):
        open_text(str(tmp_path / f"absent.tsv{suffix}"))
    with pytest.raises(DataError, match=r"absent.*No such file"):
        records(str(tmp_path / f"absent.tsv{suffix}"))


MIXED = (
    b'text,label\nfine,1\ncaf\xe9 noir,1\n"two\nlines",0\n',  # Latin-1 in the middle
    b"text,label\nfine,1\ncaf\xc3\xa9,1\nna\x95ve,0\n",  # and Windows-1252
)


@pytest.mark.parametrize(
    ("content", "line", "fault"), [(MIXED[0], 3, "byte 0xe9 after 'caf'"), (MIXED[1], 4, "byte 0x95 after 'na'")]
)
def test_mixed_encodings_are_told_with_their_lines(tmp_path: Path, content: bytes, line: int, fault: str) -> None:
    for name, changed in (("a.csv", content), ("a.tsv", content.replace(b",", b"\t").replace(b'"two\nlines"', b"two"))):
        (tmp_path / name).write_bytes(changed)
        report = Report()
        assert len(records(str(tmp_path / name), report)) == 2
        assert f"{name}:{line}: not UTF-8 ({fault}" in report.summary()
        assert report.bad.total() == 1
    lines = b'{"a": "fine"}\n{"a": "caf\xe9"}\n{"a": "caf\xc3\xa9"}\n'
    (tmp_path / "a.jsonl").write_bytes(lines)
    report = Report()
    assert records(str(tmp_path / "a.jsonl"), report) == [("a.jsonl:1", {"a": "fine"}), ("a.jsonl:3", {"a": "café"})]
    assert "a.jsonl:2: not UTF-8 (byte 0xe9 after" in report.summary()
    (tmp_path / "a.json").write_bytes(b'{"a":\n"caf\xe9"}')
    with pytest.raises(DataError, match=r"a\.json:2: not UTF-8 \(byte 0xe9"):
        read_json(str(tmp_path / "a.json"))


def test_another_encoding_altogether(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes("text,label\nfine,1\n".encode("utf-16"))
    with pytest.raises(DataError, match=r"a\.csv:1: not UTF-8 \(byte 0xff"):
        records(str(tmp_path / "a.csv"))


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    for name, text in (("a.csv", "text\nfine\n"), ("a.jsonl", '{"text": "fine"}\n')):
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + text.encode())
        assert [record for _, record in records(str(tmp_path / name))] == [{"text": "fine"}]


def test_csv_quotes(tmp_path: Path) -> None:
    path = write_text(tmp_path / "a.csv.gz", 'text,label\r\n"one, ""two""\nthree",x\r\n\r\nfour,y\r\n')
    assert records(path) == [
        ("a.csv.gz:3", {"text": 'one, "two"\nthree', "label": "x"}),
        ("a.csv.gz:5", {"text": "four", "label": "y"}),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("text,text\na,b\n", r"a\.csv:1: two columns are called 'text'"),
        ('text,label\n"open,x\nmore,y\n', r"a\.csv:3: unexpected end of data"),
        ('text,label\n"a"b,x\n', r"a\.csv:2: ',' expected after"),
    ],
)
def test_broken_csv_is_told_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        records(write_text(tmp_path / "a.csv", text))


def test_csv_rows_of_other_widths(tmp_path: Path) -> None:
    report = Report()
    path = write_text(tmp_path / "a.csv", "text,label\nwell, then,x\nalone\nfine,y\n")
    assert records(path, report) == [("a.csv:4", {"text": "fine", "label": "y"})]
    assert "a.csv:2: too many columns (3 of 2: is a comma not quoted?)" in report.summary()
    assert "a.csv:3: too few columns (1 of 2)" in report.summary()


def test_not_json(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.json: Expecting value"):
        read_json(write_text(tmp_path / "a.json", "[1, "))


def test_report_counts_all_and_shows_the_first() -> None:
    report = Report()
    for i in range(SHOWN + 5):
        report.add(f"f:{i}", "no label" if i % 2 else "unknown label", "why")
    report.skip("pairs without a consensus label")
    text = report.summary()
    assert f"{SHOWN + 5} bad records: 13 x unknown label, 12 x no label" in text
    assert "set aside: 1 pairs without a consensus label" in text
    assert f"f:{SHOWN - 1}: " in text
    assert f"f:{SHOWN}: " not in text
    assert "... and 5 more" in text


def test_a_fault_of_a_whole_file_is_shown_once() -> None:
    report = Report()
    for file in ("a.csv", "b.csv"):
        for line in range(2, 40):
            report.add(f"{file}:{line}", "no column 'text'", "there are a, b", once=True)
    assert report.summary().splitlines() == [
        "76 bad records: 76 x no column 'text'",
        "  a.csv:2: no column 'text' (there are a, b)",
        "  b.csv:2: no column 'text' (there are a, b)",
        "  ... and 74 more",
    ]


def test_report_fails_unless_allowed() -> None:
    report = Report()
    report.skip("left out by convention")
    report.check(allow_bad=False)
    report.add("f:1", "no label")
    report.check(allow_bad=True)
    with pytest.raises(DataError, match=r"f:1: no label(.|\n)*--allow-bad-data"):
        report.check(allow_bad=False)


def test_an_empty_report_says_nothing() -> None:
    assert Report().summary() == ""


@pytest.mark.parametrize(
    ("value", "expected"),
    [("a", True), ("👩‍🚀", True), ("", False), (" \n", False), (None, False), (3, False), ("a\ud800", False)],
)
def test_is_text(value: object, expected: bool) -> None:
    assert is_text(value) is expected


def test_sha256(tmp_path: Path) -> None:
    path = write_text(tmp_path / "a.tsv.gz", TSV)
    assert sha256(path) == hashlib.sha256(Path(path).read_bytes()).hexdigest()
    assert sha256("hub:name#train") is None


def test_sha256_of_a_folder_hangs_on_names_and_contents(tmp_path: Path) -> None:
    for name, text in (("a/1.txt", "x"), ("a/2.txt", "y"), ("b/1.txt", "x"), ("b/2.txt", "y"), ("c/1.txt", "y")):
        write_text(tmp_path / name, text)
    a, b, c = (sha256(str(tmp_path / name)) for name in "abc")
    assert a == b != c
    (tmp_path / "b" / "2.txt").rename(tmp_path / "b" / "3.txt")
    assert sha256(str(tmp_path / "b")) != a


@pytest.mark.parametrize(
    ("path", "called"),
    [
        ("hub:nyu-mll/glue:sst2#validation", ("nyu-mll/glue", "sst2", "validation")),
        ("hub:imdb#test", ("imdb", None, "test")),
        ("hub:imdb", ("imdb", None, "train")),
    ],
)
def test_hub(monkeypatch: pytest.MonkeyPatch, path: str, called: tuple[str, str | None, str]) -> None:
    calls = []

    def load_dataset(name: str, config: str | None, *, split: str) -> datasets.Dataset:
        calls.append((name, config, split))
        return datasets.Dataset.from_list([{"sentence": "good", "label": 1}, {"sentence": "bad", "label": 0}])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert records(path) == [
        (f"{path}[0]", {"sentence": "good", "label": 1}),
        (f"{path}[1]", {"sentence": "bad", "label": 0}),
    ]
    assert calls == [called]


def test_hub_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(*_: object, **__: object) -> None:
        raise ConnectionError("no route")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(DataError, match="hub:x#train: ConnectionError: no route"):
        records("hub:x#train")
