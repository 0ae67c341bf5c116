"""Tables for the terminal and for Markdown, and files filled with them."""

import dataclasses
from pathlib import Path

import pytest

from bench.compare import tables
from bench.compare.results import Comparison
from bench.errors import BenchError
from bench.report.figure import Figure
from bench.report.table import Table, fill, number


def test_every_table_is_square_and_names_the_rows(tiny_comparison: Comparison) -> None:
    made = tables.of(tiny_comparison)
    assert [table.key for table in made] == [
        "parameters", "grid", "flops", "files", "weights", "memory", "speed", "int8", "training",
    ]  # fmt: skip
    for table in made:
        assert all(len(row) == len(table.columns) for row in table.rows)
        assert len(table.rows) == {"grid": 8, "speed": 18, "int8": 9}.get(table.key, 3)


def test_ratios_name_their_reference(tiny_comparison: Comparison) -> None:
    flops = tables.operations(tiny_comparison)
    assert [row[-1] for row in flops.rows][:2] == ["1", "1.01 bert-base"]  # the projection shows in so small a model


def test_files_and_memory_over_the_unique_weights(tiny_comparison: Comparison) -> None:
    row = tiny_comparison.rows[0]
    total = row.parameters.total
    row = dataclasses.replace(
        row,
        sizes={"checkpoint": Figure((1.0,)), "fp32": Figure((4.2 * total,)), "int8": Figure((1.5 * total,), True)},
        growth={"int8": Figure((1.0 * total, 2.0 * total, 9.0 * total))},
    )
    table = tables.weights(dataclasses.replace(tiny_comparison, rows=(row,)))
    assert table.columns == ("× unique weights", "graph, fp32", "graph, int8", "RSS growth, int8")
    assert table.rows == ((row.name, "1.050", "≈ 1.500", "2.000"),)


def test_int8_over_fp32_by_rounds(tiny_comparison: Comparison) -> None:
    row = dataclasses.replace(
        tiny_comparison.rows[0],
        flops={8: 1, 16: 2},
        latency={"fp32": {8: Figure((4.0, 8.0))}, "int8": {8: Figure((2.0, 2.0)), 16: Figure((3.0,))}},
        throughput={"fp32": {8: Figure((10.0, 10.0))}, "int8": {8: Figure((20.0, 30.0))}},
    )
    table = tables.gains(dataclasses.replace(tiny_comparison, rows=(row,)))
    assert table.rows == ((row.name, "8", "0.38", "2.50"),), "16 tokens were not run in fp32"


def test_without_measurements_there_are_no_empty_tables(tiny_comparison: Comparison) -> None:
    rows = tuple(
        dataclasses.replace(row, sizes={}, memory={}, latency={}, throughput={}, training=None, training_memory=None)
        for row in tiny_comparison.rows
    )
    made = tables.of(dataclasses.replace(tiny_comparison, rows=rows))
    assert [table.key for table in made] == ["parameters", "grid", "flops"]


def test_estimates_are_marked(tiny_comparison: Comparison) -> None:
    row = dataclasses.replace(tiny_comparison.rows[0], training=Figure((1234.5,), estimated=True))
    table = tables.training(dataclasses.replace(tiny_comparison, rows=(row,)))
    assert table.rows[0][1] == "≈ 1,234"
    assert "≈ is worked out, not run." in table.note
    row = dataclasses.replace(row, memory={"int8": Figure((1.5e8,), estimated=True)})
    table = tables.memory(dataclasses.replace(tiny_comparison, rows=(row,)))
    assert table.rows[0][1] == "≈ 150"
    assert "≈ is worked out, not run." in table.note


def test_text_is_aligned() -> None:
    table = Table("k", "Title", ("name", "x"), (("a", "1"), ("longer", "10")), "note")
    assert table.text() == "Title\n  name     x\n  a        1\n  longer  10\n  note"


def test_fill_replaces_what_was_between_the_markers(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text(
        "# A\n<!-- compare: k -->\nold\n<!-- /compare -->\nB\n<!-- compare: other -->\nkept\n<!-- /compare -->\n"
    )
    table = Table("k", "Title", ("name", "x \\ y"), (("a", "1"),))
    expected = (
        "# A\n<!-- compare: k -->\n\n| name | x \\ y |\n| --- | ---: |\n| a | 1 |\n\n<!-- /compare -->\nB\n"
        "<!-- compare: other -->\nkept\n<!-- /compare -->\n"
    )
    for _ in range(2):  # filling again changes nothing
        assert fill(path, [table]) == ["k"]
        assert path.read_text() == expected


def test_fill_says_what_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text("no markers\n")
    table = Table("k", "Title", ("name",), ())
    with pytest.raises(BenchError, match="has no marker such as <!-- compare: k -->"):
        fill(path, [table])
    with pytest.raises(BenchError, match="No such file"):
        fill(tmp_path / "absent.md", [table])


@pytest.mark.parametrize(
    ("value", "shown"), [(0.01234, "0.0123"), (9.876, "9.88"), (99.96, "100"), (12345.6, "12,346")]
)
def test_number(value: float, shown: str) -> None:
    assert number(value) == shown
