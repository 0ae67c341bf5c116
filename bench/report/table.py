"""A table of text: for the terminal, for a page, and between its markers in a Markdown file.

Knows nothing of what the tables show.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from bench.errors import BenchError


@dataclass(frozen=True, slots=True)
class Table:
    """Text in rows and columns.

    Attributes:
        key: its name in `fill`.
        title: its heading.
        columns: heads of the columns; the first column names the row.
        rows: cells, as many as there are columns.
        note: what must be known to read it.
    """

    key: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""

    def text(self) -> str:
        """Write it for a terminal: the first column to the left, the others to the right."""
        lines = [self.columns, *self.rows]
        widths = [max(len(line[i]) for line in lines) for i in range(len(self.columns))]
        shown = [
            "  ".join(
                f"{cell:<{w}}" if i == 0 else f"{cell:>{w}}"
                for i, (cell, w) in enumerate(zip(line, widths, strict=True))
            )
            for line in lines
        ]
        return "\n".join(
            [self.title, *(f"  {line.rstrip()}" for line in shown), *([f"  {self.note}"] if self.note else [])]
        )

    def markdown(self) -> str:
        """Write it for a Markdown file, without the title."""
        head = [self.columns, ("---", *("---:",) * (len(self.columns) - 1))]
        lines = [f"| {' | '.join(line)} |" for line in (*head, *self.rows)]
        return "\n".join([*lines, *(["", self.note] if self.note else [])])

    def html(self) -> str:
        """Write it for a page, without the title."""
        head = "".join(f'<th scope="col">{escape(column)}</th>' for column in self.columns)
        body = "".join(
            f'<tr><th scope="row">{escape(row[0])}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in row[1:])}</tr>'
            for row in self.rows
        )
        note = f'<p class="small">{escape(self.note)}</p>' if self.note else ""
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{note}"


def fill(path: Path, tables: Sequence[Table], marker: str = "compare") -> list[str]:
    """Put tables between their markers in a Markdown file: `<!-- compare: KEY -->` and `<!-- /compare -->`.

    Return the keys that were filled; what has no marker, and markers whose table is not there, stay as they are.

    Raises:
        BenchError: the file cannot be read, or has no marker for any of the tables.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise BenchError(f"{path}: {error.strerror}") from error
    filled = []
    for table in tables:
        marked = re.compile(rf"(<!-- {marker}: {table.key} -->\n).*?(<!-- /{marker} -->)", re.DOTALL)
        text, count = marked.subn(lambda m, t=table: f"{m[1]}\n{t.markdown()}\n\n{m[2]}", text)  # type: ignore[misc]
        filled += [table.key] * bool(count)
    if not filled:
        raise BenchError(f"{path} has no marker such as <!-- {marker}: {tables[0].key} --> … <!-- /{marker} -->")
    path.write_text(text, encoding="utf-8")
    return filled


def number(value: float) -> str:
    """Write three digits, or as many as there are before the point."""
    return f"{value:.3g}" if abs(value) < 100 else f"{value:,.0f}"
