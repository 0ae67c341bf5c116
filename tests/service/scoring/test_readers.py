"""Rows of files, in blocks, from any row on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from service.scoring import readers
from service.scoring.errors import ScoringError
from service.scoring.readers import Reader, Start, open_reader
from service.scoring.storage import find

ROWS = [{"id": i, "text": f"row {i}\nof many" if i % 3 else "x"} for i in range(50)]


def opened(path: Path, delimiter: str | None = None) -> Reader:
    (file,) = find(str(path))
    return open_reader(file, delimiter)


def written(folder: Path, kind: str) -> Reader:
    path = folder / f"rows.{kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), path, row_group_size=7)
    elif kind == "jsonl":
        path.write_text("\n".join(map(json.dumps, ROWS)))
    else:
        lines = [f'{row["id"]},"{row["text"]}"' for row in ROWS]
        path.write_text("\n".join(["id,text", *lines]) + "\n")
    return opened(path)


@pytest.mark.parametrize("most", [1, 3, 1024])
@pytest.mark.parametrize("size", [1, 7, 20, 50, 60])
@pytest.mark.parametrize("kind", ["parquet", "jsonl", "csv"])
def test_parts_hold_each_row_once_and_in_order(
    kind: str, size: int, most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "ROWS", most)
    reader = written(tmp_path, kind)
    assert reader.columns() == ["id", "text"]
    starts = list(reader.starts(size))
    assert [start.rows for start in starts] == [min(size, 50 - first) for first in range(0, 50, size)]
    seen: list[Any] = []
    for start in starts:
        for block in reader.blocks(start, ["text", "id"]):
            assert block.first == len(seen)
            assert len(block) <= most
            seen += [(int(row["id"]), row["text"]) for row in block.values(["id", "text"])]
    assert seen == [(row["id"], row["text"]) for row in ROWS]


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "csv"])
def test_long_rows_come_in_blocks_of_few(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "CHARACTERS", 40)
    reader = written(tmp_path, kind)
    sizes = [len(block) for block in reader.blocks(Start(0, 50, 0), None)]
    assert sum(sizes) == 50
    assert max(sizes) < 12


def test_a_file_that_lost_rows_is_told(tmp_path: Path) -> None:
    reader = written(tmp_path, "jsonl")
    with pytest.raises(ScoringError, match="ends at row 50, and had 60 when"):
        list(reader.blocks(Start(0, 60, 0), None))


def test_half_a_parquet_file_is_told(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    written(tmp_path, "parquet")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ScoringError, match=r"rows\.parquet is no whole Parquet file: [^\n]+$"):
        opened(path).columns()


def test_a_name_says_the_format(tmp_path: Path) -> None:
    (tmp_path / "rows.txt").write_text("x")
    with pytest.raises(ScoringError, match=r"ends with none of \.parquet"):
        opened(tmp_path / "rows.txt")
    (tmp_path / "rows.tsv").write_text("a\tb\n1\t2,3\n")
    (block,) = opened(tmp_path / "rows.tsv").blocks(Start(0, 1, 0), None)
    assert block.rows == [{"a": "1", "b": "2,3"}]
    (tmp_path / "rows.csv").write_text("a;b\n1;2\n")
    assert opened(tmp_path / "rows.csv", ";").columns() == ["a", "b"]


def test_types_of_json_columns_are_their_values(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1, "b": null}\n{"a": 2.5, "c": ["x"]}\nno row\n')
    reader = opened(path)
    assert reader.columns() == ["a", "b", "c"]
    assert reader.schema(["a", "b", "c"]).types == [pa.float64(), pa.string(), pa.list_(pa.string())]
    path.write_text('{"a": 1}\n{"a": "x"}\n')
    with pytest.raises(ScoringError, match="column 'a' is of several types"):
        opened(path).schema(["a"])


def test_a_text_of_parquet_that_is_no_text_comes_as_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    bad = pa.array([b"fine", b"\xff", None]).view(pa.string())
    pq.write_table(pa.table({"text": bad}), path)
    (block,) = opened(path).blocks(Start(0, 3, 0), ["text"])
    assert block.values(["text"]) == [{"text": "fine"}, {"text": b"\xff"}, {"text": None}]
    assert block.values([]) == [{}, {}, {}]
